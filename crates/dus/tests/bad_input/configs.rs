//! Configs that cannot be read, or cannot be made deeper.

use std::fs;

use serde_json::{Value, json};
use testkit::raw::write_json;
use testkit::{Family, TinyModel};

use crate::case::Case;

#[test]
fn a_config_that_is_not_json() {
    for (text, expected) in [
        ("{\n  \"num_hidden_layers\": 4,\n}\n", "line 3"),
        ("num_hidden_layers: 4\n", "line 1"),
        ("[4]", "JSON object"),
        ("", "line 1"),
        ("{\"num_hidden_layers\": 4}\n{}", "line 2"),
        ("{\"num_hidden_layers\": 4, \"num_hidden_layers\": 4}", "`num_hidden_layers`"),
    ] {
        let case = Case::new();
        fs::write(case.file("config.json"), text).unwrap();
        case.refused(&[&case.file("config.json").display().to_string(), expected]);
    }
    let case = Case::new();
    fs::write(case.file("config.json"), b"{\"model_type\": \"\xff\"}").unwrap();
    case.refused(&[&case.file("config.json").display().to_string()]);
}

#[test]
fn no_config_at_all() {
    let case = Case::new();
    fs::remove_file(case.file("config.json")).unwrap();
    case.refused(&[&case.file("config.json").display().to_string()]);
}

#[track_caller]
fn check(family: Family, key: &'static str, value: Value, flags: &[&str]) {
    let model = TinyModel { extra_config: vec![(key, value)], ..TinyModel::of(family) };
    let case = Case::of(&model).flags(flags);
    case.refused(&[&case.file("config.json").display().to_string(), &format!("`{key}`")]);
}

#[test]
fn a_list_that_may_be_per_layer() {
    check(Family::Llama, "mystery", json!([1, 2, 3, 4]), &[]);
}

#[test]
fn depth_inside_the_arithmetic() {
    check(Family::Gpt2, "scale_attn_by_inverse_layer_idx", json!(true), &[]);
}

#[test]
fn a_per_layer_list_of_another_length() {
    check(Family::Qwen3, "layer_types", vec!["full_attention"; 3].into(), &[]);
}

#[test]
fn a_cast_of_quantised_weights() {
    let config = json!({ "quant_method": "gptq", "bits": 4 });
    check(Family::Llama, "quantization_config", config, &["--dtype", "float16"]);
}

#[test]
fn an_architecture_that_the_base_does_not_have() {
    let case = Case::of(&TinyModel::of(Family::Gpt2)).flags(&["--architecture", "llama"]);
    case.refused(&[&case.file("config.json").display().to_string(), "gpt2"]);
}

/// Every key with every kind of value: a build or an error, never a panic.
#[test]
fn values_of_any_kind() {
    let model = TinyModel { side_files: false, ..TinyModel::of(Family::Qwen3) };
    let case = Case::of(&model);
    let config = case.file("config.json");
    let sound = model.config();
    let others = [
        "first_k_dense_replace",
        "num_nextn_predict_layers",
        "quantization_config",
        "rope_scaling",
        "transformers_weights",
    ];
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!("text"),
        json!([]),
        json!([1, 2, 3, 4]),
        json!({ "a": { "0": 1, "1": 2, "2": 3, "3": 4 } }),
    ];
    for key in sound.keys().map(String::as_str).chain(others) {
        for value in &values {
            let mut odd = sound.clone();
            odd.insert(key.to_owned(), value.clone());
            write_json(&config, &odd.into());
            if case.ends(&format!("{key} = {value}")) {
                fs::remove_dir_all(case.out()).unwrap();
            }
        }
    }
}
