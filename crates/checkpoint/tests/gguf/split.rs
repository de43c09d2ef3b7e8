//! Models of several files: any part opens the whole, and parts that do not belong together do not.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::gguf::GgufError;
use checkpoint::{Checkpoint, Error};
use tempfile::{TempDir, tempdir};
use testkit::gguf::file::part_name;
use testkit::gguf::{RawGguf, TinyGguf, Value};

const NUM_PARTS: usize = 3;

fn model() -> TinyGguf {
    TinyGguf { block_count: 2, has_tokens: true, ..TinyGguf::default() }
}

fn parts_of(model: &TinyGguf, num_parts: usize) -> (TempDir, Vec<PathBuf>) {
    let dir = tempdir().unwrap();
    let paths = model.file().write_parts(dir.path(), "tiny", num_parts);
    (dir, paths)
}

#[test]
fn any_part_opens_the_whole() {
    let read = model().read();
    for num_parts in [1, 2, NUM_PARTS, 20] {
        let (_dir, paths) = parts_of(&model(), num_parts);
        for path in &paths {
            let checkpoint = Checkpoint::open(path).unwrap();
            let files: Vec<&Path> =
                checkpoint.files().iter().map(|file| file.path.as_path()).collect();
            assert_eq!(files, paths);
            assert_eq!(checkpoint.tensors().len(), read.tensors.len());
            let metadata = &checkpoint.gguf().unwrap().metadata;
            assert_eq!(metadata.str("general.name").unwrap(), Some("Tiny"));
            for (hf, gguf) in [
                ("model.embed_tokens.weight", "token_embd.weight"),
                ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
                ("lm_head.weight", "output.weight"),
            ] {
                let tensor = checkpoint.tensor(hf).unwrap();
                let bytes = fs::read(&checkpoint.files()[tensor.file].path).unwrap();
                let range = tensor.range.start as usize..tensor.range.end as usize;
                assert_eq!(bytes[range], read.tensors[gguf].bytes, "{hf}");
            }
        }
    }
}

/// The first part may hold metadata only, as `gguf-split --no-tensor-first-split` leaves it.
#[test]
fn a_first_part_without_tensors() {
    let dir = tempdir().unwrap();
    let mut parts = model().file().parts(2);
    let first = std::mem::take(&mut parts[0].tensors);
    parts[1].tensors.splice(0..0, first);
    for (i, part) in parts.iter().enumerate() {
        part.write(&dir.path().join(part_name("tiny", i, 2)));
    }
    let checkpoint = Checkpoint::open(&dir.path().join(part_name("tiny", 0, 2))).unwrap();
    assert_eq!(checkpoint.tensors().len(), model().read().tensors.len());
    assert!(checkpoint.tensors().iter().all(|tensor| tensor.file == 1));
}

/// Spoils the parts, and asserts that each of them is refused with all of `expected` said.
#[track_caller]
fn check_refused(spoil: impl FnOnce(&Path, &mut Vec<RawGguf>), expected: &[&str]) {
    let dir = tempdir().unwrap();
    let mut parts = model().file().parts(NUM_PARTS);
    spoil(dir.path(), &mut parts);
    for (i, part) in parts.iter().enumerate() {
        part.write(&dir.path().join(part_name("tiny", i, NUM_PARTS)));
    }
    for part in 0..parts.len() {
        let path = dir.path().join(part_name("tiny", part, NUM_PARTS));
        let error = Checkpoint::open(&path).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        for part in expected {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}

#[test]
fn a_part_that_is_missing() {
    check_refused(|_, parts| drop(parts.pop()), &["tiny-00003-of-00003.gguf is missing"]);
}

#[test]
fn a_part_that_is_another_one() {
    let number = |part: u16| {
        move |parts: &mut Vec<RawGguf>| {
            parts[1].set("split.no", Value::U16(part));
        }
    };
    check_refused(
        |_, parts| number(2)(parts),
        &["tiny-00002-of-00003.gguf says it is number 2 of 3"],
    );
    check_refused(|_, parts| parts[1].remove("split.no"), &["number nothing of 3"]);
}

#[test]
fn a_wrong_number_of_tensors() {
    let set = |parts: &mut Vec<RawGguf>| parts[0].set("split.tensors.count", Value::I32(20));
    check_refused(|_, parts| set(parts), &["its parts have 21 tensors, not the 20 promised"]);
}

#[test]
fn parts_of_another_count() {
    let (dir, paths) = parts_of(&model(), 2);
    let mut parts = model().file().parts(3);
    parts[1].write(&paths[1]);
    let error = Checkpoint::open(&paths[0]).unwrap_err();
    assert_parts(&error, "tiny-00002-of-00002.gguf says it is number 1 of 3");
    // By that one's own count, its name is wrong.
    let error = Checkpoint::open(&paths[1]).unwrap_err();
    assert_parts(&error, "its name does not end in -0000N-of-00003.gguf");
    parts[0].remove("split.count");
    drop(dir);
}

#[track_caller]
fn assert_parts(error: &Error, expected: &str) {
    let Error::Gguf { source: GgufError::Parts { what }, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(what, expected);
}

#[test]
fn a_part_with_another_name() {
    let (dir, paths) = parts_of(&model(), 2);
    for name in [
        "model.gguf",
        "tiny-00003-of-00002.gguf",
        "tiny-00000-of-00002.gguf",
        "tiny-1-of-00002.gguf",
    ] {
        let path = dir.path().join(name);
        fs::copy(&paths[0], &path).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert_parts(&error, "its name does not end in -0000N-of-00002.gguf");
    }
}

#[test]
fn a_tensor_in_two_parts() {
    let dir = tempdir().unwrap();
    let mut parts = model().file().parts(2);
    let tensor = parts[0].tensors[0].clone();
    parts[1].tensors.push(tensor);
    for part in &mut parts {
        part.remove("split.tensors.count");
    }
    for (i, part) in parts.iter().enumerate() {
        part.write(&dir.path().join(part_name("tiny", i, 2)));
    }
    let error = Checkpoint::open(&dir.path().join(part_name("tiny", 1, 2))).unwrap_err();
    assert!(matches!(error, Error::TensorTwice { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("00001-of-00002") && text.contains("00002-of-00002"), "{text}");
}
