//! An index that the shards contradict.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use testkit::raw::edit_json;
use testkit::weights::{self, INDEX};

use crate::case::Case;

const SHARD_1: &str = "model-00001-of-00003.safetensors";
const SHARD_2: &str = "model-00002-of-00003.safetensors";
const SHARD_3: &str = "model-00003-of-00003.safetensors";
/// In the first shard.
const EMBEDDINGS: &str = "model.embed_tokens.weight";

fn edit_index(case: &Case, edit: impl FnOnce(&mut Value)) {
    edit_json(&case.file(INDEX), edit);
}

#[test]
fn a_shard_that_is_missing() {
    let case = Case::sharded();
    fs::remove_file(case.file(SHARD_2)).unwrap();
    case.refused(&[SHARD_2, &case.file(INDEX).display().to_string()]);
}

#[test]
fn a_shard_that_is_a_dead_link() {
    let case = Case::sharded();
    fs::remove_file(case.file(SHARD_2)).unwrap();
    symlink("../../blobs/0123", case.file(SHARD_2)).unwrap();
    case.refused(&[&case.file(SHARD_2).display().to_string()]);
}

#[test]
fn a_shard_that_is_a_folder() {
    let case = Case::sharded();
    fs::remove_file(case.file(SHARD_2)).unwrap();
    fs::create_dir(case.file(SHARD_2)).unwrap();
    case.refused(&[&case.file(SHARD_2).display().to_string(), "not a regular file"]);
}

#[test]
fn a_shard_that_is_a_pipe_does_not_hang() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    let case = Case::sharded();
    let path = case.file(SHARD_2);
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    case.refused(&[&path.display().to_string(), "not a regular file"]);
}

#[test]
fn a_shard_with_a_tensor_that_the_index_gives_to_another() {
    let case = Case::sharded();
    edit_index(&case, |index| index["weight_map"][EMBEDDINGS] = json!(SHARD_3));
    case.refused(&[EMBEDDINGS, SHARD_1, SHARD_3]);
}

#[test]
fn a_tensor_in_two_shards() {
    let case = Case::sharded();
    let mut tensors: Vec<_> = weights::read_file(&case.file(SHARD_3)).into_iter().collect();
    let twin = weights::read_file(&case.file(SHARD_1))[EMBEDDINGS].clone();
    tensors.push((EMBEDDINGS.to_owned(), twin));
    weights::write_file(&case.file(SHARD_3), &tensors);
    case.refused(&[EMBEDDINGS, SHARD_1, SHARD_3]);
}

#[test]
fn a_tensor_that_no_shard_has() {
    let case = Case::sharded();
    let mut tensors: Vec<_> = weights::read_file(&case.file(SHARD_1)).into_iter().collect();
    tensors.retain(|(name, _)| name != EMBEDDINGS);
    weights::write_file(&case.file(SHARD_1), &tensors);
    case.refused(&[EMBEDDINGS, SHARD_1]);
}

#[test]
fn a_file_name_that_leaves_the_folder() {
    let case = Case::sharded();
    // What the name leads to is there and is good.
    fs::copy(case.file(SHARD_1), case.dir().join("outside.safetensors")).unwrap();
    fs::create_dir(case.file("sub")).unwrap();
    let absolute = case.dir().join("outside.safetensors").display().to_string();
    for name in [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "./../outside.safetensors",
        &absolute,
    ] {
        edit_index(&case, |index| {
            for (_, shard) in index["weight_map"].as_object_mut().unwrap() {
                if shard.as_str() == Some(SHARD_1) || !shard.as_str().unwrap().starts_with("model-")
                {
                    *shard = json!(name);
                }
            }
        });
        case.refused(&[&case.file(INDEX).display().to_string(), name]);
    }
}

#[test]
fn a_name_that_is_no_file_at_all() {
    for name in ["", ".", "./."] {
        let case = Case::sharded();
        edit_index(&case, |index| index["weight_map"][EMBEDDINGS] = json!(name));
        case.refused(&[&case.file(name).display().to_string()]);
    }
}

#[test]
fn an_index_that_is_none() {
    for (text, expected) in [
        ("{\"weight_map\": {", "line 1"),
        ("[]", "JSON object"),
        ("{\"metadata\": {}}", "weight_map"),
        ("{\"weight_map\": 7}", "weight_map"),
        ("{\"weight_map\": {\"lm_head.weight\": 7}}", "weight_map"),
        ("{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}", "twice"),
    ] {
        let case = Case::sharded();
        fs::write(case.file(INDEX), text).unwrap();
        case.refused(&[&case.file(INDEX).display().to_string(), expected]);
    }
}

#[test]
fn an_index_of_nothing() {
    let case = Case::sharded();
    fs::write(case.file(INDEX), "{\"weight_map\": {}}").unwrap();
    case.refused(&["model.layers.0", "4 layers"]);
}

#[test]
fn shards_without_an_index() {
    let case = Case::sharded();
    fs::remove_file(case.file(INDEX)).unwrap();
    case.refused(&[INDEX, SHARD_1]);
}
