//! Weights that the config contradicts.

use serde_json::{Value, json};
use testkit::raw::edit_json;
use testkit::weights;
use testkit::{Family, Tensor, TinyModel};

use crate::case::Case;

fn config(case: &Case, key: &str, value: impl Into<Value>) {
    edit_json(&case.file("config.json"), |config| config[key] = value.into());
}

fn without(model: &TinyModel, is_lost: impl Fn(&str) -> bool) -> Case {
    let case = Case::of(model);
    let mut tensors = model.tensors();
    tensors.retain(|(name, _)| !is_lost(name));
    weights::write(&case.base(), &tensors, model.num_shards);
    case
}

#[test]
fn a_shape_that_the_config_contradicts() {
    for (key, value, tensor, found, expected) in [
        ("hidden_size", 32, "model.embed_tokens.weight", "[40, 16]", "[40, 32]"),
        ("vocab_size", 41, "model.embed_tokens.weight", "[40, 16]", "[41, 16]"),
        ("intermediate_size", 25, "model.layers.0.mlp.", "24", "25"),
        ("num_key_value_heads", 4, "model.layers.0.self_attn.", "[8, 16]", "[16, 16]"),
        ("num_attention_heads", 8, "model.layers.0.self_attn.", "[16, 16]", "32"),
        ("head_dim", 8, "model.layers.0.self_attn.", "16]", "[16, "),
    ] {
        // Tied, so that no other tensor has the shape of the embeddings.
        let case = Case::of(&TinyModel { tie_word_embeddings: true, ..TinyModel::default() });
        config(&case, key, value);
        let file = case.file("model.safetensors").display().to_string();
        case.refused(&[tensor, found, expected, key, &file]);
    }
}

#[test]
fn one_layer_of_another_shape() {
    let model = TinyModel::default();
    let case = Case::of(&model);
    let mut tensors = model.tensors();
    let odd = "model.layers.2.mlp.down_proj.weight";
    let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == odd).unwrap();
    *tensor = Tensor::random("odd", tensor.dtype, &[16, 20], 0.0);
    weights::write(&case.base(), &tensors, None);
    case.refused(&[odd, "[16, 20]", "[16, 24]", "intermediate_size"]);
}

#[test]
fn a_transposed_matrix() {
    let model = TinyModel::default();
    let case = Case::of(&model);
    let mut tensors = model.tensors();
    let odd = "model.layers.3.mlp.up_proj.weight";
    tensors.iter_mut().find(|(name, _)| name == odd).unwrap().1.shape.reverse();
    weights::write(&case.base(), &tensors, None);
    case.refused(&[odd, "[16, 24]", "[24, 16]"]);
}

#[test]
fn a_layer_that_the_config_promises_and_the_weights_lack() {
    let case = Case::new();
    config(&case, "num_hidden_layers", 5);
    case.refused(&["model.layers.4", "5 layers"]);

    let hole = without(&TinyModel::default(), |name| name.starts_with("model.layers.2."));
    hole.refused(&["model.layers.2", "4 layers"]);

    let none = without(&TinyModel::default(), |name| name.starts_with("model.layers."));
    none.refused(&["model.layers.0", "4 layers"]);

    let gpt2 = without(&TinyModel::of(Family::Gpt2), |name| name.starts_with("h.3."));
    gpt2.refused(&["h.3", "4 layers"]);
}

#[test]
fn a_layer_that_lacks_a_tensor() {
    for lost in
        ["model.layers.2.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
    {
        without(&TinyModel::default(), |name| name == lost).refused(&[lost]);
    }
}

#[test]
fn a_layer_that_the_weights_have_and_the_config_does_not_promise() {
    let case = Case::new().plan("0..2 + 1..3");
    config(&case, "num_hidden_layers", 3);
    case.refused(&["model.layers.3", "3 layers"]);

    let gpt2 = Case::of(&TinyModel::of(Family::Gpt2)).plan("0..2 + 1..3");
    config(&gpt2, "n_layer", 3);
    gpt2.refused(&["h.3", "3 layers"]);
}

#[test]
fn a_depth_that_is_no_number_of_layers() {
    for value in [json!("4"), json!(null), json!(-4), json!(4.5), json!(0), json!([4]), json!(1e30)]
    {
        let case = Case::new();
        config(&case, "num_hidden_layers", value);
        case.refused(&["num_hidden_layers", &case.file("config.json").display().to_string()]);
    }
    let case = Case::new();
    edit_json(&case.file("config.json"), |config| {
        config.as_object_mut().unwrap().remove("num_hidden_layers");
    });
    case.refused(&["num_hidden_layers", &case.file("config.json").display().to_string()]);
}

#[test]
fn no_layers_that_fit_the_config() {
    let model = TinyModel {
        extra_config: vec![("model_type", json!("unheard-of"))],
        ..TinyModel::default()
    };
    let case = without(&model, |name| name.starts_with("model.layers."));
    case.refused(&["4 layers"]);
}

/// Numbers as no library writes them: refused or kept as they are, but nothing breaks.
#[test]
fn layer_numbers_as_nobody_writes_them() {
    for name in [
        "h.03.mlp.c_fc.weight",
        "h.3..weight",
        "h.-1.weight",
        "h.+1.weight",
        "h.18446744073709551615.weight",
        "h.99999999999999999999.weight",
        "h.0",
        "0.weight",
        "",
        ".",
        "h.3.\u{0}\n\"`",
    ] {
        let model = TinyModel::of(Family::Gpt2);
        let case = Case::of(&model);
        let mut tensors = model.tensors();
        let odd = Tensor::random("odd", model.dtype, &[3, 2], 0.0);
        tensors.push((name.to_owned(), odd));
        weights::write(&case.base(), &tensors, None);
        if case.ends(&format!("with {name:?}")) {
            let built = weights::read(&case.out());
            assert_eq!(built.len(), tensors.len() + 2 * 12, "with {name:?}");
        }
    }
}
