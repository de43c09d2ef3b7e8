//! Which files beside the weights belong to a model made from this one.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use checkpoint::Checkpoint;
use checkpoint::side_files::SideFiles;
use tempfile::{TempDir, tempdir};
use testkit::{TinyModel, side_files};

/// A model with small files of the given names beside it.
fn model_with(names: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    TinyModel::default().write(dir.path());
    for name in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("text of {name}")).unwrap();
    }
    dir
}

#[track_caller]
fn list(dir: &Path) -> SideFiles {
    Checkpoint::open(dir).unwrap().side_files().unwrap_or_else(|error| panic!("{error}"))
}

/// Checks which of the files `names` are kept besides those that the model has by itself.
#[track_caller]
fn check(names: &[&str], kept: &[&str]) {
    let dir = model_with(names);
    let mut expected = [&side_files::KEPT[..], kept].concat();
    expected.sort_unstable();
    let files = list(dir.path());
    let found: Vec<_> = files.kept.iter().map(|file| file.name.to_str().unwrap()).collect();
    assert_eq!(found, expected);
    for file in files.kept {
        assert_eq!(fs::read(&file.path).unwrap(), fs::read(dir.path().join(&file.name)).unwrap());
        assert_eq!(file.bytes, fs::metadata(&file.path).unwrap().len());
    }
}

#[test]
fn what_describes_the_model_is_kept() {
    check(&[], &[]);
    let names = [
        "tokenizer.model",
        "tokenizer.model.v3",
        "tekken.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "spiece.model",
        "added_tokens.json",
        "chat_template.json",
        "preprocessor_config.json",
        "configuration_custom.py",
        "tokenization_custom.py",
        "custom/attention.py",
        "additional_chat_templates/rag.jinja",
        "LICENSE.txt",
        "NOTICE",
        "USE_POLICY.md",
        "hf_quant_config.json",
    ];
    check(&names, &names);
}

#[test]
fn weights_in_other_forms_are_left_out() {
    let names = [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "consolidated.safetensors",
        "consolidated.00.pth",
        "consolidated.safetensors.index.json",
        "model.gguf",
        "MODEL.Q4_K_M.GGUF",
        "tf_model.h5",
        "flax_model.msgpack",
        "model-00001-of-00009.safetensors",
        "model.safetensors.index.json",
        "model.fp32-00001-of-00002.safetensors",
        "onnx/model.onnx",
        "onnx/config.json",
        "original/params.json",
        "original/consolidated.00.pth",
        "original/tokenizer.model",
    ];
    check(&names, &[]);
}

#[test]
fn what_is_no_part_of_the_model_is_left_out() {
    let names = [
        ".git/config",
        ".git/lfs/objects/4d/7a/4d7a",
        ".cache/huggingface/download/config.json.metadata",
        "dus.json",
        "mergekit_config.yml",
    ];
    check(&names, &[]);
}

#[test]
fn adapters_are_left_out_and_named() {
    let names = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"];
    check(&names, &[]);
    let dir = model_with(&names);
    let adapters = list(dir.path()).adapters;
    assert!(adapters.iter().any(|name| name == Path::new("adapter_config.json")), "{adapters:?}");

    check(&["lora/adapter_config.json", "lora/adapter_model.safetensors"], &[]);
}

#[test]
fn links_are_followed() {
    let dir = model_with(&[]);
    let elsewhere = tempdir().unwrap();
    fs::write(elsewhere.path().join("blob"), "a tokenizer").unwrap();
    symlink(elsewhere.path().join("blob"), dir.path().join("tokenizer.model")).unwrap();
    fs::create_dir(dir.path().join("onnx")).unwrap();
    symlink("nowhere", dir.path().join("onnx/model.onnx")).unwrap();
    let files = list(dir.path());
    let file = files.kept.iter().find(|file| file.name == Path::new("tokenizer.model")).unwrap();
    assert_eq!((file.bytes, &fs::read(&file.path).unwrap()[..]), (11, &b"a tokenizer"[..]));
}

#[test]
fn a_link_to_nothing_is_named() {
    let dir = model_with(&[]);
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    symlink("../../blobs/0123", dir.path().join("tokenizer.json")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap().side_files().unwrap_err().to_string();
    assert!(error.contains(&dir.path().join("tokenizer.json").display().to_string()), "{error}");
}

/// Whether it is an error or not, it ends.
#[test]
fn folders_that_hold_themselves_do_not_hang() {
    let dir = model_with(&[]);
    symlink(".", dir.path().join("a")).unwrap();
    symlink(".", dir.path().join("b")).unwrap();
    let _ = Checkpoint::open(dir.path()).unwrap().side_files();
}
