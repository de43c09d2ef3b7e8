//! Safetensors and JSON files edited below the level that libraries allow.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// A safetensors file, taken apart and not understood.
#[derive(Debug, Clone)]
pub struct RawFile {
    /// The header's JSON, be it valid or not.
    pub header: String,
    /// The bytes behind the header.
    pub data: Vec<u8>,
}

impl RawFile {
    /// Takes the file at `path` apart.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let (header, data) = rest.split_at(usize::try_from(length).expect("a header in memory"));
        let header = String::from_utf8(header.to_vec()).expect("a header is text");
        Self { header, data: data.to_vec() }
    }

    /// Puts it together at `path`, with the header's true length before it.
    pub fn write(&self, path: &Path) {
        let mut bytes = (self.header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(self.header.as_bytes());
        bytes.extend(&self.data);
        fs::write(path, bytes).expect("a weight file can be written");
    }

    /// Changes the header as JSON; keys keep their order, and no key stands twice.
    pub fn edit_header(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut header = serde_json::from_str(&self.header).expect("the header is JSON");
        edit(&mut header);
        self.header = header.to_string();
    }
}

/// Writes a safetensors file whose tensors are one hole, each of `U8` and so many bytes long.
///
/// It takes no room on disk, be it terabytes long; a file system may refuse the length nonetheless.
pub fn write_sparse(path: &Path, tensors: &[(String, u64)]) -> io::Result<()> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, bytes) in tensors {
        let data_offsets = [end, end + bytes];
        let info = json!({ "dtype": "U8", "shape": [bytes], "data_offsets": data_offsets });
        header.insert(name.clone(), info);
        end += bytes;
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(8 + header.len() as u64 + end)
}

/// Reads a JSON file.
#[must_use]
pub fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Writes a JSON file as Hugging Face's libraries do.
pub fn write_json(path: &Path, value: &Value) {
    fs::write(path, format!("{value:#}\n")).expect("a JSON file can be written");
}

/// Changes a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    write_json(path, &value);
}
