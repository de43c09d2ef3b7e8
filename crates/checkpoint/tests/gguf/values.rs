//! Typed metadata: all types, arrays in arrays, and what each getter makes of them.

use checkpoint::gguf::{Header, Metadata, value};
use tempfile::tempdir;
use testkit::gguf::{RawGguf, Value};

/// The metadata of a file with `keys`.
fn metadata(keys: Vec<(String, Value)>) -> Metadata {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    RawGguf::new(keys, Vec::new()).write(&path);
    // The map outlives the file's name.
    Header::read(&path).unwrap().metadata
}

/// Reads `value` and compares it, type and all.
#[track_caller]
fn check(written: &Value) {
    let metadata = metadata(vec![("key".to_owned(), written.clone())]);
    compare(metadata.get("key").unwrap(), written);
}

#[track_caller]
fn compare(found: value::Value, written: &Value) {
    use value::Value as Found;
    match (found, written) {
        (Found::Unsigned(found), Value::U8(value)) => assert_eq!(found, u64::from(*value)),
        (Found::Unsigned(found), Value::U16(value)) => assert_eq!(found, u64::from(*value)),
        (Found::Unsigned(found), Value::U32(value)) => assert_eq!(found, u64::from(*value)),
        (Found::Unsigned(found), Value::U64(value)) => assert_eq!(found, *value),
        (Found::Signed(found), Value::I8(value)) => assert_eq!(found, i64::from(*value)),
        (Found::Signed(found), Value::I16(value)) => assert_eq!(found, i64::from(*value)),
        (Found::Signed(found), Value::I32(value)) => assert_eq!(found, i64::from(*value)),
        (Found::Signed(found), Value::I64(value)) => assert_eq!(found, *value),
        (Found::F32(found), Value::F32(value)) => assert_eq!(found.to_bits(), value.to_bits()),
        (Found::F64(found), Value::F64(value)) => assert_eq!(found.to_bits(), value.to_bits()),
        (Found::Bool(found), Value::Bool(value)) => assert_eq!(found, *value),
        (Found::String(found), Value::Bytes(value)) => assert_eq!(found, value),
        (Found::Array(found), Value::Array(element, values)) => {
            assert_eq!(found.element().id(), *element);
            assert_eq!((found.len(), found.is_empty()), (values.len(), values.is_empty()));
            assert_eq!(found.iter().count(), values.len());
            for (found, value) in found.iter().zip(values) {
                compare(found, value);
            }
        }
        (found, written) => panic!("{written:?} was read as {found:?}"),
    }
}

/// A value of each type at its ends.
fn all() -> Vec<Value> {
    vec![
        Value::U8(u8::MAX),
        Value::I8(i8::MIN),
        Value::U16(u16::MAX),
        Value::I16(i16::MIN),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::F32(f32::MIN_POSITIVE),
        Value::F32(-0.0),
        Value::F32(f32::NAN),
        Value::Bool(false),
        Value::Bool(true),
        Value::text(""),
        Value::text("Grüße, 世界\0"),
        Value::Bytes(vec![0xff, 0xfe, 0]),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(f64::NEG_INFINITY),
    ]
}

#[test]
fn every_type() {
    all().iter().for_each(check);
}

#[test]
fn arrays_of_every_type() {
    for value in all() {
        check(&Value::Array(value.type_id(), Vec::new()));
        check(&Value::array([value.clone(), value.clone(), value]));
    }
}

#[test]
fn arrays_in_arrays() {
    let inner = Value::array([Value::text("a"), Value::text("")]);
    let twice = Value::array([inner, Value::Array(8, Vec::new())]);
    check(&twice);
    check(&Value::array([twice.clone(), twice, Value::Array(9, Vec::new())]));
    check(&Value::array([Value::array([Value::array([Value::array([Value::U8(7)])])])]));
}

/// Numbers are taken from any type that holds them; what they are not is an error that names the key.
#[test]
fn getters_take_what_holds_the_value() {
    let key = |value: Value| metadata(vec![("key".to_owned(), value)]);
    for value in [
        Value::U8(7),
        Value::I8(7),
        Value::U16(7),
        Value::I16(7),
        Value::U32(7),
        Value::I32(7),
        Value::U64(7),
        Value::I64(7),
    ] {
        let metadata = key(value);
        assert_eq!(metadata.u64("key").unwrap(), Some(7));
        assert_eq!(metadata.f64("key").unwrap(), Some(7.0));
    }
    assert_eq!(key(Value::F32(0.5)).f64("key").unwrap(), Some(0.5));
    assert_eq!(key(Value::F64(0.5)).f64("key").unwrap(), Some(0.5));
    assert_eq!(key(Value::Bool(true)).bool("key").unwrap(), Some(true));
    assert_eq!(key(Value::text("it")).str("key").unwrap(), Some("it"));
    let array = key(Value::array([Value::I32(-1)]));
    assert_eq!(array.array("key").unwrap().unwrap().iter().next().unwrap().as_i64(), Some(-1));

    let none = metadata(Vec::new());
    assert_eq!(none.u64("key").unwrap(), None);
    assert_eq!(none.str("key").unwrap(), None);

    let said = |error: checkpoint::Error| error.to_string();
    let messages = [
        said(key(Value::I32(-1)).u64("key").unwrap_err()),
        said(key(Value::F32(7.0)).u64("key").unwrap_err()),
        said(key(Value::text("7")).f64("key").unwrap_err()),
        said(key(Value::U8(1)).bool("key").unwrap_err()),
        said(key(Value::Bytes(vec![0xff])).str("key").unwrap_err()),
        said(key(Value::U8(1)).array("key").unwrap_err()),
    ];
    for message in messages {
        assert!(message.contains("`key`") && message.contains("model.gguf"), "{message}");
    }
}
