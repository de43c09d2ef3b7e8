//! Configs as their authors published them, cut to what matters, deepened.

mod architecture;
mod by_number;
mod gguf;
mod names;
mod several;

use checkpoint::json::Object;

use super::{Architecture, Changes, Deepened, Depth, SettingError, deepen, num_layers};

type Layers = Vec<Vec<(usize, usize)>>;

/// One copied layer after another, of the first model.
fn copied(layers: impl IntoIterator<Item = usize>) -> Layers {
    layers.into_iter().map(|layer| vec![(0, layer)]).collect()
}

/// SOLAR's plan.
fn dus(num_layers: usize, drop: usize) -> Layers {
    copied((0..num_layers - drop).chain(drop..num_layers))
}

fn build(config: &str, layers: &Layers, changes: &Changes) -> Result<Deepened, SettingError> {
    let config = Object::parse(config).unwrap();
    deepen(&Depth { configs: &[&config], names: &["base"], donor: 0, layers }, changes)
}

/// `config` deepened by `layers` must be `config` with each pair of `edits` replaced, to the byte.
#[track_caller]
fn check(config: &str, layers: &Layers, edits: &[(&str, &str)]) -> Deepened {
    let mut expected = Object::parse(config).unwrap().to_string();
    for (from, to) in edits {
        assert!(expected.contains(from), "`{from}` is not in the config");
        expected = expected.replacen(from, to, 1);
    }
    let built =
        build(config, layers, &Changes::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(built.config.to_string(), expected);
    built
}

#[track_caller]
fn check_error(config: &str, layers: &Layers, expected: &str) {
    let error = build(config, layers, &Changes::default()).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

const MINICPM: &str = r#"{
  "model_type": "minicpm",
  "num_hidden_layers": 40,
  "rms_norm_eps": 1e-05,
  "scale_depth": 1.4,
  "scale_emb": 12
}"#;

#[test]
fn a_scale_by_the_depth_is_rescaled() {
    // times the root of 64 / 40; divided by the root of 64 it gives the bits of 1.4 / sqrt(40)
    let edits = [("40", "64"), ("1.4", "1.7708754896942922")];
    let built = check(MINICPM, &dus(40, 8), &edits);
    assert_eq!(built.notes.len(), 1);
    check_error(
        &MINICPM.replace("scale_depth", "scale"),
        &dus(40, 8),
        "`scale_depth` is absent: loaders divide their default by the root of the layer count",
    );
}

#[test]
fn arithmetic_by_layer_number_is_refused_by_its_value() {
    let gpt2 = r#"{"model_type": "gpt2", "n_layer": 12, "scale_attn_by_inverse_layer_idx": false}"#;
    check(gpt2, &dus(12, 2), &[("12", "20")]);
    check_error(
        &gpt2.replace("false", "true"),
        &dus(12, 2),
        "`scale_attn_by_inverse_layer_idx` is true: each layer divides its attention by its own number",
    );
    let identity = copied(0..12);
    check(&gpt2.replace("false", "true"), &identity, &[]);
}

#[test]
fn tensors_that_pack_all_layers_are_refused_unless_they_are_empty() {
    let config = |size: u32, shared: u32| {
        format!(
            r#"{{"model_type": "gemma4_text", "num_hidden_layers": 12, "sliding_window_pattern": 6,
            "hidden_size_per_layer_input": {size}, "vocab_size_per_layer_input": 262144,
            "num_kv_shared_layers": {shared}}}"#
        )
    };
    check(&config(0, 0), &copied((0..12).chain(0..12)), &[("12", "24")]);
    let error = build(&config(256, 0), &dus(12, 0), &Changes::default()).unwrap_err();
    assert!(error.to_string().starts_with("`hidden_size_per_layer_input` is 256: "), "{error}");
    let error = build(&config(0, 4), &dus(12, 0), &Changes::default()).unwrap_err();
    assert!(error.to_string().starts_with("`num_kv_shared_layers` is 4: "), "{error}");
}

#[test]
fn the_layer_count_has_several_names() {
    #[track_caller]
    fn check(config: &str, expected: Result<(&str, usize), &str>) {
        let found = num_layers(&Object::parse(config).unwrap()).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    }
    check(r#"{"num_hidden_layers": 32}"#, Ok(("num_hidden_layers", 32)));
    check(r#"{"n_layer": 12}"#, Ok(("n_layer", 12)));
    check(r#"{"num_layers": 40, "num_hidden_layers": 40}"#, Ok(("num_hidden_layers", 40)));
    check(
        r#"{"num_layers": 40, "num_hidden_layers": 32}"#,
        Err("`num_layers` is 40, but `num_hidden_layers` is 32: both state the layer count"),
    );
    check(
        r#"{"num_hidden_layers": "32"}"#,
        Err("`num_hidden_layers`: expected a positive number of layers, found \"32\""),
    );
    check(
        r#"{"text_config": {"num_hidden_layers": 26}}"#,
        Err(
            "`text_config` holds the language model's settings: nested configs cannot be deepened yet",
        ),
    );
    check(
        r#"{"hidden_size": 26}"#,
        Err("the config states no layer count: expected one of `num_hidden_layers`, `n_layer`, \
             `n_layers`, `num_layers`, `num_transformer_layers`"),
    );
}

#[test]
fn the_type_goes_where_the_config_has_it() {
    #[track_caller]
    fn check(keys: &str, expected: &str) {
        let changes = Changes { dtype: Some("float16"), ..Changes::default() };
        let config = format!(r#"{{"num_hidden_layers": 2{keys}}}"#);
        let built = build(&config, &copied(0..2), &changes).unwrap();
        let expected = format!(r#"{{"num_hidden_layers": 2{expected}}}"#);
        assert_eq!(built.config.to_string(), Object::parse(&expected).unwrap().to_string());
    }
    check(r#", "torch_dtype": "bfloat16""#, r#", "torch_dtype": "float16""#);
    check(r#", "dtype": "bfloat16", "x": 1"#, r#", "dtype": "float16", "x": 1"#);
    check("", r#", "torch_dtype": "float16""#);
    check(
        r#", "rope_parameters": {"rope_theta": 1e6}, "dtype": "bfloat16""#,
        r#", "rope_parameters": {"rope_theta": 1e6}, "dtype": "float16""#,
    );
}

#[test]
fn the_name_of_another_weight_file_is_not_written_on() {
    let config = r#"{"num_hidden_layers": 2, "transformers_weights": "x.safetensors"}"#;
    let built = build(config, &copied(0..2), &Changes::default()).unwrap();
    assert_eq!(built.config.to_string(), "{\n  \"num_hidden_layers\": 2\n}\n");
}

#[test]
fn a_layer_past_the_last_is_refused() {
    check_error(
        r#"{"num_hidden_layers": 2}"#,
        &copied(0..3),
        "layer 2 of model 0 is past its last: it has 2",
    );
}
