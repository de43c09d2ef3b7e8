//! Configs that say what a GGUF file has no place for: refused by the key, never dropped.

use serde_json::json;

use super::*;

/// A published config with some keys changed.
fn config(model: &str, changes: &Json) -> Object {
    let mut config = record("published", model)["config"].clone();
    let entries = config.as_object_mut().unwrap();
    entries.extend(changes.as_object().unwrap().clone());
    object(&config)
}

fn written(model: &str, changes: &Json) -> Result<(Metadata, Vec<String>), String> {
    let config = config(model, changes);
    let architecture = Architecture::of_config(&config).unwrap();
    let mut metadata = Metadata::new(Path::new("out.gguf"));
    to_metadata(&config, architecture, "model", GgmlType::BF16, &mut metadata)
        .map(|parameters| (metadata, parameters.notes))
        .map_err(|error| error.to_string())
}

#[track_caller]
fn refused(model: &str, changes: &Json, named: &[&str]) {
    let text = written(model, changes).unwrap_err();
    for name in named {
        assert!(text.contains(name), "{name} is not in: {text}");
    }
}

#[test]
fn other_arithmetic_than_the_loaders_is_refused() {
    for (model, changes, key) in [
        ("gemma-2-9b", json!({"query_pre_attn_scalar": 224}), "query_pre_attn_scalar"),
        ("gemma-2-9b", json!({"num_hidden_layers": 46}), "query_pre_attn_scalar"),
        ("gemma-2-27b", json!({"num_hidden_layers": 54}), "query_pre_attn_scalar"),
        ("gemma-3-27b", json!({"num_hidden_layers": 68}), "query_pre_attn_scalar"),
        ("gemma-2-9b", json!({"attn_logit_softcapping": null}), "attn_logit_softcapping"),
        ("gemma-3-4b", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        ("gemma-2-9b", json!({"tie_word_embeddings": false}), "tie_word_embeddings"),
        ("gemma-3-4b", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("gemma-3-4b", json!({"sliding_window_pattern": 4}), "sliding_window_pattern"),
        ("gemma-3-4b", json!({"head_dim": null}), "head_dim"),
        ("Llama-3.1-8B", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("gemma-2-9b", json!({"hidden_activation": "silu"}), "hidden_activation"),
        ("Qwen3-8B", json!({"attention_bias": true}), "attention_bias"),
        ("Mistral-7B-v0.1", json!({"mlp_bias": true}), "mlp_bias"),
        ("Phi-3-mini-4k", json!({"head_dim": 128}), "head_dim"),
        ("Llama-3.1-8B", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("Llama-3.1-8B", json!({"num_hidden_layers": 513}), "num_hidden_layers"),
        ("Llama-3.1-8B", json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        ("Qwen3-8B", json!({"num_nextn_predict_layers": 1}), "num_nextn_predict_layers"),
        ("Llama-3.1-8B", json!({"rms_norm_eps": null}), "rms_norm_eps"),
        ("Llama-3.1-8B", json!({"intermediate_size": [1, 2]}), "intermediate_size"),
        ("Llama-3.1-8B", json!({"vocab_size": 5_000_000_000_u64}), "vocab_size"),
        ("Qwen2.5-7B", json!({"num_key_value_heads": -1}), "num_key_value_heads"),
    ] {
        refused(model, &changes, &[key]);
    }
}

#[test]
fn windows_are_those_that_the_loader_makes_up() {
    let open = json!({"use_sliding_window": true, "max_window_layers": 21});
    refused("Qwen2.5-7B", &open, &["use_sliding_window"]);
    // either gate is enough
    written("Qwen2.5-7B", &json!({"use_sliding_window": true})).unwrap();
    written("Qwen2.5-7B", &json!({"use_sliding_window": false, "max_window_layers": 21})).unwrap();
    let mut kinds = vec!["full_attention"; 28];
    written("Qwen2.5-7B", &json!({"layer_types": kinds})).unwrap();
    kinds[27] = "sliding_attention";
    refused("Qwen2.5-7B", &json!({"layer_types": kinds}), &["layer_types", "layer 27"]);
    refused("Qwen2.5-7B", &json!({"layer_types": ["full_attention"]}), &["layer_types"]);
    kinds[27] = "chunked_attention";
    refused("Qwen2.5-7B", &json!({"layer_types": kinds}), &["layer_types"]);

    let alternating = |first: usize| -> Json {
        let kind = |i: usize| if i % 2 == first { "sliding_attention" } else { "full_attention" };
        json!({"layer_types": (0..42).map(kind).collect::<Vec<_>>()})
    };
    written("gemma-2-9b", &alternating(0)).unwrap();
    refused("gemma-2-9b", &alternating(1), &["layer_types", "layer 0"]);
    refused("gemma-2-9b", &json!({"sliding_window": null}), &["sliding_window"]);
    let all = json!({"layer_types": vec!["full_attention"; 34]});
    let (metadata, _) = written("gemma-3-4b", &all).unwrap();
    assert!(metadata.get("gemma3.attention.sliding_window").is_none());

    let (metadata, notes) = written("Mistral-7B-v0.1", &json!({})).unwrap();
    assert_eq!(metadata.u64("llama.attention.sliding_window").unwrap(), Some(4096));
    assert!(notes[0].contains("`sliding_window` is 4096"), "{notes:?}");
    let (_, notes) = written("Mistral-7B-v0.1", &json!({"sliding_window": 32768})).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn rope_is_stretched_in_ways_that_the_loader_knows() {
    let scaling = |key: &str, value: Json| {
        let mut scaling =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096});
        scaling[key] = value;
        json!({"rope_scaling": scaling})
    };
    written("Qwen2.5-7B", &scaling("beta_fast", 32.into())).unwrap();
    written("Qwen2.5-7B", &scaling("attention_factor", json!(1.138_629_436_111_989))).unwrap();
    for (key, value) in [
        ("attention_factor", json!(1.0)),
        ("beta_slow", json!(2)),
        ("truncate", json!(false)),
        ("mscale", json!(1.0)),
        ("factor", json!("4")),
        ("factor", json!(0)),
        ("original_max_position_embeddings", Json::Null),
    ] {
        refused("Qwen2.5-7B", &scaling(key, value), &[&format!("rope_scaling.{key}")]);
    }
    for (model, kind) in [
        ("Qwen3-8B", "llama3"),
        ("Llama-3.1-8B", "dynamic"),
        ("Llama-3.1-8B", "longrope"),
        ("gemma-2-9b", "linear"),
        ("Phi-3-mini-4k", "linear"),
        ("Qwen3-8B", "mystery"),
    ] {
        let changes = json!({"rope_scaling": {"type": kind, "factor": 2.0}});
        refused(model, &changes, &["rope_scaling.type", kind]);
    }
    refused("Qwen3-8B", &json!({"rope_scaling": {"factor": 2.0}}), &["rope_scaling.rope_type"]);
    refused("Qwen3-8B", &json!({"rope_scaling": "linear"}), &["rope_scaling"]);
    let both = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1.0e6},
        "rope_scaling": {"rope_type": "linear", "factor": 2.0}});
    refused("Qwen3-8B", &both, &["rope_parameters", "rope_scaling"]);
    let short =
        json!({"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}});
    refused("Phi-3-mini-4k", &short, &["rope_scaling.long_factor"]);
    let nested = json!({"rope_scaling": null, "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1.0e6},
        "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}});
    refused("gemma-3-4b", &nested, &["rope_parameters.sliding_attention.rope_type"]);
}

#[test]
fn the_newer_spelling_of_rope_wins() {
    let newer = json!({"rope_theta": 1.0, "rope_scaling": null,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}});
    let (metadata, _) = written("Llama-3.1-8B", &newer).unwrap();
    assert_eq!(metadata.f64("llama.rope.freq_base").unwrap(), Some(500_000.0));
    assert_eq!(metadata.f64("llama.rope.scaling.factor").unwrap(), Some(2.0));
}

#[test]
fn other_models_have_no_architecture() {
    for model_type in ["gpt2", "gemma3", "mixtral", "qwen2_moe"] {
        assert!(Architecture::of_config(&object(&json!({"model_type": model_type}))).is_none());
    }
    let config = config("Llama-3.1-8B", &json!({}));
    let llama = Architecture::of_config(&config).unwrap();
    let mut metadata = Metadata::new(Path::new("out.gguf"));
    assert!(to_metadata(&config, llama, "x", GgmlType::Q4_K, &mut metadata).is_err());
}
