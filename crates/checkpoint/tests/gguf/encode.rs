//! Headers that are written, read back by the testkit's reader and by the Python package `gguf`.

use std::fs;
use std::path::Path;
use std::process::Command;

use checkpoint::gguf::header::{FILLER_KEY, encode};
use checkpoint::gguf::{GgmlType, Header, Metadata};
use serde_json::json;
use tempfile::tempdir;
use testkit::gguf::{self, Kind, RawGguf, TinyGguf, Value};

const BLOCK_BYTES: u64 = 4096;

/// The header of `file` written anew for `residue`, and its tensors behind it.
fn rewritten(
    file: &RawGguf,
    metadata: &Metadata,
    settings: &[(&str, &[f32])],
    residue: u64,
) -> Vec<u8> {
    let alignment = file.alignment as u64;
    let shapes: Vec<(&str, GgmlType, Vec<usize>)> = file
        .tensors
        .iter()
        .map(|tensor| {
            let shape = tensor.dims.iter().rev().map(|&dim| dim as usize).collect();
            let ggml_type = GgmlType::from_id(tensor.type_id).unwrap();
            (std::str::from_utf8(&tensor.name).unwrap(), ggml_type, shape)
        })
        .collect();
    let described = shapes.iter().map(|(name, ty, shape)| (*name, *ty, shape.as_slice()));
    let mut bytes = encode(metadata, settings, described, alignment, residue);
    assert_eq!(bytes.len() as u64 % BLOCK_BYTES, residue, "where the tensors begin");
    for tensor in &file.tensors {
        bytes.extend(&tensor.bytes);
        bytes.resize(bytes.len().next_multiple_of(file.alignment), 0);
    }
    bytes
}

fn metadata_of(file: &RawGguf) -> Metadata {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    file.write(&path);
    Header::read(&path).unwrap().metadata
}

/// A file of every type of value and several of tensors, whose lengths are no multiples of anything.
fn manifold() -> RawGguf {
    let model = TinyGguf {
        block_count: 1,
        has_tokens: true,
        other_kinds: vec![
            ("attn_q", "Q5_0"),
            ("attn_k", "IQ4_XS"),
            ("attn_v", "Q6_K"),
            ("ffn_up", "F16"),
        ],
        extra_keys: vec![
            ("test.u8", Value::U8(1)),
            ("test.i8", Value::I8(-1)),
            ("test.u16", Value::U16(1)),
            ("test.i16", Value::I16(-1)),
            ("test.u64", Value::U64(u64::MAX)),
            ("test.i64", Value::I64(i64::MIN)),
            ("test.f64", Value::F64(0.1)),
            ("test.bool", Value::Bool(true)),
            ("test.text", Value::text("Grüße")),
            (
                "test.nested",
                Value::array([Value::array([Value::U8(1)]), Value::array([Value::U8(2)])]),
            ),
        ],
        ..TinyGguf::default()
    };
    model.file()
}

/// Every residue that the alignment allows: nothing but a filler key may come of it.
#[test]
fn a_filler_for_every_residue() {
    for alignment in [32, 256, 2048, 1] {
        let file = TinyGguf { block_count: 1, vocab_size: 1, ..TinyGguf::of("Q4_0") }
            .file()
            .aligned(alignment);
        let metadata = metadata_of(&file);
        let mut fillers = Vec::new();
        let step = if alignment == 1 { 17 } else { alignment as usize };
        for residue in (0..BLOCK_BYTES).step_by(step) {
            let read = gguf::read_bytes(&rewritten(&file, &metadata, &[], residue));
            assert_eq!(read.data_start % BLOCK_BYTES, residue);
            let filler = read.get(FILLER_KEY).map(|value| value.as_text().len());
            let others: Vec<_> =
                read.keys.iter().filter(|(key, _)| key != FILLER_KEY).cloned().collect();
            assert_eq!(others, file.keys);
            assert!(filler.is_none_or(|length| length < BLOCK_BYTES as usize));
            fillers.push(filler);
        }
        let without = fillers.iter().filter(|filler| filler.is_none()).count();
        assert!(without == 1 || alignment == 1, "{without} residues need no filler");
    }
    for alignment in [4096, 16384, 65536] {
        let file = TinyGguf { block_count: 1, ..TinyGguf::default() }.file().aligned(alignment);
        let _ = gguf::read_bytes(&rewritten(&file, &metadata_of(&file), &[], 0));
    }
}

#[test]
fn a_filler_that_was_there_is_replaced() {
    let mut file = manifold();
    file.set(FILLER_KEY, Value::text(&"-".repeat(5000)));
    let read = gguf::read_bytes(&rewritten(&file, &metadata_of(&file), &[], 32));
    assert!(read.text(FILLER_KEY).len() < BLOCK_BYTES as usize);
}

/// Small vectors that stand before all other tensors and are part of the header.
#[test]
fn settings_that_are_tensors() {
    let mut file = manifold();
    for alignment in [32, 128, 4096] {
        file = file.aligned(alignment);
        let factors: Vec<f32> = (0_u8..7).map(|i| f32::from(i) / 2.0).collect();
        let settings = [("rope_freqs.weight", factors.as_slice()), ("rope_factors.weight", &[1.5])];
        for residue in [0, u64::from(alignment) % BLOCK_BYTES] {
            let bytes = rewritten(&file, &metadata_of(&file), &settings, residue);
            let read = gguf::read_bytes(&bytes);
            assert_eq!(read.tensors.len(), file.tensors.len() + 2);
            let found = &read.tensors["rope_freqs.weight"];
            assert_eq!((found.kind, &found.shape), (Kind::of("F32"), &vec![7]));
            assert_eq!(gguf::decode::values(found), factors);
            assert_eq!(gguf::decode::values(&read.tensors["rope_factors.weight"]), [1.5]);
        }
    }
}

/// What is set, re-ordered or dropped; all else stays byte for byte and in its order.
#[test]
fn metadata_that_is_edited() {
    let file = manifold();
    let mut metadata = metadata_of(&file);
    metadata.set("llama.block_count", &48_u32);
    metadata.set(
        "test.new",
        vec!["a", "b"].into_iter().map(str::to_owned).collect::<Vec<_>>().as_slice(),
    );
    metadata.reorder("tokenizer.ggml.tokens", &[2, 2, 0]);
    metadata.reorder("test.nested", &[1, 0, 1]);
    metadata.remove(|key| key.starts_with("test.i"));
    let read = gguf::read_bytes(&rewritten(&file, &metadata, &[], 0));

    let mut expected = file.keys.clone();
    let mut set =
        |key: &str, value: Value| match expected.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => expected.push((key.to_owned(), value)),
        };
    let bytes = |n: u8| Value::array([Value::U8(n)]);
    set("llama.block_count", Value::U32(48));
    set("test.new", Value::array([Value::text("a"), Value::text("b")]));
    set("tokenizer.ggml.tokens", Value::array(["</s>", "</s>", "<unk>"].map(Value::text)));
    set("test.nested", Value::array([bytes(2), bytes(1), bytes(2)]));
    expected.retain(|(key, _)| !key.starts_with("test.i"));
    let found: Vec<_> = read.keys.into_iter().filter(|(key, _)| key != FILLER_KEY).collect();
    assert_eq!(found, expected);
}

/// Prints what gguf-py reads: the keys with their types and values, the tensors with their bytes.
const SCRIPT: &str = r"
import json, sys
from gguf import GGUFReader
from gguf.constants import GGUFValueType
reader = GGUFReader(sys.argv[1])
keys = {}
for name, field in reader.fields.items():
    if not name.startswith('GGUF.'):
        value = field.contents() if GGUFValueType.ARRAY not in field.types[1:] else 'nested'
        keys[name] = [[int(t) for t in field.types], value]
tensors = {t.name: [int(t.tensor_type), [int(n) for n in t.shape], t.data.tobytes().hex()] for t in reader.tensors}
json.dump({'keys': keys, 'tensors': tensors, 'alignment': int(reader.alignment)}, sys.stdout)
";

/// The interpreter with the package `gguf`; says so where there is none.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn python() -> Option<String> {
    let python = std::env::var("DUS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let tried = Command::new(&python).args(["-c", "import gguf"]).output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: {python} has no package gguf; DUS_TEST_PYTHON names another python");
    }
    works.then_some(python)
}

fn read_by_python(python: &str, path: &Path) -> serde_json::Value {
    let output = Command::new(python).args(["-c", SCRIPT]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The bytes of two digits each.
fn bytes_of(hex: &serde_json::Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks_exact(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

#[test]
fn gguf_py_reads_what_is_written() {
    let Some(python) = python() else { return };
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for alignment in [32, 4096] {
        let file = manifold().aligned(alignment);
        let settings = [("rope_freqs.weight", &[1.0_f32, 2.0][..])];
        fs::write(&path, rewritten(&file, &metadata_of(&file), &settings, 0)).unwrap();
        let read = read_by_python(&python, &path);
        assert_eq!(read["alignment"], alignment);
        let keys = read["keys"].as_object().unwrap();
        assert_eq!(keys.len(), file.keys.len() + usize::from(keys.contains_key(FILLER_KEY)));
        for (key, value) in &file.keys {
            assert_eq!(keys[key][0][0], value.type_id(), "{key}");
        }
        assert_eq!(keys["llama.block_count"], json!([[4], 1]));
        assert_eq!(keys["test.text"], json!([[8], "Grüße"]));
        assert_eq!(keys["test.u64"], json!([[10], u64::MAX]));
        assert_eq!(keys["tokenizer.ggml.tokens"][1][2], "</s>");

        let tensors = read["tensors"].as_object().unwrap();
        assert_eq!(tensors.len(), file.tensors.len() + 1);
        assert_eq!(tensors["rope_freqs.weight"][2], "0000803f00000040");
        for tensor in &file.tensors {
            let found = &tensors[std::str::from_utf8(&tensor.name).unwrap()];
            assert_eq!((&found[0], &found[1]), (&tensor.type_id.into(), &json!(tensor.dims)));
            assert_eq!(bytes_of(&found[2]), tensor.bytes);
        }
    }
}

/// The testkit's table against gguf-py's, which knows fewer types and has `Q8_1` as it once was.
#[test]
fn gguf_py_has_the_same_types() {
    let Some(python) = python() else { return };
    let script = "import json
from gguf.constants import GGML_QUANT_SIZES as sizes
print(json.dumps({t.name: [int(t), *sizes[t]] for t in sizes}))";
    let output = Command::new(python).args(["-c", script]).output().unwrap();
    let known: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, sizes) in known.as_object().unwrap() {
        let kind = Kind::of(name);
        if name != "Q8_1" {
            assert_eq!(*sizes, json!([kind.id, kind.elements, kind.bytes]), "{name}");
        }
    }
}
