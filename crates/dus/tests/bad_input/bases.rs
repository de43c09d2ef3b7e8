//! Bases that are not models in Hugging Face's form, or not there.

use std::fs;

use serde_json::json;
use testkit::raw::{edit_json, write_json};
use testkit::weights::SINGLE;
use testkit::{TinyModel, hub};

use crate::case::Case;

/// A case whose base has the given file in the place of its weights.
fn with_instead_of_weights(name: &str, content: &[u8]) -> Case {
    let case = Case::new();
    fs::rename(case.file(SINGLE), case.file(name)).unwrap();
    fs::write(case.file(name), content).unwrap();
    case
}

#[test]
fn a_folder_without_weights() {
    let case = Case::new();
    fs::remove_file(case.file(SINGLE)).unwrap();
    case.refused(&[&case.base().display().to_string(), SINGLE]);

    let empty = Case::without_base();
    fs::create_dir(empty.base()).unwrap();
    empty.refused(&[&empty.base().display().to_string(), SINGLE]);
}

#[test]
fn pytorch_pickles_and_how_to_convert_them() {
    for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"] {
        let case = with_instead_of_weights(name, b"PK\x03\x04");
        let base = case.base().display().to_string();
        case.refused(&[&base, name, "PyTorch", "hint: ", "save_pretrained"]);
    }
}

#[test]
fn mistrals_own_form_and_how_to_convert_it() {
    for name in [
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "consolidated.00.pth",
    ] {
        let case = with_instead_of_weights(name, b"");
        fs::write(case.file("params.json"), r#"{"dim": 16, "n_layers": 4}"#).unwrap();
        fs::remove_file(case.file("config.json")).unwrap();
        let base = case.base().display().to_string();
        case.refused(&[&base, name, "Mistral", "hint: ", "convert"]);
    }
}

const LFS_POINTER: &str = "version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 4943162240
";

const WEB_PAGES: [&str; 3] = [
    "<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n",
    "\n  <!doctype HTML><html lang=en>",
    "<html>\n<head><title>Sign in</title></head></html>\n",
];

#[test]
fn an_lfs_pointer_in_place_of_a_file() {
    for name in ["model-00002-of-00003.safetensors", "config.json", "model.safetensors.index.json"]
    {
        let case = Case::sharded();
        fs::write(case.file(name), LFS_POINTER).unwrap();
        let path = case.file(name).display().to_string();
        case.refused(&[&path, "LFS pointer", "git lfs pull"]);
    }
    let case = with_instead_of_weights(SINGLE, LFS_POINTER.as_bytes());
    case.refused(&[&case.file(SINGLE).display().to_string(), "LFS pointer"]);
}

#[test]
fn a_web_page_in_place_of_a_file() {
    for page in WEB_PAGES {
        for name in ["model-00002-of-00003.safetensors", "config.json"] {
            let case = Case::sharded();
            fs::write(case.file(name), page).unwrap();
            case.refused(&[&case.file(name).display().to_string(), "web page"]);
        }
    }
}

#[test]
fn a_gguf_file_that_is_none() {
    let case = Case::new().args(&["base/model.gguf", "--layers", "dus(1)"]);
    fs::write(case.file("model.gguf"), "no GGUF").unwrap();
    case.refused(&["base/model.gguf"]);
}

#[test]
fn an_adapter_alone_is_refused_with_its_bases_name() {
    let case = with_instead_of_weights("adapter_model.safetensors", b"");
    let config = json!({ "base_model_name_or_path": "owner/its-base", "peft_type": "LORA" });
    write_json(&case.file("adapter_config.json"), &config);
    fs::remove_file(case.file("config.json")).unwrap();
    case.refused(&[&case.base().display().to_string(), "adapter", "owner/its-base"]);
}

#[test]
fn a_weight_file_that_the_config_names_stays_in_the_folder() {
    let case = Case::new();
    let outside = case.dir().join("outside.safetensors");
    fs::copy(case.file(SINGLE), &outside).unwrap();
    let config = case.file("config.json");
    for name in
        ["../outside.safetensors", "sub/../../outside.safetensors", outside.to_str().unwrap()]
    {
        edit_json(&config, |config| config["transformers_weights"] = json!(name));
        case.refused(&[&config.display().to_string(), name]);
    }
    edit_json(&config, |config| config["transformers_weights"] = json!(["a.safetensors"]));
    case.refused(&[&config.display().to_string(), "transformers_weights"]);
    edit_json(&config, |config| config["transformers_weights"] = json!("nope.safetensors"));
    case.refused(&[&config.display().to_string(), "nope.safetensors"]);
}

#[test]
fn a_hub_id_that_the_cache_lacks_might_be_a_path() {
    let case = Case::without_base().args(&["owner/name", "--layers", "dus(1)"]);
    let cache = case.dir().join("hub").display().to_string();
    case.refused(&["owner/name", &cache, "no such path"]);
    let _ = hub::cache(&case.dir().join("hub"), "owner/name", "0123", &TinyModel::default());
    let case = case.args(&["owner/name@v2", "--layers", "dus(1)"]);
    case.refused(&["owner/name@v2", &cache, "no such path"]);
}

#[test]
fn a_revision_does_not_climb_out_of_the_cache() {
    for spec in ["owner/name@../../../base", "owner/..", "../name@main/x", "owner/name@"] {
        let case = Case::new();
        let _ = hub::cache(&case.dir().join("hub"), "owner/name", "0123", &TinyModel::default());
        case.args(&[spec, "--layers", "dus(1)"]).refused(&[spec]);
    }
}

#[test]
fn a_path_that_does_not_exist() {
    for spec in
        ["./nope", "../nope", "/nope/model", "~/nope/model", "nope", "nope.gguf", "a/b.safetensors"]
    {
        let case = Case::without_base().args(&[spec, "--layers", "dus(1)"]);
        case.refused(&[spec, "does not exist"]);
    }
}

#[test]
fn a_base_that_is_a_file() {
    let case = Case::new().args(&["base/model.safetensors", "--layers", "dus(1)"]);
    case.refused(&["base/model.safetensors"]);
}
