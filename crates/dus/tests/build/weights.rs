//! Every new tensor is its source, byte for byte, whatever the family, the files and the way.

use std::collections::BTreeMap;

use serde_json::json;
use testkit::tensor::Random;
use testkit::{ConfigForm, Dtype, Family, Tensor, TinyModel, splice};

use crate::workshop::{LAYERS, Workshop};
use crate::{bases, form};

/// Flags that change how bytes move and where they go, and the most bytes that a shard may have.
const WAYS: [(&[&str], u64); 7] = [
    (&[], 5_000_000_000),
    (&["--copy", "kernel", "--max-shard-size", "4KB"], 4_000),
    (&["--copy", "stream", "--max-shard-size", "10000"], 10_000),
    (&["--copy", "auto", "--max-shard-size", "100"], 100),
    (&["--shard-layout", "source"], 5_000_000_000),
    (&["--shard-layout", "source", "--copy", "stream", "--max-shard-size", "4KiB"], 4_096),
    (&["--shard-layout", "source", "--copy", "kernel", "--max-shard-size", "100"], 100),
];

/// Builds the base in each way by the plan [`PLAN`], and compares all tensors with `source`'s.
#[track_caller]
fn check(workshop: &Workshop, source: &[(String, Tensor)], prefix: &str) {
    let source = source.iter().cloned().collect();
    let expected = splice::expected(&source, &LAYERS, prefix);
    let bytes: usize = expected.values().map(|tensor| tensor.bytes.len()).sum();
    for (flags, max_shard_bytes) in WAYS {
        let summary = workshop.build_base(flags);
        splice::assert_same(&workshop.built(), &expected);
        let shards = form::check(&workshop.path("out"), &expected, max_shard_bytes);

        let number = |key: &str| summary[key].as_u64().unwrap();
        assert_eq!(number("num_tensors"), expected.len() as u64);
        assert_eq!(number("num_shards"), shards.len() as u64);
        assert_eq!(number("num_hidden_layers"), 6);
        assert_eq!(number("bytes"), bytes as u64);
        let moved = ["shared_bytes", "kernel_bytes", "streamed_bytes", "computed_bytes"];
        assert_eq!(moved.iter().map(|key| number(key)).sum::<u64>(), bytes as u64, "{summary}");
        assert_eq!(number("computed_bytes"), 0);
        if flags.contains(&"stream") {
            assert_eq!(number("streamed_bytes"), bytes as u64, "{summary}");
        }
    }
    let verdict = workshop.verified(&["out"]);
    assert_eq!(verdict["num_tensors"], expected.len());
    assert_eq!(verdict["bytes"], bytes);
}

#[track_caller]
fn check_model(model: &TinyModel) {
    check(&Workshop::with(model), &model.tensors(), model.family.prefix());
}

/// Checks a model of a family that no table knows.
#[track_caller]
fn check_unknown(tensors: &[(String, Tensor)]) {
    let workshop = Workshop::new();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    bases::write(&workshop.path("base"), &config, tensors);
    check(&workshop, tensors, "model.layers");
}

#[test]
fn of_each_family() {
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Gpt2] {
        check_model(&TinyModel::of(family));
    }
}

#[test]
fn in_several_shards() {
    for num_shards in [1, 2, 5, 11] {
        let model = TinyModel { num_shards: Some(num_shards), ..TinyModel::default() };
        check_model(&model);
    }
    check_model(&TinyModel { num_shards: Some(3), ..TinyModel::of(Family::Gpt2) });
}

#[test]
fn of_each_type() {
    for dtype in [Dtype::F16, Dtype::F32] {
        let config_form = ConfigForm::Old;
        check_model(&TinyModel { dtype, config_form, ..TinyModel::of(Family::Qwen2) });
    }
}

#[test]
fn with_tied_embeddings_no_head_is_invented() {
    let model = TinyModel { tie_word_embeddings: true, ..TinyModel::of(Family::Qwen2) };
    assert!(model.tensors().iter().all(|(name, _)| name != "lm_head.weight"));
    let workshop = Workshop::with(&model);
    check(&workshop, &model.tensors(), "model.layers");
    assert_eq!(workshop.json_of("config.json")["tie_word_embeddings"], true);
}

/// Where flag and files contradict each other, what is stored is used, and the contradiction is said.
#[test]
fn a_head_beside_a_tied_flag_is_kept() {
    for tied in [true, false] {
        let mut model = TinyModel { tie_word_embeddings: !tied, ..TinyModel::default() };
        model.extra_config = vec![("tie_word_embeddings", tied.into())];
        let workshop = Workshop::with(&model);
        check(&workshop, &model.tensors(), "model.layers");
        let notes = workshop.build_base(&[])["notes"].to_string();
        assert!(notes.contains("tie_word_embeddings") && notes.contains("lm_head"), "{notes}");
        assert_eq!(workshop.json_of("config.json")["tie_word_embeddings"], tied);
    }
}

/// The first number in a name is the layer's, the second an expert's.
#[test]
fn with_two_numbers_in_a_name() {
    let mut tensors = vec![bases::bytes("model.embed_tokens.weight", Dtype::BF16, &[8, 6])];
    for layer in 0..4 {
        for expert in 0..9 {
            let name = format!("model.layers.{layer}.mlp.experts.{expert}.w1.weight");
            tensors.push(bases::bytes(&name, Dtype::BF16, &[4, 6]));
        }
        let router = format!("model.layers.{layer}.mlp.gate.weight");
        tensors.push(bases::bytes(&router, Dtype::F32, &[9, 6]));
    }
    tensors.push(bases::bytes("model.norm.weight", Dtype::BF16, &[6]));
    check_unknown(&tensors);
}

#[test]
fn with_layers_of_unlike_kind() {
    let mut tensors = vec![bases::bytes("model.embed_tokens.weight", Dtype::BF16, &[8, 6])];
    for layer in 0..4 {
        let names: &[&str] = match layer {
            0 | 3 => &["self_attn.qkv_proj.weight", "self_attn.o_proj.weight", "norm.weight"],
            1 => &["mamba.in_proj.weight", "mamba.A_log", "mamba.D", "norm.weight"],
            _ => &["norm.weight"],
        };
        for name in names {
            let name = format!("model.layers.{layer}.{name}");
            tensors.push(bases::bytes(&name, Dtype::BF16, &[6, layer + 2]));
        }
    }
    check_unknown(&tensors);
}

/// All types side by side, scalars, and tensors without elements, some at the edges of the files.
#[test]
fn of_mixed_types_and_of_no_size() {
    let mut tensors = vec![bases::bytes("model.empty", Dtype::F64, &[0])];
    let types = [
        ("empty", Dtype::BF16, vec![0, 16]),
        ("mask", Dtype::BOOL, vec![3, 5]),
        ("weight", Dtype::BF16, vec![7, 3]),
        ("packed", Dtype::U8, vec![11]),
        ("positions", Dtype::I64, vec![3]),
        ("scalar", Dtype::F32, vec![]),
        ("small", Dtype::F8_E4M3, vec![5]),
        ("wide", Dtype::F64, vec![2, 2]),
        ("half", Dtype::F16, vec![1, 1, 3]),
        ("nothing", Dtype::I64, vec![4, 0, 2]),
        ("number", Dtype::I8, vec![]),
    ];
    for layer in 0..4 {
        for (name, dtype, shape) in &types {
            tensors.push(bases::bytes(&format!("model.layers.{layer}.{name}"), *dtype, shape));
        }
    }
    tensors.push(bases::bytes("model.mask", Dtype::BOOL, &[3]));
    tensors.push(bases::bytes("model.norm.weight", Dtype::F32, &[6]));
    tensors.push(bases::bytes("model.last", Dtype::U8, &[0]));
    check_unknown(&tensors);
}

/// Tensors of all layers stand in any order and in any shard.
#[test]
fn in_scrambled_order() {
    for family in [Family::Mistral, Family::Gpt2] {
        let model = TinyModel::of(family);
        for (seed, num_shards) in [("a", 1), ("b", 3), ("c", 4)] {
            let mut random = Random::new(seed);
            let mut tensors = model.tensors();
            tensors.sort_by_cached_key(|_| random.next());
            let mut shards: Vec<Vec<_>> = vec![Vec::new(); num_shards];
            for (i, tensor) in tensors.iter().enumerate() {
                shards[i % num_shards].push(tensor.clone());
            }
            let workshop = Workshop::new();
            let shards: Vec<&[_]> = shards.iter().map(Vec::as_slice).collect();
            bases::write_shards(&workshop.path("base"), &model.config().into(), &shards);
            check(&workshop, &tensors, family.prefix());
        }
    }
}

/// Tensors longer than all buffers and windows, which begin and end within disk blocks.
#[test]
fn longer_than_a_window() {
    let mut tensors = vec![bases::bytes("model.odd", Dtype::U8, &[4099])];
    for layer in 0..4 {
        let name = format!("model.layers.{layer}.weight");
        tensors.push(bases::bytes(&name, Dtype::U8, &[9_000_001 + layer]));
    }
    let workshop = Workshop::new();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    bases::write(&workshop.path("base"), &config, &tensors);
    let source: BTreeMap<_, _> = tensors.into_iter().collect();
    let expected = splice::expected(&source, &LAYERS, "model.layers");
    for (flags, max_shard_bytes) in [
        (["--copy", "kernel", "--max-shard-size", "20MB"], 20_000_000),
        (["--copy", "stream", "--max-shard-size", "1GB"], 1_000_000_000),
        (["--shard-layout", "source", "--max-shard-size", "30MB"], 30_000_000),
    ] {
        workshop.build_base(&flags);
        splice::assert_same(&workshop.built(), &expected);
        form::check(&workshop.path("out"), &expected, max_shard_bytes);
    }
}

/// Many plans: `dus`, ranges backwards by blocks, one layer many times, a model of one layer.
#[test]
fn by_any_plan() {
    let model = TinyModel { num_hidden_layers: 12, num_shards: Some(3), ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    let source = model.tensors_by_name();
    let ranges = |ranges: &[std::ops::Range<usize>]| ranges.iter().cloned().flatten().collect();
    let plans: [(&str, Vec<usize>); 8] = [
        ("dus(3)", ranges(&[0..9, 3..12])),
        ("dus(s=16)", ranges(&[0..8, 4..12])),
        ("repeat(3, 9)", ranges(&[0..9, 3..12])),
        ("stack(2)", ranges(&[0..12, 0..12])),
        ("8..12 + 4..8 + 0..4", ranges(&[8..12, 4..8, 0..4])),
        ("11", vec![11]),
        ("(7)*11", vec![7; 11]),
        ("0..n step 5", vec![0, 5, 10]),
    ];
    for (plan, layers) in plans {
        workshop.build(&["base", "--layers", plan, "--max-shard-size", "20KB"]);
        let expected = splice::expected(&source, &layers, "model.layers");
        splice::assert_same(&workshop.built(), &expected);
        assert_eq!(workshop.json_of("config.json")["num_hidden_layers"], layers.len());
        form::check(&workshop.path("out"), &expected, 20_000);
    }
}
