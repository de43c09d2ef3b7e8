//! What lies around the weights, and gets in a build's way or stays out of it.

use std::fs;

use serde_json::json;
use testkit::{Dtype, Family, TinyModel, raw, weights};

use crate::bases;
use crate::workshop::{PLAN, Workshop};

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 493443\n";

#[test]
fn a_stray_byte_in_the_base_s_card_does_not_lose_its_licence() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.write("base/README.md", b"---\nlicense: mit\n---\n\xff\n");
    workshop.build_base(&[]);
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    assert!(card.contains("\nlicense: mit\n"), "{card}");
}

#[test]
fn a_card_that_cannot_be_read_is_foreseen() {
    let workshop = Workshop::with(&TinyModel::default());
    fs::remove_file(workshop.path("base/README.md")).ok();
    fs::create_dir(workshop.path("base/README.md")).unwrap();
    workshop.refused(&["base", "--layers", PLAN], &["README.md cannot be read"], true);
}

#[test]
fn other_checkpoints_and_mistral_s_own_config_stay_behind() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.write("base/params.json", "{\"n_layers\": 4}");
    workshop.write("base/checkpoint-10/trainer_state.json", "{}");
    workshop.write("base/checkpoint-10/config.json", "{}");
    workshop.write("base/adapter/adapter_config.json", "{}");
    workshop.write("base/assets/voices.txt", "kept");
    // A weight in another form that was never fetched, as in a part of the hub's cache.
    workshop.link("base/pytorch_model.bin", "../../blobs/nothing");
    let notes = workshop.build_base(&[])["notes"].to_string();
    assert!(notes.contains("adapter is an adapter and is left out"), "{notes}");
    let files = workshop.files("out");
    assert!(files.contains(&"assets/voices.txt".to_owned()), "{files:?}");
    let left_out = ["params", "checkpoint-10", "adapter", "pytorch_model"];
    assert!(!files.iter().any(|file| left_out.iter().any(|it| file.contains(it))), "{files:?}");
}

#[test]
fn a_pointer_in_place_of_a_tokenizer_is_refused_and_in_place_of_a_picture_is_not() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.write("base/assets/logo.png", POINTER);
    workshop.build_base(&[]);
    fs::remove_dir_all(workshop.path("out")).unwrap();
    workshop.write("base/tokenizer.model", POINTER);
    workshop.refused(&["base", "--layers", PLAN], &["tokenizer.model", "Git LFS pointer"], true);
}

#[test]
fn folders_that_lead_back_to_themselves_end() {
    let workshop = Workshop::with(&TinyModel::default());
    fs::create_dir(workshop.path("base/deep")).unwrap();
    for link in ["base/a", "base/b", "base/deep/c"] {
        workshop.link(link, workshop.path("base").to_str().unwrap());
    }
    workshop.build_base(&[]);
    assert!(workshop.files("out").iter().all(|file| !file.contains("a/")));
}

#[test]
fn a_second_stack_of_the_same_depth_is_refused() {
    let model = TinyModel::of(Family::Llama);
    let mut tensors = model.tensors();
    for layer in 0..model.num_hidden_layers {
        tensors.push(bases::bytes(&format!("model.gates.{layer}.weight"), Dtype::BF16, &[4]));
    }
    let workshop = Workshop::with(&model);
    weights::write(&workshop.path("base"), &tensors, None);
    workshop.refused(&["base", "--layers", PLAN], &["model.layers", "model.gates"], true);
}

/// A block behind the last layer, promised by another key than the usual one.
#[test]
fn a_prediction_block_by_another_key_moves_too() {
    let layer = |n: usize| bases::bytes(&format!("model.layers.{n}.mlp.weight"), Dtype::BF16, &[6]);
    let tensors: Vec<_> = (0..5).map(layer).collect();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4, "num_mtp_layers": 1 });
    let workshop = Workshop::new();
    bases::write(&workshop.path("base"), &config, &tensors);
    workshop.build_base(&[]);
    let built = workshop.built();
    assert_eq!(built.len(), 7);
    assert_eq!(built["model.layers.6.mlp.weight"], tensors[4].1);
}

#[test]
fn inspect_describes_what_cannot_be_deepened() {
    let workshop = Workshop::with(&TinyModel::default());
    raw::edit_json(&workshop.path("base/config.json"), |config| {
        config["num_hidden_layers"] = 5.into();
    });
    let described = workshop.dus(&["inspect", "base", "--json"]).json(0);
    assert_eq!(described["layers"], json!(null));
    assert!(described["problem"].as_str().unwrap().contains("model.layers.4"), "{described}");
    assert!(described["num_parameters"].as_u64().unwrap() > 0);
}

/// Equal bytes of another type are other numbers.
#[test]
fn layers_of_unlike_type_are_not_equal() {
    let (_, bytes) = bases::bytes("weight", Dtype::BF16, &[8]);
    let mut halves = bytes.clone();
    halves.dtype = Dtype::F16;
    let named = |layer: usize, tensor| (format!("h.{layer}.weight"), tensor);
    let tensors = [named(0, bytes.clone()), named(1, halves), named(2, bytes)];
    let workshop = Workshop::new();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 3 });
    bases::write(&workshop.path("base"), &config, &tensors);
    let described = workshop.dus(&["inspect", "base", "--json", "--duplicates"]).json(0);
    assert_eq!(described["equal_layers"], json!([[0, 2]]));
}

#[test]
fn what_is_no_recipe_is_refused_by_name() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.refused(&["base", "--layers", PLAN, "--to", "onnx"], &["to", "hf or gguf"], true);
    workshop.write("r.txt", "layers = \"stack(2)\"");
    workshop.refused(&["r.txt"], &["r.txt is a file", ".toml"], true);
    workshop.write("r.toml", "base = \"base\"\nlayers = \"stack(2)\"\nmax_shard_size = 5.5\n");
    workshop.refused(&["r.toml"], &["max_shard_size", "5GB"], true);
}

#[test]
fn an_earlier_build_that_was_moved_aside_is_said() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.build_base(&[]);
    fs::rename(workshop.path("out"), workshop.path(".out.dus-old")).unwrap();
    workshop.refused(&["base", "--layers", PLAN], &[".out.dus-old", "brings it back"], true);
}
