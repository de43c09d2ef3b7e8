//! Everything that can be wrong with a file, each by its error.

use std::fs;

use checkpoint::gguf::{GgufError, Header};
use checkpoint::{Checkpoint, Error};
use tempfile::tempdir;
use testkit::gguf::{Kind, RawGguf, RawTensor, TinyGguf, Value};

fn sound() -> RawGguf {
    TinyGguf { block_count: 1, ..TinyGguf::default() }.file()
}

/// Spoils a sound file, reads it, and asserts what is wrong with it.
#[track_caller]
fn check(spoil: impl FnOnce(&mut RawGguf), is_expected: impl FnOnce(&GgufError) -> bool) {
    let mut file = sound();
    spoil(&mut file);
    check_bytes(&file.bytes(), is_expected);
}

#[track_caller]
fn check_bytes(bytes: &[u8], is_expected: impl FnOnce(&GgufError) -> bool) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let error = Header::read(&path).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    let Error::Gguf { source, .. } = &error else { panic!("{error:?}") };
    assert!(is_expected(source), "{source:?}: {source}");
    let opened = Checkpoint::open(&path).unwrap_err();
    assert_eq!(format!("{opened:?}"), format!("{error:?}"));
}

/// The same for what is told in words.
#[track_caller]
fn check_header(spoil: impl FnOnce(&mut RawGguf), expected: &str) {
    check(spoil, |error| match error {
        GgufError::Header { what } => {
            assert_eq!(what, expected);
            true
        }
        _ => false,
    });
}

#[test]
fn what_is_no_gguf() {
    check(|file| file.magic = *b"GGML", |error| matches!(error, GgufError::Magic));
    check(|file| file.magic = *b"GGUf", |error| matches!(error, GgufError::Magic));
    for bytes in [&b""[..], b"G", b"GGU"] {
        check_bytes(bytes, |error| matches!(error, GgufError::Magic));
    }
}

#[test]
fn versions_that_are_not_read() {
    for version in [0, 1, 4, 255, u32::MAX] {
        let is_it =
            |error: &GgufError| matches!(error, GgufError::Version { version: v } if *v == version);
        check(|file| file.version = version, is_it);
    }
    for version in [1_u32, 2, 3] {
        let swap = |file: &mut RawGguf| file.version = version.swap_bytes();
        check(swap, |error| matches!(error, GgufError::BigEndian));
    }
}

#[test]
fn a_header_that_ends_early() {
    let header = sound().header();
    for length in 4..header.len() {
        let is_it = |error: &GgufError| matches!(error, GgufError::EndsEarly { bytes } if *bytes == length as u64);
        check_bytes(&header[..length], is_it);
    }
}

/// Counts and lengths larger than the file are known as such before memory is asked for.
#[test]
fn counts_beyond_the_file() {
    let ends = |error: &GgufError| matches!(error, GgufError::EndsEarly { .. });
    for count in [1 << 20, 1 << 40, u64::MAX / 8, u64::MAX] {
        let lone = |value: Value| RawGguf::new(vec![("key".to_owned(), value)], Vec::new()).bytes();
        let mut file = RawGguf::new(Vec::new(), Vec::new());
        file.num_tensors = Some(count);
        check_bytes(&file.bytes(), ends);
        file.num_tensors = None;
        file.num_keys = Some(count);
        check_bytes(&file.bytes(), |error| {
            ends(error) || matches!(error, GgufError::Header { .. })
        });
        check_bytes(&lone(Value::Raw(8, count.to_le_bytes().to_vec())), ends);
        for element in [0, 3, 5, 7, 8, 9, 12] {
            let array = [&u32::to_le_bytes(element)[..], &count.to_le_bytes()].concat();
            check_bytes(&lone(Value::Raw(9, array)), ends);
        }
    }
}

#[test]
fn values_that_no_file_has() {
    for id in [13, 100, u32::MAX] {
        let what = format!("in `key`: a value has the unknown type {id}");
        check_header(|file| file.set("key", Value::Raw(id, vec![0; 8])), &what);
        check_header(|file| file.set("key", Value::Array(id, Vec::new())), &what);
    }
    check_header(
        |file| file.set("key", Value::Raw(7, vec![2])),
        "in `key`: a bool has the value 2",
    );
    check_header(
        |file| file.set("key", Value::array([Value::Bool(true), Value::Raw(7, vec![255])])),
        "in `key`: a bool in an array is neither 0 nor 1",
    );
    // Arrays of one array each, down to one of a byte.
    let array = |element: u32| [&element.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
    for depth in [5, 100, 100_000] {
        let nested = [array(9).repeat(depth - 1), array(0), vec![1]].concat();
        check_header(
            |file| file.set("key", Value::Raw(9, nested)),
            "in `key`: arrays are nested too deep",
        );
    }
}

#[test]
fn a_key_that_stands_twice() {
    let twice = |file: &mut RawGguf| file.keys.push(("general.name".to_owned(), Value::U8(1)));
    check_header(twice, "the key `general.name` stands in it twice");
}

#[test]
fn alignments_that_no_loader_takes() {
    for alignment in [0, 3, 24, 100, 1 << 17, u32::MAX] {
        let is_it = |error: &GgufError| matches!(error, GgufError::Alignment { found } if *found == u64::from(alignment));
        check(|file| file.set("general.alignment", Value::U32(alignment)), is_it);
    }
}

#[test]
fn an_alignment_that_is_no_number() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for value in [Value::text("32"), Value::I32(-32), Value::F32(32.0)] {
        let mut file = sound();
        file.set("general.alignment", value);
        file.write(&path);
        let error = Header::read(&path).unwrap_err();
        assert!(
            matches!(&error, Error::Key { key, .. } if key == "general.alignment"),
            "{error:?}"
        );
    }
}

const TENSOR: &str = "blk.0.attn_q.weight";

#[test]
fn types_that_are_not_known() {
    for id in [4, 5, 31, 33, 36, 38, 43, 1000, u32::MAX] {
        let is_it = |error: &GgufError| matches!(error, GgufError::TensorType { tensor, id: i } if tensor == TENSOR && *i == id);
        check(|file| file.tensor(TENSOR).type_id = id, is_it);
    }
}

#[test]
fn rows_that_are_no_whole_blocks() {
    let shapes: [&[u64]; 5] = [&[255, 256], &[128, 512], &[1], &[], &[u64::MAX, u64::MAX]];
    for dims in shapes {
        let is_it = |error: &GgufError| matches!(error, GgufError::Shape { tensor, shape, .. } if tensor == TENSOR && shape == dims);
        check(|file| file.tensor(TENSOR).dims = dims.to_vec(), is_it);
    }
    // Whole blocks, but more of them than can be counted.
    let is_it = |error: &GgufError| matches!(error, GgufError::Shape { .. });
    check(|file| file.tensor(TENSOR).dims = vec![1 << 32, 1 << 32], is_it);
    let numbers = |file: &mut RawGguf| {
        let tensor = file.tensor(TENSOR);
        (tensor.type_id, tensor.dims) = (Kind::of("F64").id, vec![1 << 61]);
    };
    check(numbers, is_it);
}

#[test]
fn more_dimensions_than_ggml_has() {
    let five = |file: &mut RawGguf| file.tensor(TENSOR).dims = vec![256, 1, 1, 1, 1];
    check_header(five, &format!("`{TENSOR}` has 5 dimensions"));
}

#[test]
fn names_that_are_no_text() {
    check_header(|file| file.tensors[0].name = vec![0xff], "the name of tensor 0 is not UTF-8");
    check_bytes(
        &[
            b"GGUF",
            &[3, 0, 0, 0][..],
            &[0; 8],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[0xff],
        ]
        .concat(),
        |error| matches!(error, GgufError::Header { what } if what == "key 0 is not UTF-8"),
    );
}

#[test]
fn a_tensor_at_an_odd_place() {
    for (alignment, offset) in [(32, 16), (32, 1), (64, 32), (65536, 4096)] {
        let mut file = sound().aligned(alignment);
        file.tensor(TENSOR).offset = Some(offset);
        let is_it = |error: &GgufError| {
            matches!(error, GgufError::Offset { tensor, offset: o, alignment: a }
                if tensor == TENSOR && *o == offset && *a == u64::from(alignment))
        };
        check_bytes(&file.bytes(), is_it);
    }
}

#[test]
fn a_tensor_past_the_end() {
    let is_it = |error: &GgufError| matches!(error, GgufError::PastEnd { .. });
    let bytes = sound().bytes();
    // The last tensor is Q6_K, 210 bytes a block: 40 blocks end 16 bytes before the file.
    for cut in [17, 100, 10_000] {
        check_bytes(&bytes[..bytes.len() - cut], is_it);
    }
    for offset in [1 << 30, 1 << 62, u64::MAX - 31] {
        check(|file| file.tensor(TENSOR).offset = Some(offset), is_it);
    }
    check(|file| file.tensor(TENSOR).dims = vec![256, 1 << 40], is_it);
}

#[test]
fn tensors_that_share_bytes() {
    let both = |error: &GgufError| {
        matches!(error, GgufError::Overlap { first, second }
            if [first, second].iter().any(|name| *name == TENSOR))
    };
    for offset in [0, 32, 64] {
        check(|file| file.tensor(TENSOR).offset = Some(offset), both);
    }
}

#[test]
fn a_name_that_stands_twice() {
    let twice = |file: &mut RawGguf| {
        file.tensors.push(RawTensor::random(TENSOR, Kind::of("F32"), &[8], "other"));
    };
    check(twice, |error| matches!(error, GgufError::TensorTwice { tensor } if tensor == TENSOR));
}

/// What only a model must have.
#[test]
fn files_that_are_no_model() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let open = |spoil: &dyn Fn(&mut RawGguf)| {
        let mut file = sound();
        spoil(&mut file);
        file.write(&path);
        match Checkpoint::open(&path).unwrap_err() {
            Error::Gguf { source, .. } => source,
            other => panic!("{other:?}"),
        }
    };
    let set =
        |value: Value| move |file: &mut RawGguf| file.set("general.architecture", value.clone());
    let unknown = open(&set(Value::text("clip")));
    assert!(
        matches!(&unknown, GgufError::Architecture { found, known } if found == "clip" && known.contains("llama")),
        "{unknown:?}"
    );
    let tensor = open(&|file| file.tensor(TENSOR).name = b"blk.0.flux_capacitor.weight".to_vec());
    assert!(
        matches!(&tensor, GgufError::UnknownTensor { tensor, .. } if tensor == "blk.0.flux_capacitor.weight"),
        "{tensor:?}"
    );
}
