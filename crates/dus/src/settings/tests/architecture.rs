//! Mistral as Llama: SOLAR's own case.

use testkit::published::MISTRAL_7B_CONFIG as MISTRAL;

use super::*;

/// SOLAR's, but for `_name_or_path`, `use_cache` and the version; with `mlp_bias`, which is younger.
const SOLAR: &str = r#"{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "attention_bias": false,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "initializer_range": 0.02,
  "intermediate_size": 14336,
  "max_position_embeddings": 4096,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 32,
  "num_hidden_layers": 48,
  "num_key_value_heads": 8,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": 10000.0,
  "tie_word_embeddings": false,
  "torch_dtype": "float16",
  "transformers_version": "4.34.0.dev0",
  "use_cache": true,
  "vocab_size": 32000
}
"#;

const LLAMA: Changes = Changes { architecture: Some(Architecture::Llama), dtype: None };

#[test]
fn mistral_becomes_solar() {
    let changes = Changes { dtype: Some("float16"), ..LLAMA };
    let built = build(MISTRAL, &dus(32, 8), &changes).unwrap();
    assert_eq!(built.config.to_string(), SOLAR);
    assert_eq!(
        built.notes,
        [
            "`max_position_embeddings` set from 32768 to 4096, the sliding window, which Llama has not"
        ]
    );
}

#[test]
fn solar_is_a_base_like_any_other() {
    let built = build(SOLAR, &dus(48, 8), &LLAMA).unwrap();
    assert_eq!(built.config.to_string(), SOLAR.replace("48", "80"));
    assert!(built.notes.is_empty());
}

#[test]
fn only_the_depth_changes_in_a_mistral_that_stays_one() {
    check(MISTRAL, &dus(32, 8), &[("\"num_hidden_layers\": 32", "\"num_hidden_layers\": 48")]);
    check(MISTRAL, &copied(0..32), &[]);
}

#[test]
fn without_a_window_the_positions_stay() {
    let v3 = MISTRAL.replace("\"sliding_window\": 4096", "\"sliding_window\": null");
    let built = build(&v3, &dus(32, 8), &LLAMA).unwrap();
    assert_eq!(built.config.get("max_position_embeddings"), Some(32768.into()));
    assert!(!built.config.contains("sliding_window"));
    assert!(built.notes.is_empty());
}

#[test]
fn what_mistral_leaves_unsaid_is_said_for_llama() {
    let bare = r#"{"model_type": "mistral", "num_hidden_layers": 2}"#;
    let built = build(bare, &copied(0..2), &LLAMA).unwrap();
    assert_eq!(built.config.get("num_key_value_heads"), Some(8.into()));
    assert_eq!(built.config.get("max_position_embeddings"), Some(4096.into()));
}

#[test]
fn transformers_5s_form_is_kept() {
    let v5 = MISTRAL
        .replace(
            "\"rope_theta\": 10000.0",
            "\"rope_parameters\": {\n    \"rope_theta\": 10000.0,\n    \"rope_type\": \"default\"\n  }",
        )
        .replace("torch_dtype", "dtype");
    let built = build(&v5, &dus(32, 8), &Changes { dtype: Some("float16"), ..LLAMA }).unwrap();
    let text = built.config.to_string();
    assert!(!text.contains("rope_scaling") && !text.contains("torch_dtype"), "{text}");
    assert!(text.contains("    \"rope_theta\": 10000.0,\n"), "{text}");
    assert!(text.contains("\"dtype\": \"float16\""), "{text}");
}

#[test]
fn another_head_dimension_is_kept_and_said() {
    let nemo = MISTRAL
        .replace("\"hidden_size\": 4096", "\"head_dim\": 128,\n  \"hidden_size\": 5120")
        .replace("\"sliding_window\": 4096", "\"sliding_window\": null");
    let built = build(&nemo, &dus(32, 8), &LLAMA).unwrap();
    assert_eq!(built.config.get("head_dim"), Some(128.into()));
    assert_eq!(built.notes.len(), 1);
    assert!(built.notes[0].starts_with("`head_dim` is 128, not 5120 / 32"), "{:?}", built.notes);
}

#[test]
fn other_families_are_refused() {
    let error = |config: &str| build(config, &copied(0..2), &LLAMA).unwrap_err().to_string();
    assert_eq!(
        error(r#"{"model_type": "qwen2", "num_hidden_layers": 2}"#),
        "architecture `llama` can be written for Mistral weights only: the base's `model_type` is \
         \"qwen2\""
    );
    assert_eq!(
        error(
            r#"{"architectures": ["MistralForSequenceClassification"], "model_type": "mistral",
                "num_hidden_layers": 2}"#
        ),
        "architecture `llama` can be written for Mistral weights only: the base's `architectures` is \
         [\"MistralForSequenceClassification\"]"
    );
}
