//! Plans of several models.

use super::*;

fn build_two(x: &str, e: &str, layers: &Layers) -> Result<Deepened, SettingError> {
    let (x, e) = (Object::parse(x).unwrap(), Object::parse(e).unwrap());
    deepen(&Depth { configs: &[&x, &e], names: &["x", "e"], donor: 0, layers }, &Changes::default())
}

#[track_caller]
fn check_error(x: &str, e: &str, expected: &str) {
    let error = build_two(x, e, &vec![vec![(0, 0)], vec![(1, 1)]]).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

const LLAMA: &str = r#"{"hidden_size": 8192, "model_type": "llama", "num_attention_heads": 64, "num_hidden_layers": 2, "rms_norm_eps": 1e-05, "vocab_size": 32000}"#;

#[test]
fn shapes_and_vocabulary_must_agree() {
    check_error(
        LLAMA,
        &LLAMA.replace("32000", "32016"),
        "`vocab_size` is 32016 in e, but 32000 in x",
    );
    check_error(
        LLAMA,
        &LLAMA.replace("64,", "64, \"head_dim\": 64,"),
        "`head_dim` is 64 in e, but 128 in x",
    );
    check_error(
        LLAMA,
        &LLAMA.replace("64,", "64, \"quantization_config\": {\"quant_method\": \"fp8\"},"),
        "`quantization_config` is {\"quant_method\": \"fp8\"} in e, but absent in x",
    );
}

#[test]
fn what_only_shapes_the_arithmetic_is_said() {
    let other = LLAMA.replace("1e-05", "1e-06").replace("64,", "64, \"attention_bias\": false,");
    let built = build_two(LLAMA, &other, &vec![vec![(0, 0)], vec![(1, 1)], vec![(1, 0)]]).unwrap();
    assert_eq!(
        built.notes,
        ["`rms_norm_eps` is 1e-06 in e, but 1e-05 in x; the latter is written"]
    );
    assert_eq!(built.config.text("num_hidden_layers"), Some("3"));
    assert_eq!(built.config.text("rms_norm_eps"), Some("1e-05"));
}

#[test]
fn lists_take_each_layers_entry_from_its_model() {
    let x = r#"{"num_hidden_layers": 2, "layer_types": ["a", "b"], "mlp_only_layers": [0],
        "quantization_config": {"ignore": ["lm_head", "model.layers.0.mlp"]}}"#;
    let e = r#"{"num_hidden_layers": 3, "layer_types": ["c", "d", "e"], "mlp_only_layers": [2],
        "quantization_config": {"ignore": ["model.layers.2.mlp", "lm_head"]}}"#;
    let built = build_two(x, e, &vec![vec![(0, 0)], vec![(1, 2)], vec![(1, 0)]]).unwrap();
    assert_eq!(built.config.get("layer_types"), Some(serde_json::json!(["a", "e", "c"])));
    assert_eq!(built.config.get("mlp_only_layers"), Some(serde_json::json!([0, 1])));
    assert_eq!(
        built.config.object("quantization_config").unwrap().get("ignore"),
        Some(serde_json::json!(["lm_head", "model.layers.0.mlp", "model.layers.1.mlp"]))
    );
    check_error(
        x,
        r#"{"num_hidden_layers": 2, "quantization_config": {"ignore": ["lm_head"]}}"#,
        "`layer_types` goes by layer and is missing in e",
    );
}
