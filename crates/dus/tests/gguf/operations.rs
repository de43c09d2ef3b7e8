//! `scale`, `zero` and `noise` on the tensors of a GGUF file, and casts: done exactly, or refused.

use testkit::gguf::decode::values;
use testkit::gguf::tiny::{assert_same, expected};
use testkit::gguf::{Kind, RawGguf, TinyGguf, Value};

use crate::place::{LAYERS, PLAN, Place};

/// A tensor of each kind that an operation meets, and the layers of the plan that are new.
const O_PROJ: &str = "attn_output.weight";
const NEW: [usize; 2] = [3, 4];

/// Builds `dus(1)` with an operation on `o_proj` of the new layers, and checks by the testkit's decoder
/// that these values change by `change` and everything else is the source's.
#[track_caller]
fn check(model: &TinyGguf, op: &str, change: impl Fn(f32) -> f32) {
    let place = Place::with(model);
    let built = place.build_by(&format!("dus(1){{new o_proj: {op}}}"), &[]);
    let mut expected = expected(&model.read().tensors, &LAYERS);
    let mut found = place.built().tensors;
    let mut computed = 0;
    for layer in NEW {
        let name = format!("blk.{layer}.{O_PROJ}");
        let (source, tensor) = (expected.remove(&name).unwrap(), found.remove(&name).unwrap());
        assert_eq!((source.kind, &source.shape), (tensor.kind, &tensor.shape));
        computed += tensor.bytes.len();
        let changed: Vec<f32> = values(&source).into_iter().map(&change).collect();
        assert_eq!(values(&tensor), changed, "{name} of {} by {op}", model.kind);
    }
    assert_same(&found, &expected);
    assert_eq!(built["computed_bytes"], computed);
    place.verified(&["out.gguf"]);
}

#[test]
fn blocks_are_scaled_by_powers_of_two() {
    for kind in ["Q8_0", "Q4_0"] {
        for factor in ["0.5", "2", "-1", "-0.25"] {
            let by: f32 = factor.parse().unwrap();
            check(&TinyGguf::of(kind), &format!("scale {factor}"), |value| value * by);
        }
    }
}

/// Blocks with two levels of scales: only the outer ones change, and of these only exponent and sign.
#[test]
fn blocks_of_k_quants_are_scaled_by_their_outer_scales() {
    let halves: [(&str, &[usize]); 5] = [
        ("Q4_K", &[0, 2]),
        ("Q5_K", &[0, 2]),
        ("Q6_K", &[208]),
        ("Q2_K", &[80, 82]),
        ("Q3_K", &[108]),
    ];
    for (kind, scales) in halves {
        let model = TinyGguf::of(kind);
        let place = Place::with(&model);
        for (factor, exponent, sign) in [("0.5", -1, 0), ("4", 2, 0), ("-1", 0, 0x8000)] {
            place.build_by(&format!("0..4{{o_proj: scale {factor}}}"), &[]);
            let mut expected = model.read().tensors;
            for layer in 0..4 {
                let tensor = expected.get_mut(&format!("blk.{layer}.{O_PROJ}")).unwrap();
                for block in tensor.bytes.chunks_exact_mut(Kind::of(kind).bytes) {
                    for &at in scales {
                        let half = u16::from_le_bytes([block[at], block[at + 1]]);
                        let half = (half ^ sign).wrapping_add_signed(exponent * 0x400);
                        block[at..at + 2].copy_from_slice(&half.to_le_bytes());
                    }
                }
            }
            assert_same(&place.built().tensors, &expected);
            place.verified(&["out.gguf"]);
        }
    }
}

/// Scales multiply to a power of two, or do not.
#[test]
fn scales_that_are_powers_of_two_together() {
    let place = Place::with(&TinyGguf::of("Q8_0"));
    let plan = "0..2{o_proj: scale 0.3}{self_attn.*: scale 0.5} + 2..4";
    place.refused(&["base.gguf", "--layers", plan, "-o", "out.gguf"], &[]);
    place.build_by("0..4{down_proj: scale 0.125, mlp.down_proj: scale 8}", &[]);
    place.check_built(&TinyGguf::of("Q8_0").read(), &[0, 1, 2, 3]);
}

#[test]
fn other_factors_are_refused_by_tensor_and_type() {
    for kind in ["Q8_0", "Q4_K", "Q4_0", "IQ2_XXS"] {
        let place = Place::with(&TinyGguf::of(kind));
        for factor in ["0.3", "3", "-0.75", "1e-320"] {
            let plan = format!("dus(1){{new o_proj: scale {factor}}}");
            let args = ["base.gguf", "--layers", &plan, "-o", "out.gguf"];
            place.refused(&args, &["self_attn.o_proj.weight", kind, "powers of two"]);
        }
    }
    // Scales without a sign.
    for kind in ["MXFP4", "NVFP4"] {
        let place = Place::with(&TinyGguf::of(kind));
        let args = ["base.gguf", "--layers", "dus(1){new o_proj: scale -1}", "-o", "out.gguf"];
        place.refused(&args, &["self_attn.o_proj.weight", kind]);
        place.build_by("dus(1){new o_proj: scale 0.5}", &[]);
        place.verified(&["out.gguf"]);
    }
}

/// Gives some blocks of layer 1's `o_proj` the scale `half`, whose bits are those of an F16.
fn with_scales(half: u16, blocks: &[usize]) -> RawGguf {
    let mut file = TinyGguf::of("Q8_0").file();
    let tensor = file.tensor("blk.1.attn_output.weight");
    for block in blocks {
        tensor.bytes[block * 34..][..2].copy_from_slice(&half.to_le_bytes());
    }
    file
}

/// Only the weights show it: the plan cannot know, and the build leaves nothing.
#[test]
fn blocks_that_cannot_be_scaled_exactly() {
    // 2^-24, the least F16; the largest; infinity; NaN.
    for (half, factor) in [
        (0x0001, "0.5"),
        (0x0003, "0.5"),
        (0x7bff, "2"),
        (0x8401, "0.25"),
        (0x7c00, "2"),
        (0x7e00, "0.5"),
    ] {
        for (blocks, count) in [(&[0][..], "1 of them"), (&[3, 77, 2047], "3 of them")] {
            let place = Place::empty();
            with_scales(half, blocks).write(&place.path("base.gguf"));
            let plan = format!("0..3 + 1..4{{o_proj: scale {factor}}}");
            let args = ["base.gguf", "--layers", &plan, "-o", "out.gguf"];
            let expected = ["exactly", count, "model.layers.3.self_attn.o_proj.weight"];
            place.refused_by("build", &args, &expected);
            place.dus(&[&["plan"], &args[..]].concat()).done();
        }
    }
    // An even one is halved, and a subnormal one that stays whole.
    for half in [0x0002, 0x0400, 0x0000, 0x8000] {
        let place = Place::empty();
        with_scales(half, &[0, 5]).write(&place.path("base.gguf"));
        place.build_by("0..3 + 1..4{o_proj: scale 0.5}", &[]);
        place.verified(&["out.gguf"]);
    }
}

/// All bytes of a zeroed block are zero, which every type decodes to zeros.
#[test]
fn blocks_are_zeroed() {
    for kind in ["Q8_0", "Q4_0"] {
        check(&TinyGguf::of(kind), "zero", |_| 0.0);
    }
    for kind in ["Q4_K", "Q6_K", "IQ1_M", "MXFP4", "TQ1_0"] {
        let model = TinyGguf::of(kind);
        let place = Place::with(&model);
        place.build_by("dus(1){new o_proj: zero, new down_proj: zero}", &[]);
        let found = place.built().tensors;
        for layer in NEW {
            for name in ["attn_output", "ffn_down"] {
                let tensor = &found[&format!("blk.{layer}.{name}.weight")];
                assert!(tensor.bytes.iter().all(|&byte| byte == 0), "{name} of {kind}");
            }
        }
        place.verified(&["out.gguf"]);
    }
}

/// LLaMA Pro's plan preserves the function also where blocks are quantised.
#[test]
fn zeroed_copies_preserve_the_function() {
    let place = Place::with(&TinyGguf::default());
    let plan = "insert(0..n, every=2, copy{o_proj: zero, down_proj: zero})";
    let args = ["plan", "base.gguf", "--layers", plan, "--json"];
    assert_eq!(place.dus(&args).done().json()["function_preserving"], true);
    let args = ["plan", "base.gguf", "--layers", PLAN, "--json"];
    assert_eq!(place.dus(&args).done().json()["function_preserving"], false);
}

#[test]
fn noise_on_blocks_is_refused() {
    for op in ["noise 0.1", "noise 0.1 seed=3"] {
        let place = Place::with(&TinyGguf::default());
        let plan = format!("dus(1){{new o_proj: {op}}}");
        let args = ["base.gguf", "--layers", &plan, "-o", "out.gguf"];
        place.refused(&args, &["noise", "self_attn.o_proj.weight", "Q4_K"]);
    }
}

#[test]
fn casts_of_blocks_are_refused() {
    let place = Place::with(&TinyGguf::default());
    for dtype in ["float16", "bfloat16", "float32", "q8_0"] {
        let args = ["base.gguf", "--layers", PLAN, "--dtype", dtype, "-o", "out.gguf"];
        place.refused(&args, &["cannot be cast", "Q4_K", dtype]);
    }
}

/// Plain numbers can have any operation, as in a folder.
#[test]
fn plain_numbers_have_every_operation() {
    for kind in ["F32", "F16"] {
        check(&TinyGguf::of(kind), "scale 0.5", |value| value * 0.5);
        check(&TinyGguf::of(kind), "zero", |_| 0.0);
    }
    check(&TinyGguf::of("F32"), "scale 0.3", |value| value * 0.3);

    for kind in ["F32", "F16", "BF16"] {
        let model = TinyGguf::of(kind);
        let place = Place::with(&model);
        place.build_by("dus(1){new down_proj: noise 0.1}", &[]);
        let (base, built) = (model.read().tensors, place.built().tensors);
        let noisy = &built["blk.3.ffn_down.weight"];
        assert_ne!(noisy.bytes, base["blk.1.ffn_down.weight"].bytes);
        assert_eq!(noisy.kind.name, kind);
        if kind == "F32" {
            let [before, after] = [&base["blk.1.ffn_down.weight"], noisy].map(values);
            let squares: f32 = before.iter().map(|value| value * value).sum();
            let differences = before.iter().zip(&after).map(|(a, b)| (a - b) * (a - b));
            let relative = (differences.sum::<f32>() / squares).sqrt();
            assert!((relative - 0.1).abs() < 0.005, "{relative}");
        }
        let other = expected(&base, &LAYERS);
        assert!(built["blk.1.ffn_down.weight"].is_same(&other["blk.1.ffn_down.weight"]));
        place.verified(&["out.gguf"]);
    }
}

/// Norms are F32 in every file, whatever its matrices are.
#[test]
fn norms_beside_blocks_have_every_operation() {
    let model = TinyGguf::default();
    let place = Place::with(&model);
    place.build_by("0..4{input_layernorm: scale 0.3, post_attention_layernorm: noise 0.1}", &[]);
    let (base, built) = (model.read().tensors, place.built().tensors);
    let name = "blk.2.attn_norm.weight";
    let scaled: Vec<f32> = values(&base[name]).into_iter().map(|value| value * 0.3).collect();
    assert_eq!(values(&built[name]), scaled);
    assert_ne!(built["blk.2.ffn_norm.weight"].bytes, base["blk.2.ffn_norm.weight"].bytes);
    place.verified(&["out.gguf"]);
}

/// Casts of plain numbers: matrices become what is asked for, norms stay F32.
#[test]
fn plain_numbers_are_cast() {
    let place = Place::with(&TinyGguf::of("F32"));
    for (dtype, kind) in [("float16", "F16"), ("bfloat16", "BF16"), ("q8_0", "Q8_0")] {
        place.build(&["--dtype", dtype]);
        let built = place.built().tensors;
        assert_eq!(built["blk.5.ffn_down.weight"].kind.name, kind);
        assert_eq!(built["blk.5.ffn_norm.weight"].kind.name, "F32");
        place.verified(&["out.gguf"]);
    }
}

/// Integers are no weights.
#[test]
fn integers_are_not_scaled() {
    let place = Place::empty();
    let mut file = TinyGguf::of("F16").file();
    let tensor = file.tensor("blk.1.ffn_down.weight");
    (tensor.type_id, tensor.bytes) = (Kind::of("I16").id, tensor.bytes.clone());
    file.set("general.note", Value::text("not a model that anyone has"));
    file.write(&place.path("base.gguf"));
    place.build(&[]);
    place.verified(&["out.gguf"]);
    let plan = "0..4{down_proj: scale 0.5}";
    let args = ["base.gguf", "--layers", plan, "-o", "out2.gguf"];
    place.refused(&args, &["down_proj"]);
}
