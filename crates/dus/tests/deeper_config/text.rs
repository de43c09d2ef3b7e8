//! Texts against texts: lines that change, and all others as they were.

use testkit::Family;

use crate::workshop::{PLAN, Workshop};
use crate::{built_text, with_config};

/// Mistral-7B-v0.1's config with the sizes of a tiny model; all else as it was published.
const MISTRAL: &str = r#"{
  "architectures": [
    "MistralForCausalLM"
  ],
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 24,
  "max_position_embeddings": 32768,
  "model_type": "mistral",
  "num_attention_heads": 4,
  "num_hidden_layers": 4,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "sliding_window": 4096,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.34.0.dev0",
  "use_cache": true,
  "vocab_size": 40
}
"#;

/// The same in the form of transformers 5, its keys in no order, with odd but valid values.
const NEW_FORM: &str = r#"{
  "model_type": "mistral",
  "architectures": ["MistralForCausalLM"],
  "vocab_size": 40,
  "dtype": "bfloat16",
  "hidden_size": 16,
  "eos_token_id": [2, 5, 7, 11],
  "intermediate_size": 24,
  "num_hidden_layers": 4,
  "num_attention_heads": 4,
  "head_dim": 4,
  "rms_norm_eps": 1.0E-5,
  "mascot": "a y\u00e4k \u2603 / \/ \"",
  "max_position_embeddings": 1024,
  "num_key_value_heads": 2,
  "rope_parameters": {
      "rope_theta": 1e4,   "rope_type": "default"},
  "sliding_window": 256,
  "seed": 123456789012345678901234567890,
  "precise": 0.1000000000000000055511151231257827,
  "nothing": null,
  "empty": {},
  "empty_list": [],
  "tie_word_embeddings": false
}
"#;

/// Checks that the new config is `config` with each pair's first text replaced by its second.
#[track_caller]
fn check(config: &str, args: &[&str], changes: &[(&str, &str)]) {
    let workshop = with_config(Family::Mistral, config);
    let mut expected = config.to_owned();
    for (from, to) in changes {
        assert_eq!(expected.matches(from).count(), 1, "{from}");
        expected = expected.replace(from, to);
    }
    assert_eq!(built_text(&workshop, args), expected);
}

const DEEPER: (&str, &str) = ("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 6");

#[test]
fn only_the_depth_changes() {
    for config in [MISTRAL, NEW_FORM] {
        check(config, &["--layers", PLAN], &[DEEPER]);
        check(config, &["--layers", "0..n"], &[]);
        check(config, &["--layers", "3 + 2 + 1 + 0"], &[]);
        check(config, &["--layers", "2"], &[(DEEPER.0, "\"num_hidden_layers\": 1")]);
    }
}

#[test]
fn a_cast_changes_the_type_under_its_own_key() {
    for dtype in ["float16", "float32", "bfloat16"] {
        let args = ["--layers", PLAN, "--dtype", dtype];
        let value = format!("dtype\": \"{dtype}\"");
        check(MISTRAL, &args, &[DEEPER, ("dtype\": \"bfloat16\"", &value)]);
        check(NEW_FORM, &args, &[DEEPER, ("dtype\": \"bfloat16\"", &value)]);
        // Both keys, as files have that were converted by hand.
        let both = MISTRAL.replace("\"eos", "\"dtype\": \"float64\",\n  \"eos");
        let other = ("dtype\": \"float64\"", &*value);
        check(&both, &args, &[DEEPER, ("dtype\": \"bfloat16\"", &value), other]);
    }
}

/// What SOLAR's published config has where Mistral's has something else or nothing.
#[test]
fn mistral_is_written_as_llama_as_solar_did() {
    let llama = [
        DEEPER,
        (
            "\"MistralForCausalLM\"\n  ],\n",
            "\"LlamaForCausalLM\"\n  ],\n  \"attention_bias\": false,\n",
        ),
        ("\"model_type\": \"mistral\"", "\"model_type\": \"llama\""),
        (
            "\"max_position_embeddings\": 32768,\n",
            "\"max_position_embeddings\": 4096,\n  \"mlp_bias\": false,\n",
        ),
        ("  \"rms_norm_eps\"", "  \"pretraining_tp\": 1,\n  \"rms_norm_eps\""),
        ("  \"rope_theta\"", "  \"rope_scaling\": null,\n  \"rope_theta\""),
        ("  \"sliding_window\": 4096,\n", ""),
    ];
    let args = ["--layers", PLAN, "--architecture", "llama"];
    check(MISTRAL, &args, &llama);
    let with_type = [&llama[..], &[("bfloat16", "float16")]].concat();
    check(MISTRAL, &[&args[..], &["--dtype", "float16"]].concat(), &with_type);
    let notes = built_notes(&with_config(Family::Mistral, MISTRAL), &args);
    assert!(notes.contains("max_position_embeddings"), "{notes}");
}

fn built_notes(workshop: &Workshop, args: &[&str]) -> String {
    workshop.build(&[&["base"], args].concat())["notes"].to_string()
}

/// Without a window (v0.2 and later) all positions stay good; in the new form no `rope_scaling` comes.
#[test]
fn a_mistral_without_a_window_keeps_its_positions() {
    let args = ["--layers", "0..n", "--architecture", "llama"];
    let later = MISTRAL.replace("\"sliding_window\": 4096", "\"sliding_window\": null");
    let later = later.replace("10000.0", "1000000.0");
    let text = built_text(&with_config(Family::Mistral, &later), &args);
    assert!(text.contains("\"max_position_embeddings\": 32768,\n"), "{text}");
    assert!(text.contains("\"rope_theta\": 1000000.0,\n") && !text.contains("sliding_window"));

    let new_form = [
        ("\"model_type\": \"mistral\"", "\"model_type\": \"llama\""),
        ("[\"MistralForCausalLM\"]", "[\n    \"LlamaForCausalLM\"\n  ]"),
        ("\"max_position_embeddings\": 1024", "\"max_position_embeddings\": 256"),
        ("  \"sliding_window\": 256,\n", ""),
        (
            "\"tie_word_embeddings\": false",
            "\"tie_word_embeddings\": false,\n  \"attention_bias\": false,\n  \"mlp_bias\": false,\n  \
             \"pretraining_tp\": 1",
        ),
    ];
    check(NEW_FORM, &args, &new_form);
}

#[test]
fn what_is_llama_stays_and_what_is_neither_is_refused() {
    let args = ["--layers", PLAN, "--architecture", "llama"];
    let llama = MISTRAL.replace("\"mistral\"", "\"llama\"").replace("Mistral", "Llama");
    check(&llama, &args, &[DEEPER]);
    let args = [&["base"], &args[..]].concat();
    for family in [Family::Qwen2, Family::Qwen3, Family::Gpt2] {
        let workshop = crate::with_keys(family, &serde_json::json!({}));
        workshop.refused(&args, &["model_type"], true);
    }
    let other = MISTRAL.replace("MistralForCausalLM", "MistralForSequenceClassification");
    with_config(Family::Mistral, &other).refused(&args, &["architectures"], true);
    let workshop = with_config(Family::Mistral, MISTRAL);
    let other = ["base", "--layers", PLAN, "--architecture", "qwen2"];
    workshop.refused(&other, &["architecture", "qwen2", "llama"], true);
}

/// The key names a file that the loader would read instead of the one that is written.
#[test]
fn a_key_that_rewires_the_loader_is_not_written_on() {
    let config = MISTRAL.replace(
        "  \"use_cache\"",
        "  \"transformers_weights\": \"other.safetensors\",\n  \"use_cache\"",
    );
    let workshop = with_config(Family::Mistral, &config);
    let single = workshop.path("base/model.safetensors");
    std::fs::rename(&single, workshop.path("base/other.safetensors")).unwrap();
    testkit::TinyModel { seed: 5, ..testkit::TinyModel::default() }.write(&workshop.path("bait"));
    std::fs::copy(workshop.path("bait/model.safetensors"), single).unwrap();
    let expected = MISTRAL.replace(DEEPER.0, DEEPER.1);
    assert_eq!(built_text(&workshop, &["--layers", PLAN]), expected);
    let source = testkit::TinyModel::default().tensors_by_name();
    let expected = testkit::splice::expected(&source, &crate::workshop::LAYERS, "model.layers");
    testkit::splice::assert_same(&workshop.built(), &expected);
}
