//! Tiny models of every family and rotary scaling beside transformers.
//!
//! Configs, ids, logits and frequencies were recorded by `scripts/decoder_references.py`, which makes
//! the weights from the tensors' names as `testkit` does.

use std::path::Path;

use checkpoint::json::Object;
use infer::DecoderConfig;
use serde_json::{Value, json};
use testkit::{Dtype, Tensor, raw, weights};

use crate::references::{all_logits, ids, load, row};

const RECORDED: &str = include_str!("../data/families.json");

#[test]
fn logits_are_those_of_transformers() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let models = recorded["models"].as_object().unwrap();
    assert!(models.len() >= 13);
    for (name, model) in models {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), model);
        let tokens = ids(&model["ids"]);
        let logits = all_logits(&load(dir.path()), &tokens);
        for (position, expected) in model["logits"].as_object().unwrap() {
            let found = row(&logits, position.parse().unwrap());
            let expected = numbers(expected);
            assert_eq!(found.len(), expected.len());
            for (id, (&found, expected)) in found.iter().zip(expected).enumerate() {
                let difference = (f64::from(found) - expected).abs();
                assert!(difference < 1e-4, "{name}: logit {id} at {position}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    for (name, case) in recorded["frequencies"].as_object().unwrap() {
        let head_dim = case["config"]["head_dim"].as_u64().unwrap() as usize;
        let config = read_config(&case["config"]);
        let found = config.rope.inverse_frequencies(head_dim);
        let expected = numbers(&case["inverse_frequencies"]);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let ratio = f64::from(found) / expected - 1.0;
            assert!(ratio.abs() < 3e-7, "{name}: frequency {i}: {found}, {expected}");
        }
        let factor = case["attention_factor"].as_f64().unwrap();
        assert!((f64::from(config.rope.attention_factor()) - factor).abs() < 1e-6, "{name}");
        let angles = config.rope.angles(&found, std::iter::once(4095));
        for (key, found) in [("cos_at_4095", angles.cos), ("sin_at_4095", angles.sin)] {
            for (i, (&found, expected)) in found.iter().zip(numbers(&case[key])).enumerate() {
                // A frequency's last bit, 4,095 times.
                let difference = (f64::from(found) - expected).abs();
                assert!(difference < 5e-4, "{name}: {key} {i}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn old_spellings_of_rope_mean_what_new_ones_mean() {
    let yarn =
        |kind: &str| json!({ kind: "yarn", "factor": 4.0, "original_max_position_embeddings": 16 });
    let mut inside = yarn("rope_type");
    inside["rope_theta"] = 5e5.into();
    for (old, new) in [
        (json!({ "rope_theta": 5e5 }), json!({ "rope_parameters": { "rope_theta": 5e5 } })),
        (
            json!({ "rope_theta": 5e5, "rope_scaling": null }),
            json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "default" } }),
        ),
        (
            json!({ "rope_theta": 5e5, "rope_scaling": yarn("type") }),
            json!({ "rope_parameters": inside }),
        ),
        // What was left over beside the new keys.
        (
            json!({ "rope_theta": 1e4, "rope_parameters": { "rope_theta": 5e5 } }),
            json!({ "rope_theta": 5e5 }),
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "rope_type": "default", "factor": 4.0 } }),
            json!({}),
        ),
    ] {
        assert_eq!(read_config(&old).rope, read_config(&new).rope, "{old} and {new}");
    }
}

#[test]
fn a_window_is_where_the_config_puts_it() {
    #[track_caller]
    fn check(keys: &Value, expected: [Option<usize>; 4]) {
        assert_eq!(read_config(keys).sliding_windows, expected, "{keys}");
    }
    let (none, w) = (None, Some(5));
    check(&json!({ "model_type": "llama", "sliding_window": 5 }), [none; 4]);
    check(&json!({ "model_type": "mistral", "sliding_window": 5 }), [w; 4]);
    check(&json!({ "model_type": "mistral", "sliding_window": null }), [none; 4]);
    check(&json!({ "model_type": "mistral" }), [Some(4096); 4]);
    for family in ["qwen2", "qwen3"] {
        let keys = |is_on: bool, first: usize| {
            json!({ "model_type": family, "sliding_window": 5, "use_sliding_window": is_on,
                "max_window_layers": first })
        };
        check(&json!({ "model_type": family, "sliding_window": 5 }), [none; 4]);
        check(&keys(false, 2), [none; 4]);
        check(&keys(true, 2), [none, none, w, w]);
        check(&keys(true, 0), [w; 4]);
        // A model deepened at `max_window_layers = n` has no window above it.
        check(&keys(true, 4), [none; 4]);
        let mut listed = keys(true, 4);
        let (full, sliding) = ("full_attention", "sliding_attention");
        listed["layer_types"] = json!([sliding, full, full, sliding]);
        check(&listed, [w, none, none, w]);
        listed["use_sliding_window"] = false.into();
        check(&listed, [none; 4]);
    }
}

#[test]
fn what_a_config_leaves_out_is_what_transformers_has_for_it() {
    let config = |keys: Value| read_config(&keys);
    let heads = |family: &str, heads: Value| {
        let config = config(json!({ "model_type": family, "num_attention_heads": 32,
            "hidden_size": 256, "num_key_value_heads": heads }));
        config.num_key_value_heads
    };
    assert_eq!(heads("mistral", json!(null)), 32);
    assert_eq!(heads("mistral", json!(4)), 4);
    let mut left_out = json!({
        "model_type": "mistral",
        "vocab_size": 40,
        "hidden_size": 256,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
    });
    let read = |config: &Value| {
        DecoderConfig::read(&Object::parse(&config.to_string()).unwrap(), Path::new("c")).unwrap()
    };
    let mistral = read(&left_out);
    assert_eq!((mistral.num_key_value_heads, mistral.head_dim), (8, 8));
    assert_eq!((mistral.max_position_embeddings, mistral.rms_norm_eps), (131_072, 1e-6));
    left_out["model_type"] = "qwen3".into();
    let qwen3 = read(&left_out);
    assert_eq!((qwen3.num_key_value_heads, qwen3.head_dim), (32, 128));
    left_out["model_type"] = "llama".into();
    let llama = read(&left_out);
    assert_eq!((llama.num_key_value_heads, llama.max_position_embeddings), (32, 2048));
}

/// Reads a config of which only `keys` matter.
fn read_config(keys: &Value) -> DecoderConfig {
    let mut config = json!({
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let object = Object::parse(&config.to_string()).unwrap();
    DecoderConfig::read(&object, Path::new("config.json")).unwrap()
}

fn write(dir: &Path, model: &Value) {
    raw::write_json(&dir.join("config.json"), &model["config"]);
    let tensor = |(name, shape): (&String, &Value)| {
        let shape: Vec<usize> = ids(shape).into_iter().map(|dim| dim as usize).collect();
        let mean = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        (name.clone(), Tensor::random(name, Dtype::F32, &shape, mean))
    };
    let tensors: Vec<_> = model["tensors"].as_object().unwrap().iter().map(tensor).collect();
    weights::write(dir, &tensors, None);
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}
