//! Headers of safetensors files that are not what they should be.

use std::fs;

use serde_json::{Value, json};
use testkit::raw::RawFile;

use crate::case::Case;

const FILE: &str = "model.safetensors";
/// The first tensor of the file in the order of its bytes; 40 × 16 of BF16.
const FIRST: &str = "lm_head.weight";
/// The second, of the same shape.
const SECOND: &str = "model.embed_tokens.weight";
/// The bytes of either.
const BYTES: u64 = 40 * 16 * 2;

#[track_caller]
fn check(edit: impl FnOnce(&mut RawFile), expected: &[&str]) {
    let case = Case::new();
    let path = case.file(FILE);
    let mut file = RawFile::read(&path);
    edit(&mut file);
    file.write(&path);
    let path = path.display().to_string();
    case.refused(&[expected, &[path.as_str()]].concat());
}

#[track_caller]
fn check_json(edit: impl FnOnce(&mut Value), expected: &[&str]) {
    check(|file| file.edit_header(edit), expected);
}

#[test]
fn the_fixture_is_what_these_tests_take_it_for() {
    let case = Case::new();
    let header: Value = serde_json::from_str(&RawFile::read(&case.file(FILE)).header).unwrap();
    assert_eq!(header[FIRST]["data_offsets"], json!([0, BYTES]));
    assert_eq!(header[SECOND]["data_offsets"], json!([BYTES, 2 * BYTES]));
}

#[test]
fn a_header_longer_than_its_file() {
    for header in [10_000_000_u64, u64::MAX, 1 << 63] {
        let case = Case::new();
        let path = case.file(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        case.refused(&[&path.display().to_string(), &header.to_string(), &bytes.len().to_string()]);
    }
}

#[test]
fn a_file_too_short_for_a_header() {
    for bytes in [&b""[..], b"\x08\0\0\0\0\0\0"] {
        let case = Case::new();
        fs::write(case.file(FILE), bytes).unwrap();
        case.refused(&[&case.file(FILE).display().to_string(), &bytes.len().to_string()]);
    }
}

#[test]
fn a_file_that_was_cut() {
    let case = Case::new();
    let path = case.file(FILE);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let (expected, found) = (bytes.len().to_string(), (bytes.len() - 100).to_string());
    case.refused(&[&path.display().to_string(), &expected, &found]);
}

#[test]
fn offsets_that_overlap() {
    check_json(
        |header| header[SECOND]["data_offsets"] = json!([BYTES - 4, 2 * BYTES - 4]),
        &[SECOND, &BYTES.to_string(), &(BYTES - 4).to_string()],
    );
    // Both have the same bytes.
    check_json(
        |header| header[SECOND]["data_offsets"] = json!([0, BYTES]),
        &[&BYTES.to_string(), " 0"],
    );
}

#[test]
fn offsets_that_leave_a_gap() {
    check(
        |file| {
            file.edit_header(|header| {
                let tensors = header.as_object_mut().unwrap();
                for tensor in tensors.iter_mut().filter(|(name, _)| *name != FIRST) {
                    for offset in tensor.1["data_offsets"].as_array_mut().into_iter().flatten() {
                        *offset = json!(offset.as_u64().unwrap() + 8);
                    }
                }
            });
            file.data.splice(0..0, [0; 8]);
        },
        &[SECOND, &BYTES.to_string(), &(BYTES + 8).to_string()],
    );
}

#[test]
fn a_gap_before_the_first_tensor() {
    check(
        |file| {
            file.edit_header(|header| {
                for tensor in header.as_object_mut().unwrap().values_mut() {
                    for offset in tensor["data_offsets"].as_array_mut().into_iter().flatten() {
                        *offset = json!(offset.as_u64().unwrap() + 8);
                    }
                }
            });
            file.data.splice(0..0, [0; 8]);
        },
        &[FIRST, " 0", " 8"],
    );
}

#[test]
fn bytes_behind_the_last_tensor() {
    let case = Case::new();
    let bytes = fs::metadata(case.file(FILE)).unwrap().len();
    check(|file| file.data.extend([0; 8]), &[&bytes.to_string(), &(bytes + 8).to_string()]);
}

#[test]
fn offsets_that_a_shape_contradicts() {
    check_json(
        |header| header[FIRST]["shape"] = json!([40, 17]),
        &[FIRST, "[40, 17]", &(40 * 17 * 2).to_string(), &BYTES.to_string()],
    );
    check_json(
        |header| header[FIRST]["dtype"] = json!("F32"),
        &[FIRST, "F32", &(2 * BYTES).to_string(), &BYTES.to_string()],
    );
    check_json(|header| header[FIRST]["data_offsets"] = json!([BYTES, 0]), &[FIRST]);
    // Its size overflows 64 bits, and comes to 0 in them.
    check_json(
        |header| {
            header[FIRST]["shape"] = json!([1_u64 << 32, 1_u64 << 32]);
            header[FIRST]["data_offsets"] = json!([0, 0]);
        },
        &[FIRST, "4294967296"],
    );
    check_json(|header| header[FIRST]["data_offsets"] = json!([u64::MAX - 1, u64::MAX]), &[FIRST]);
}

#[test]
fn a_name_that_stands_twice() {
    check(
        |file| {
            let tensor =
                format!(r#""{FIRST}":{{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}"#);
            file.header = file.header.replacen('{', &format!("{{{tensor},"), 1);
        },
        &[FIRST, "twice"],
    );
    // The same name in other characters.
    check(
        |file| {
            let tensor =
                r#""lm\u005fhead.weight":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}"#;
            file.header = file.header.replacen('{', &format!("{{{tensor},"), 1);
        },
        &[FIRST, "twice"],
    );
}

#[test]
fn a_header_that_is_not_a_table_of_tensors() {
    for header in ["", "[]", "{", "\u{0}{}", r#"{"lm_head.weight": 7}"#, "{}{}"] {
        check(|file| header.clone_into(&mut file.header), &[]);
    }
    check_json(|header| header[FIRST]["dtype"] = json!("BF17"), &["BF17"]);
    check_json(|header| header[FIRST]["shape"] = json!([-40, 16]), &["-40"]);
    check_json(
        |header| header[FIRST] = json!({ "dtype": "BF16", "shape": [40, 16] }),
        &["data_offsets"],
    );
}
