//! Layer numbers inside module names.

use super::*;
use crate::settings::rename_modules;

const FP8: &str = r#"{
  "num_hidden_layers": 3,
  "quantization_config": {
    "activation_scheme": "dynamic",
    "eps": 1e-05,
    "ignored_layers": [
      "model.layers.0.mlp.gate",
      "model.layers.1.mlp.gate",
      "lm_head",
      "model.layers.10.x",
      "model.layers.3.eh_proj"
    ],
    "weight_block_size": [
      128,
      128,
      128
    ]
  }
}"#;

#[test]
fn names_follow_their_layers_to_every_copy() {
    let edits = [
        ("_layers\": 3", "_layers\": 5"),
        (
            "\"model.layers.1.mlp.gate\"",
            "\"model.layers.1.mlp.gate\",\n      \"model.layers.3.mlp.gate\"",
        ),
        ("\"model.layers.10.x\"", "\"model.layers.12.x\""),
        ("\"model.layers.3.eh_proj\"", "\"model.layers.5.eh_proj\""),
    ];
    check(FP8, &copied([0, 1, 2, 1, 2]), &edits);
    check(FP8, &copied(0..3), &[]);
}

#[test]
fn two_builds_name_what_one_would() {
    let once = build(FP8, &copied([0, 1, 2, 1, 2]), &Changes::default()).unwrap();
    let twice = build(&once.config.to_string(), &copied([0, 1, 4]), &Changes::default()).unwrap();
    assert_eq!(twice.config.to_string(), Object::parse(FP8).unwrap().to_string());
}

#[test]
fn patterns_over_numbers_are_refused() {
    let config = |name: &str| {
        format!(
            r#"{{"num_hidden_layers": 3, "quantization_config": {{"ignore": ["lm_head", "{name}"]}}}}"#
        )
    };
    check(&config("re:.*mlp.gate$"), &dus(3, 1), &[("3", "4")]);
    check_error(
        &config("re:.*layers[.]2[.].*"),
        &dus(3, 1),
        "`quantization_config.ignore` holds `re:.*layers[.]2[.].*`, whose layer number cannot be \
         followed to the new layers",
    );
    check_error(
        &config("model.layers.2*"),
        &dus(3, 1),
        "`quantization_config.ignore` holds `model.layers.2*`, whose layer number cannot be followed to \
         the new layers",
    );
}

#[test]
fn keys_follow_their_layers_too() {
    let config = r#"{"num_hidden_layers": 2, "quantization_config": {"bits": 4, "extra_config":
        {"model.layers.1.mlp": {"bits": 16}, "lm_head": {"bits": 8}}}}"#;
    let built = build(config, &copied([0, 1, 1]), &Changes::default()).unwrap();
    let extra = built.config.object("quantization_config").unwrap().object("extra_config").unwrap();
    assert_eq!(
        extra.keys().collect::<Vec<_>>(),
        ["model.layers.1.mlp", "model.layers.2.mlp", "lm_head"]
    );
    assert_eq!(extra.text("model.layers.2.mlp"), Some(r#"{"bits": 16}"#));
}

#[test]
fn a_made_layer_is_named_if_all_its_sources_are() {
    let config = r#"{"num_hidden_layers": 3, "quantization_config":
        {"modules_to_not_convert": ["model.layers.0.mlp", "model.layers.1.mlp"]}}"#;
    let built =
        build(config, &vec![vec![(0, 0), (0, 1)], vec![(0, 2)]], &Changes::default()).unwrap();
    let names = built.config.object("quantization_config").unwrap().get("modules_to_not_convert");
    assert_eq!(names, Some(serde_json::json!(["model.layers.0.mlp"])));
    check_error(
        config,
        &vec![vec![(0, 0), (0, 2)]],
        "`quantization_config.modules_to_not_convert` differs between the layers that new layer 0 is \
         made of",
    );
}

#[test]
fn another_file_with_names_is_edited_alike() {
    let config = Object::parse(r#"{"num_hidden_layers": 2}"#).unwrap();
    let text = r#"{"producer": {"name": "modelopt"}, "quantization":
        {"exclude_modules": ["lm_head", "model.layers.1.mlp.gate"], "group_size": 16}}"#;
    let file = Object::parse(text).unwrap();
    let layers = copied([1, 1]);
    let depth = Depth { configs: &[&config], names: &["base"], donor: 0, layers: &layers };
    let renamed = rename_modules(&depth, &[Some(&file)]).unwrap().unwrap();
    let names = renamed.object("quantization").unwrap().get("exclude_modules");
    assert_eq!(
        names,
        Some(serde_json::json!(["lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]))
    );
    assert!(rename_modules(&depth, &[None]).unwrap().is_none());
}
