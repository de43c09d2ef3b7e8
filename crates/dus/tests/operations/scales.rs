//! `scale` and `zero`: which tensors they touch, and what they write.

use serde_json::json;
use testkit::{Dtype, Family, Tensor, TinyModel, splice};

use crate::bases;
use crate::numbers::{scaled, tensor, zeroed};
use crate::workshop::{LAYERS, Workshop};

/// What becomes of a tensor, by its new layer and its name in it.
type Rule = fn(usize, &str) -> Option<f32>;

/// Builds `plan` from `model`; `rule` tells the factor of each tensor that changes, 0 for zeros.
#[track_caller]
fn check(model: &TinyModel, plan: &str, layers: &[usize], rule: Rule) {
    let workshop = Workshop::with(model);
    check_in(&workshop, &model.tensors(), model.family.prefix(), plan, layers, rule);
}

#[track_caller]
fn check_in(
    workshop: &Workshop,
    source: &[(String, Tensor)],
    prefix: &str,
    plan: &str,
    layers: &[usize],
    rule: Rule,
) {
    let source = source.iter().cloned().collect();
    let mut expected = splice::expected(&source, layers, prefix);
    let mut computed = 0;
    for (name, tensor) in &mut expected {
        let Some(rest) = name.strip_prefix(&format!("{prefix}.")) else { continue };
        let (layer, rest) = rest.split_once('.').unwrap();
        if let Some(factor) = rule(layer.parse().unwrap(), rest) {
            *tensor = if factor == 0.0 { zeroed(tensor) } else { scaled(tensor, factor) };
            computed += tensor.bytes.len();
        }
    }
    for flags in [&[][..], &["--shard-layout", "source", "--max-shard-size", "3KB"]] {
        let summary = workshop.build(&[&["base", "--layers", plan], flags].concat());
        splice::assert_same(&workshop.built(), &expected);
        assert_eq!(summary["computed_bytes"], computed, "{summary}");
        workshop.verified(&["out"]);
    }
}

fn is_o_proj(name: &str) -> bool {
    name.starts_with("self_attn.o_proj.")
}

#[test]
fn a_scale_multiplies_what_its_pattern_matches() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let model = TinyModel { dtype, num_shards: Some(2), ..TinyModel::default() };
        check(&model, "0..4{o_proj: scale 0.5}", &[0, 1, 2, 3], |_, name| {
            is_o_proj(name).then_some(0.5)
        });
        // 0.1 is no f32: it is rounded to one before it multiplies.
        check(&model, "0..2{mlp.*: scale 0.1} + 1..4", &[0, 1, 1, 2, 3], |layer, name| {
            (layer < 2 && name.starts_with("mlp.")).then_some(0.1)
        });
        check(&model, "3{*: scale -3e-3}", &[3], |_, _| Some(-3e-3));
    }
}

#[test]
fn a_scale_of_one_changes_nothing() {
    check(
        &TinyModel::default(),
        "0..4{*: scale 1, *: scale 2, *: scale 0.5}",
        &[0, 1, 2, 3],
        |_, _| None,
    );
}

#[test]
fn several_operations_multiply() {
    let plan = "0..4{o_proj: scale 0.5, self_attn.*: scale 3, *.*.weight: scale 0.7}";
    check(&TinyModel::default(), plan, &[0, 1, 2, 3], |_, name| match name {
        name if is_o_proj(name) => Some((0.5 * 3.0 * 0.7_f64) as f32),
        name if name.starts_with("self_attn.") => Some((3.0 * 0.7_f64) as f32),
        name if name.starts_with("mlp.") => Some(0.7),
        _ => None,
    });
    // Those of an outer segment come on top of the inner one's.
    check(
        &TinyModel::default(),
        "(0..2{o_proj: scale 0.5} + 2..4){o_proj: scale 0.5}",
        &[0, 1, 2, 3],
        |layer, name| is_o_proj(name).then_some(if layer < 2 { 0.25 } else { 0.5 }),
    );
}

#[test]
fn zero_wins() {
    for ops in [
        "o_proj: zero, o_proj: scale 2",
        "o_proj: scale 2, o_proj: zero",
        "o_proj: zero, o_proj: noise 0.5",
        "*.*.*: zero, self_attn.q_proj: scale 1",
    ] {
        let plan = format!("0..3 + (1..4){{{ops}}}");
        let rule: Rule = if ops.starts_with('*') {
            |layer, name| (layer >= 3 && name.matches('.').count() == 2).then_some(0.0)
        } else {
            |layer, name| (layer >= 3 && is_o_proj(name)).then_some(0.0)
        };
        check(&TinyModel::default(), &plan, &LAYERS, rule);
    }
}

/// In each repetition, new is what has stood before: `*` repeats first.
#[test]
fn new_is_decided_on_the_finished_plan() {
    check(&TinyModel::default(), "dus(1){new o_proj: scale 0.5}", &LAYERS, |layer, name| {
        ((3..5).contains(&layer) && is_o_proj(name)).then_some(0.5)
    });
    let twice = [LAYERS, LAYERS].concat();
    check(&TinyModel::default(), "dus(1){new o_proj: scale 0.5}*2", &twice, |layer, name| {
        ((3..5).contains(&layer) || layer >= 6).then_some(0.5).filter(|_| is_o_proj(name))
    });
    let mixed = "dus(1){new o_proj: scale 0.5, o_proj: scale 3, new mlp.down_proj: zero}";
    check(&TinyModel::default(), mixed, &LAYERS, |layer, name| match (layer, name) {
        (3 | 4, "mlp.down_proj.weight") => Some(0.0),
        (3 | 4, name) if is_o_proj(name) => Some(1.5),
        (_, name) if is_o_proj(name) => Some(3.0),
        _ => None,
    });
}

/// A module's bias is scaled and zeroed with it.
#[test]
fn biases_are_included() {
    let qwen = TinyModel::of(Family::Qwen2);
    check(&qwen, "0..4{q_proj: scale 2, v_proj: zero}", &[0, 1, 2, 3], |_, name| {
        let module = name.strip_prefix("self_attn.")?.split('.').next()?;
        [("q_proj", 2.0), ("v_proj", 0.0)].iter().find(|(it, _)| *it == module).map(|it| it.1)
    });
    check(&qwen, "0..4{q_proj.bias: zero}", &[0, 1, 2, 3], |_, name| {
        (name == "self_attn.q_proj.bias").then_some(0.0)
    });
    check(&TinyModel::of(Family::Gpt2), "dus(1){new c_proj: zero}", &LAYERS, |layer, name| {
        ((3..5).contains(&layer) && name.contains(".c_proj.")).then_some(0.0)
    });

    // A Llama with `attention_bias`, of which one layer lacks its bias.
    let model = TinyModel {
        extra_config: vec![("attention_bias", true.into())],
        ..TinyModel::of(Family::Llama)
    };
    let mut tensors = model.tensors();
    for layer in [0, 1, 3] {
        let name = format!("model.layers.{layer}.self_attn.o_proj.bias");
        let bias = Tensor::random(&name, Dtype::BF16, &[model.hidden_size], 1.0);
        tensors.push((name, bias));
    }
    let workshop = Workshop::new();
    bases::write(&workshop.path("base"), &model.config().into(), &tensors);
    let plan = "0..3 + (1..4){o_proj: zero}";
    check_in(&workshop, &tensors, "model.layers", plan, &LAYERS, |layer, name| {
        (layer >= 3 && is_o_proj(name)).then_some(0.0)
    });
}

/// A model of an unknown family with one tensor a layer, all of them `tensor`.
fn uniform(tensor: &Tensor) -> (Workshop, Vec<(String, Tensor)>) {
    let workshop = Workshop::new();
    let named = |layer| (format!("model.layers.{layer}.mlp.weight"), tensor.clone());
    let tensors: Vec<_> = (0..4).map(named).collect();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    bases::write(&workshop.path("base"), &config, &tensors);
    (workshop, tensors)
}

/// Zero is +0.0 where the source has NaN, infinities or −0.0 too.
#[test]
fn zero_writes_true_zeros() {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0, f32::MAX, -1e-40, 3.0];
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let (workshop, tensors) = uniform(&tensor(dtype, &[2, 4], &odd));
        check_in(
            &workshop,
            &tensors,
            "model.layers",
            "0..4{mlp: zero}*2",
            &[0, 1, 2, 3, 0, 1, 2, 3],
            |_, _| Some(0.0),
        );
        // As well where it is cast on the way.
        workshop.build(&["base", "--layers", "3{mlp: zero}", "--dtype", "float16"]);
        for tensor in workshop.built().values() {
            assert_eq!(*tensor, Tensor::new(Dtype::F16, &[2, 4], [0; 16]));
        }
    }
}

/// Every pattern of 16 bits, scaled: rounding, subnormals, infinities, and −0.0.
#[test]
fn every_number_is_rounded_to_the_nearest() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let is_number = |bits: &u16| match dtype {
            Dtype::BF16 => !half::bf16::from_bits(*bits).is_nan(),
            _ => !half::f16::from_bits(*bits).is_nan(),
        };
        let patterns: Vec<u16> = (0..=u16::MAX).filter(is_number).collect();
        let bytes: Vec<u8> = patterns.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let (workshop, tensors) = uniform(&Tensor::new(dtype, &[patterns.len()], bytes));
        check_in(&workshop, &tensors, "model.layers", "0..4{mlp: scale 0.37}", &[0, 1, 2, 3], {
            |_, _| Some(0.37)
        });
    }
}

/// Several blocks of a megabyte, on any number of threads.
#[test]
fn long_tensors_are_scaled_to_their_ends() {
    for dtype in [Dtype::BF16, Dtype::F32] {
        let long = Tensor::random("long", dtype, &[3, 300_007], 0.0);
        let (workshop, tensors) = uniform(&long);
        check_in(&workshop, &tensors, "model.layers", "0..4{mlp: scale -1.7}", &[0, 1, 2, 3], {
            |_, _| Some(-1.7)
        });
    }
}

/// A finite number that a scale makes infinite is an overflow, like that of a cast.
#[test]
fn a_scale_that_overflows_is_refused() {
    let (workshop, tensors) = uniform(&tensor(Dtype::F16, &[4], &[1.0, -2.0, f32::INFINITY, 0.0]));
    let args = ["base", "--layers", "0..3 + 3{mlp: scale 5e4}"];
    workshop.refused(&args, &["1 value"], false);
    let summary = workshop.build(&[&args[..], &["--allow-overflow"]].concat());
    assert_eq!(summary["cast"]["overflowed"], 1);
    let last = &workshop.built()["model.layers.3.mlp.weight"];
    assert_eq!(*last, scaled(&tensors[3].1, 5e4));
    assert!(crate::numbers::numbers(last)[1] == f32::NEG_INFINITY);
    workshop.verified(&["out"]);
}
