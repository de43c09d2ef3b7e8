//! Names of layers in the config and in the file beside it.

use serde_json::{Value, json};
use testkit::{Family, raw};

use crate::workshop::PLAN;
use crate::{built_text, with_keys};

/// The names of a list of the base, and those that the new model has by [`PLAN`].
const NAMES: [&str; 5] = [
    "lm_head",
    "model.layers.1.self_attn.o_proj",
    "model.layers.3",
    "model.layers.0.mlp",
    "model.norm",
];
const NEW_NAMES: [&str; 6] = [
    "lm_head",
    "model.layers.0.mlp",
    "model.layers.1.self_attn.o_proj",
    "model.layers.3.self_attn.o_proj",
    "model.layers.5",
    "model.norm",
];

fn sorted(list: &Value) -> Vec<&str> {
    let mut names: Vec<&str> =
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn lists_of_modules_name_every_copy() {
    for key in ["modules_to_not_convert", "ignore", "ignored_layers", "llm_int8_skip_modules"] {
        let keys = json!({ "quantization_config": { "bits": 4, key: NAMES } });
        let workshop = with_keys(Family::Gpt2, &keys);
        let text = built_text(&workshop, &["--layers", PLAN]);
        let config: Value = serde_json::from_str(&text).unwrap();
        let found = &config["quantization_config"];
        assert_eq!(sorted(&found[key]), NEW_NAMES, "{key}");
        assert_eq!(found["bits"], 4);
    }
}

/// A pattern whose number cannot be followed is refused, one without a number stays.
#[test]
fn patterns_are_kept_or_refused() {
    for (pattern, is_refused) in [
        ("re:.*lm_head", false),
        ("re:model\\.layers\\.[0-2]\\..*", true),
        ("model.layers.*.mlp", false),
    ] {
        let keys = json!({ "quantization_config": { "ignore": [pattern] } });
        let workshop = with_keys(Family::Gpt2, &keys);
        if is_refused {
            let expected = ["quantization_config.ignore"];
            workshop.refused(&["base", "--layers", PLAN], &expected, true);
        } else {
            built_text(&workshop, &["--layers", PLAN]);
            let config = workshop.json_of("config.json");
            assert_eq!(config["quantization_config"]["ignore"], json!([pattern]));
        }
    }
}

/// `ModelOpt`'s own file stands beside the config, and names layers too.
#[test]
fn hf_quant_config_is_renumbered() {
    let file = json!({
        "producer": { "name": "modelopt" },
        "quantization": { "quant_algo": "FP8", "exclude_modules": NAMES },
    });
    let workshop = with_keys(Family::Gpt2, &json!({}));
    raw::write_json(&workshop.path("base/hf_quant_config.json"), &file);
    built_text(&workshop, &["--layers", PLAN]);
    let built = workshop.json_of("hf_quant_config.json");
    assert_eq!(sorted(&built["quantization"]["exclude_modules"]), NEW_NAMES);
    assert_eq!(built["producer"], file["producer"]);

    raw::edit_json(&workshop.path("base/hf_quant_config.json"), |file| {
        file["quantization"]["exclude_modules"] = json!(["model.layers.[12].mlp"]);
    });
    std::fs::remove_dir_all(workshop.path("out")).unwrap();
    let expected = ["hf_quant_config.json", "exclude_modules"];
    workshop.refused(&["base", "--layers", PLAN], &expected, true);
}
