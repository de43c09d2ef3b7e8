//! A file read back, as strictly as llama.cpp reads it: every byte must have its place.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use super::kind::Kind;
use super::value::Value;

/// What a file holds.
#[derive(Debug, Clone)]
pub struct ReadGguf {
    /// Its version.
    pub version: u32,
    /// Its metadata, in order.
    pub keys: Vec<(String, Value)>,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, GgufTensor>,
    /// What tensors' beginnings are multiples of.
    pub alignment: u64,
    /// Where the first tensor begins.
    pub data_start: u64,
}

/// A tensor of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its type.
    pub kind: Kind,
    /// Its shape, the rows' length last.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where it begins in the file.
    pub begin: u64,
}

impl GgufTensor {
    /// Whether type, shape and bytes are those of `other`, wherever both lie.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.shape, &self.bytes) == (other.kind, &other.shape, &other.bytes)
    }
}

impl fmt::Debug for GgufTensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { kind, shape, bytes, begin } = self;
        let first: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        write!(f, "{} {shape:?} {}… ({} B at {begin})", kind.name, first.join(" "), bytes.len())
    }
}

impl ReadGguf {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// The text that `key` has.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("there is no {key}")).as_text()
    }
}

/// Reads the file at `path`; anything that llama.cpp would refuse in it panics.
#[must_use]
pub fn read(path: &Path) -> ReadGguf {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    read_bytes(&bytes)
}

/// The same of a file's bytes.
#[must_use]
pub fn read_bytes(bytes: &[u8]) -> ReadGguf {
    let mut reader = Reader { bytes, at: 0 };
    assert_eq!(reader.take(4), b"GGUF");
    let version = reader.u32();
    assert!(matches!(version, 2 | 3), "version {version}");
    let (num_tensors, num_keys) = (reader.u64(), reader.u64());
    let mut keys: Vec<(String, Value)> = Vec::new();
    for _ in 0..num_keys {
        let key = reader.text();
        assert!(keys.iter().all(|(known, _)| *known != key), "{key} stands twice");
        let type_id = reader.u32();
        keys.push((key, reader.value(type_id)));
    }
    let alignment = match keys.iter().find(|(key, _)| key == "general.alignment") {
        None => 32,
        Some((_, Value::U32(alignment))) => u64::from(*alignment),
        Some((_, other)) => panic!("general.alignment is {other:?}"),
    };
    assert!(alignment.is_power_of_two());

    let mut infos = Vec::new();
    for _ in 0..num_tensors {
        let name = reader.text();
        assert!(name.len() < 64, "{name} is too long for ggml");
        let num_dims = reader.u32();
        assert!((1..=4).contains(&num_dims), "{name} has {num_dims} dimensions");
        let mut shape: Vec<usize> = (0..num_dims).map(|_| reader.u64() as usize).collect();
        let kind = Kind::of_id(reader.u32());
        assert!(shape[0].is_multiple_of(kind.elements), "{name}: {} of {shape:?}", kind.name);
        shape.reverse();
        infos.push((name, kind, shape, reader.u64()));
    }
    let header_bytes = reader.at as u64;
    let data_start = header_bytes.next_multiple_of(alignment);
    assert!(bytes[reader.at..data_start as usize].iter().all(|&byte| byte == 0));

    let (mut tensors, mut end) = (BTreeMap::new(), 0);
    for (name, kind, shape, offset) in infos {
        assert_eq!(offset, end, "{name} begins at {offset}, and not at {end}");
        let begin = data_start + offset;
        let length = kind.tensor_bytes(&shape) as u64;
        end = (offset + length).next_multiple_of(alignment);
        let found = &bytes[begin as usize..(begin + length) as usize];
        let tensor = GgufTensor { kind, shape, bytes: found.to_vec(), begin };
        assert!(tensors.insert(name.clone(), tensor).is_none(), "{name} stands twice");
    }
    assert!(bytes.len() as u64 <= data_start + end, "there is something behind the last tensor");
    ReadGguf { version, keys, tensors, alignment, data_start }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        taken
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("as many bytes were taken")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }

    fn string(&mut self) -> Vec<u8> {
        let length = self.u64() as usize;
        self.take(length).to_vec()
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.string()).expect("names are UTF-8")
    }

    fn value(&mut self, type_id: u32) -> Value {
        match type_id {
            0 => Value::U8(self.take(1)[0]),
            1 => Value::I8(i8::from_le_bytes(self.number())),
            2 => Value::U16(u16::from_le_bytes(self.number())),
            3 => Value::I16(i16::from_le_bytes(self.number())),
            4 => Value::U32(self.u32()),
            5 => Value::I32(i32::from_le_bytes(self.number())),
            6 => Value::F32(f32::from_le_bytes(self.number())),
            7 => match self.take(1)[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => panic!("a bool of {other}"),
            },
            8 => Value::Bytes(self.string()),
            9 => {
                let (element, length) = (self.u32(), self.u64());
                Value::Array(element, (0..length).map(|_| self.value(element)).collect())
            }
            10 => Value::U64(self.u64()),
            11 => Value::I64(i64::from_le_bytes(self.number())),
            12 => Value::F64(f64::from_le_bytes(self.number())),
            other => panic!("a value of type {other}"),
        }
    }
}
