//! Versions, types, alignments: what is read is what was written.

use std::fs;
use std::path::Path;

use checkpoint::Checkpoint;
use checkpoint::gguf::{GgmlType, Header};
use tempfile::tempdir;
use testkit::gguf::kind::KINDS;
use testkit::gguf::{Kind, RawGguf, RawTensor, TinyGguf, Value};

/// Writes `file`, reads its header, and compares every tensor's type, shape and bytes.
#[track_caller]
fn check(file: &RawGguf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    file.write(&path);
    let header = Header::read(&path).unwrap_or_else(|error| panic!("{error:?}"));
    let bytes = fs::read(&path).unwrap();

    assert_eq!(header.alignment, file.alignment as u64);
    assert_eq!(header.tensors.len(), file.tensors.len());
    for (found, tensor) in header.tensors.iter().zip(&file.tensors) {
        assert_eq!(found.name.as_bytes(), tensor.name);
        assert_eq!(found.ggml_type.id(), tensor.type_id, "{}", found.name);
        let dims: Vec<u64> = found.shape.iter().rev().map(|&dim| dim as u64).collect();
        assert_eq!(dims, tensor.dims, "{}", found.name);
        let range = found.range.start as usize..found.range.end as usize;
        assert_eq!(bytes[range], tensor.bytes, "{}", found.name);
    }
    let keys: Vec<&str> = header.metadata.keys().collect();
    let expected: Vec<&str> = file.keys.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, expected);
}

#[test]
fn both_versions() {
    for version in [2, 3] {
        check(&TinyGguf { version, has_tokens: true, ..TinyGguf::default() }.file());
    }
}

#[test]
fn every_alignment() {
    for power in 0..=16 {
        for fills_last in [true, false] {
            let kinds = vec![("attn_q", "Q6_K"), ("attn_k", "MXFP4"), ("ffn_up", "BF16")];
            let model = TinyGguf {
                block_count: 1,
                alignment: Some(1 << power),
                other_kinds: kinds,
                ..TinyGguf::default()
            };
            let mut file = model.file();
            file.fills_last = fills_last;
            check(&file);
        }
    }
}

/// Numbers and block sizes are llama.cpp's, by the testkit's own table.
#[test]
fn every_type() {
    assert_eq!(GgmlType::ALL.len(), KINDS.len());
    for kind in KINDS {
        let found = GgmlType::from_id(kind.id).unwrap();
        let sizes = (found.name(), found.block_elements(), found.block_bytes());
        assert_eq!(sizes, (kind.name, kind.elements, kind.bytes));
        let shapes = [vec![kind.elements], vec![3, 2 * kind.elements], vec![2, 3, kind.elements]];
        let mut tensors: Vec<RawTensor> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| RawTensor::random(&format!("t{i}"), *kind, shape, kind.name))
            .collect();
        tensors.push(RawTensor::random("last", Kind::of("I8"), &[1], "last"));
        check(&RawGguf::new(Vec::new(), tensors));
    }
}

#[test]
fn shapes_from_none_to_four_dimensions() {
    let shapes: [&[usize]; 6] = [&[], &[1], &[7], &[3, 5], &[2, 3, 4], &[2, 1, 3, 5]];
    let tensor = |(i, shape): (usize, &&[usize])| {
        RawTensor::random(&format!("t{i}"), Kind::of("F32"), shape, "shapes")
    };
    check(&RawGguf::new(Vec::new(), shapes.iter().enumerate().map(tensor).collect()));
}

#[test]
fn a_file_without_keys_or_tensors() {
    check(&RawGguf::new(Vec::new(), Vec::new()));
    check(&RawGguf::new(vec![("general.name".to_owned(), Value::text(""))], Vec::new()));
}

/// Tensors are told in the order of their bytes, wherever their records stand.
#[test]
fn records_in_another_order() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut file = RawGguf::new(
        Vec::new(),
        ["a", "b", "c"].map(|n| RawTensor::random(n, Kind::of("F32"), &[8], n)).to_vec(),
    );
    for (tensor, offset) in file.tensors.iter_mut().zip([64, 0, 32]) {
        tensor.offset = Some(offset);
    }
    file.write(&path);
    let header = Header::read(&path).unwrap();
    let names: Vec<&str> = header.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
}

/// Holes between tensors, what fills them and what stands behind the last one mean nothing.
#[test]
fn holes_of_any_bytes() {
    let mut file = TinyGguf { block_count: 1, ..TinyGguf::of("Q5_1") }.file().aligned(256);
    file.filling = 0xa5;
    check(&file);
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut bytes = file.bytes();
    bytes.extend([0xff; 1000]);
    fs::write(&path, bytes).unwrap();
    assert_eq!(Header::read(&path).unwrap().tensors.len(), file.tensors.len());
}

/// As a model, tensors have Hugging Face's names.
#[test]
fn a_model_is_opened() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let model = TinyGguf { alignment: Some(64), ..TinyGguf::default() };
    model.write(&path);
    let (checkpoint, read) = (Checkpoint::open(&path).unwrap(), model.read());
    assert_eq!(checkpoint.tensors().len(), read.tensors.len());
    assert_eq!(checkpoint.gguf().unwrap().alignment, 64);
    assert_eq!(checkpoint.files().len(), 1);
    check_tensor(&checkpoint, &path, "model.embed_tokens.weight", &read, "token_embd.weight");
    check_tensor(&checkpoint, &path, "lm_head.weight", &read, "output.weight");
    let (hf, gguf) = ("model.layers.3.self_attn.o_proj.weight", "blk.3.attn_output.weight");
    check_tensor(&checkpoint, &path, hf, &read, gguf);
    let (hf, gguf) = ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight");
    check_tensor(&checkpoint, &path, hf, &read, gguf);
}

#[track_caller]
fn check_tensor(
    checkpoint: &Checkpoint,
    path: &Path,
    name: &str,
    read: &testkit::gguf::ReadGguf,
    gguf_name: &str,
) {
    let found = checkpoint.tensor(name).unwrap_or_else(|| panic!("there is no {name}"));
    let expected = &read.tensors[gguf_name];
    assert_eq!(found.encoding.ggml_type().unwrap().name(), expected.kind.name, "{name}");
    assert_eq!(found.shape, expected.shape, "{name}");
    let bytes = fs::read(path).unwrap();
    let range = found.range.start as usize..found.range.end as usize;
    assert_eq!(bytes[range], expected.bytes, "{name}");
}
