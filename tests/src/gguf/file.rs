//! A file's header and bytes, put together with nothing checked.

use std::fs;
use std::path::{Path, PathBuf};

use super::kind::Kind;
use super::value::Value;

/// A file, any part of which may be wrong.
#[derive(Debug, Clone)]
pub struct RawGguf {
    /// The first four bytes: `GGUF`.
    pub magic: [u8; 4],
    /// 2 or 3.
    pub version: u32,
    /// The count of tensors in the header, if it is not the true one.
    pub num_tensors: Option<u64>,
    /// The count of keys in the header, if it is not the true one.
    pub num_keys: Option<u64>,
    /// The metadata, in order.
    pub keys: Vec<(String, Value)>,
    /// The tensors, in the order of their records and bytes.
    pub tensors: Vec<RawTensor>,
    /// What tensors are aligned to; the key that says so stands in `keys`.
    pub alignment: usize,
    /// Whether the last tensor is filled up to the alignment too.
    pub fills_last: bool,
    /// What fills holes: 0 in files as they should be.
    pub filling: u8,
}

/// A tensor of a file.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// Its name.
    pub name: Vec<u8>,
    /// Its shape as the file has it: the rows' length first.
    pub dims: Vec<u64>,
    /// The number of its type.
    pub type_id: u32,
    /// Where it begins behind the header, if the record is to say another place than the true one.
    pub offset: Option<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// A tensor of `shape`, the rows' length last, whose bytes follow from `seed`.
    #[must_use]
    pub fn random(name: &str, kind: Kind, shape: &[usize], seed: &str) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            dims: shape.iter().rev().map(|&dim| dim as u64).collect(),
            type_id: kind.id,
            offset: None,
            bytes: kind.random(seed, shape),
        }
    }
}

impl RawGguf {
    /// A sound file of version 3.
    #[must_use]
    pub fn new(keys: Vec<(String, Value)>, tensors: Vec<RawTensor>) -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            num_tensors: None,
            num_keys: None,
            keys,
            tensors,
            alignment: 32,
            fills_last: true,
            filling: 0,
        }
    }

    /// Sets the alignment, and the key that says it.
    #[must_use]
    pub fn aligned(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.set("general.alignment", Value::U32(alignment));
        self
    }

    /// Sets `key`, in its place or at the end.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    /// Drops `key`.
    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(known, _)| known != key);
    }

    /// The tensor called `name`.
    pub fn tensor(&mut self, name: &str) -> &mut RawTensor {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("there is no tensor {name}"))
    }

    /// What stands before the tensors.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.num_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.num_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            Value::text(key).write(&mut bytes);
            bytes.extend(value.type_id().to_le_bytes());
            value.write(&mut bytes);
        }
        let mut end = 0;
        for tensor in &self.tensors {
            Value::Bytes(tensor.name.clone()).write(&mut bytes);
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.type_id.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(end).to_le_bytes());
            end = (end + tensor.bytes.len() as u64).next_multiple_of(self.alignment as u64);
        }
        bytes
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment), self.filling);
        for (i, tensor) in self.tensors.iter().enumerate() {
            bytes.extend(&tensor.bytes);
            if self.fills_last || i + 1 < self.tensors.len() {
                bytes.resize(bytes.len().next_multiple_of(self.alignment), self.filling);
            }
        }
        bytes
    }

    /// Writes the file to `path`.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).expect("a GGUF file can be written");
    }

    /// The file in `num_parts` parts as llama.cpp's gguf-split leaves them: the first has all keys.
    #[must_use]
    pub fn parts(&self, num_parts: usize) -> Vec<Self> {
        let part = |i: usize| {
            let begin = self.tensors.len() * i / num_parts;
            let end = self.tensors.len() * (i + 1) / num_parts;
            let mut part = Self { tensors: self.tensors[begin..end].to_vec(), ..self.clone() };
            if i > 0 {
                part.keys.retain(|(key, _)| key == "general.alignment");
            }
            part.set("split.no", Value::U16(i as u16));
            part.set("split.count", Value::U16(num_parts as u16));
            let all = i32::try_from(self.tensors.len()).expect("so many are not made here");
            part.set("split.tensors.count", Value::I32(all));
            part
        };
        (0..num_parts).map(part).collect()
    }

    /// Writes the file in `num_parts` parts, `STEM-00001-of-0000N.gguf` and so on, and returns their paths.
    #[must_use]
    pub fn write_parts(&self, dir: &Path, stem: &str, num_parts: usize) -> Vec<PathBuf> {
        let write = |(i, part): (usize, Self)| {
            let path = dir.join(part_name(stem, i, num_parts));
            part.write(&path);
            path
        };
        self.parts(num_parts).into_iter().enumerate().map(write).collect()
    }
}

/// The name of part number `part`, from 0, of `num_parts`.
#[must_use]
pub fn part_name(stem: &str, part: usize, num_parts: usize) -> String {
    format!("{stem}-{:05}-of-{num_parts:05}.gguf", part + 1)
}
