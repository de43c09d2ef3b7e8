//! What every folder of weights must look like, for any loader.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::raw::{self, RawFile};
use testkit::{Tensors, weights};

/// A shard's name, and the names and lengths of its tensors.
pub(crate) type Shards = BTreeMap<String, Vec<(String, u64)>>;

/// Checks names, limits, index, metadata and alignment of the files in `dir`, which hold `tensors`.
#[track_caller]
pub(crate) fn check(dir: &Path, tensors: &Tensors, max_shard_bytes: u64) -> Shards {
    let mut files: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".safetensors"))
        .collect();
    files.sort();
    let has_index = files.last().is_some_and(|name| name == weights::INDEX);
    if has_index {
        files.pop();
    }
    let num_shards = files.len();
    assert_eq!(has_index, num_shards > 1, "{files:?}");
    if num_shards > 1 {
        let expected: Vec<_> =
            (0..num_shards).map(|i| weights::shard_name(i, num_shards)).collect();
        assert_eq!(files, expected);
        check_index(&dir.join(weights::INDEX), tensors);
    } else {
        assert_eq!(files, [weights::SINGLE]);
    }
    let mut shards = Shards::new();
    for file in files {
        let placed = check_file(&dir.join(&file), tensors);
        let bytes: u64 = placed.iter().map(|(_, bytes)| bytes).sum();
        assert!(!placed.is_empty(), "{file} is empty");
        assert!(bytes <= max_shard_bytes || placed.len() == 1, "{file}: {bytes} B");
        shards.insert(file, placed);
    }
    shards
}

/// Checks that the index is sorted and states the length of all tensors.
#[track_caller]
fn check_index(path: &Path, tensors: &Tensors) {
    let index = raw::read_json(path);
    let total_size: usize = tensors.values().map(|tensor| tensor.bytes.len()).sum();
    assert_eq!(index["metadata"], json!({ "total_size": total_size }));
    let names: Vec<&String> = index["weight_map"].as_object().unwrap().keys().collect();
    assert!(names.is_sorted(), "the index is not sorted: {names:?}");
    assert_eq!(names, tensors.keys().collect::<Vec<_>>());
}

/// Checks one file's header, and returns its tensors' lengths in the order of their bytes.
#[track_caller]
fn check_file(path: &Path, tensors: &Tensors) -> Vec<(String, u64)> {
    let file = RawFile::read(path);
    let path = path.display();
    let header: Value = serde_json::from_str(&file.header).unwrap();
    let mut header = header.as_object().unwrap().clone();
    assert_eq!(header.remove("__metadata__"), Some(json!({ "format": "pt" })), "{path}");
    assert_eq!((8 + file.header.len()) % 8, 0, "{path}: where data begin");
    let mut places = Vec::new();
    for (name, info) in header {
        let offset = |i: usize| info["data_offsets"][i].as_u64().unwrap();
        let begin = 8 + file.header.len() as u64 + offset(0);
        let width = (tensors[&name].dtype.bitsize() as u64 / 8).max(1);
        assert_eq!(begin % width, 0, "{path}: {name} begins at {begin}");
        places.push((begin, offset(1) - offset(0), name));
    }
    places.sort();
    places.into_iter().map(|(_, bytes, name)| (name, bytes)).collect()
}
