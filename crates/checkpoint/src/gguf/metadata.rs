//! GGUF's metadata: keys and values in order, kept as the bytes they are in the file.
//!
//! What nobody asks to change is written again byte for byte, types included; an array of a
//! hundred thousand tokens is never turned into a hundred thousand strings for that.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::value::{Array, Broken, Cursor, ToValue, Value, ValueType};
use crate::error::{Error, Result};

/// The bytes that a header was read from.
#[derive(Clone)]
pub(super) enum Backing {
    /// A file mapped into memory.
    Mapped(Arc<Mmap>),
    /// Bytes that were read.
    Read(Arc<[u8]>),
}

impl Backing {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

/// Keys and their values, in the order of the file.
#[derive(Clone)]
pub struct Metadata {
    path: PathBuf,
    backing: Backing,
    entries: Vec<(String, Stored)>,
    by_key: HashMap<String, usize>,
}

/// A value with its type before it, as it stands in a file.
#[derive(Clone)]
enum Stored {
    /// These bytes of the backing.
    AsRead(Range<usize>),
    /// These bytes.
    Written(Vec<u8>),
}

impl Metadata {
    /// Metadata without a key, for the file at `path`, which errors name.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let backing = Backing::Read(Arc::new([]));
        Self { path: path.to_owned(), backing, entries: Vec::new(), by_key: HashMap::new() }
    }

    /// Reads `count` keys and values at `cursor`, which reads the bytes of `backing`.
    pub(super) fn read(
        path: &Path,
        backing: &Backing,
        cursor: &mut Cursor,
        count: u64,
    ) -> Result<Self, Broken> {
        let mut entries = Vec::new();
        let mut by_key = HashMap::new();
        for i in 0..count {
            let key = std::str::from_utf8(cursor.string()?)
                .map_err(|_| Broken::Wrong(format!("key {i} is not UTF-8")))?
                .to_owned();
            let begin = cursor.position;
            let value_type = cursor.value_type().map_err(|broken| in_key(&key, broken))?;
            cursor.value(value_type).map_err(|broken| in_key(&key, broken))?;
            if by_key.insert(key.clone(), entries.len()).is_some() {
                return Err(Broken::Wrong(format!("the key `{key}` stands in it twice")));
            }
            entries.push((key, Stored::AsRead(begin..cursor.position)));
        }
        Ok(Self { path: path.to_owned(), backing: backing.clone(), entries, by_key })
    }

    /// The file that it is from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.by_key.get(key).map(|&i| self.value(i))
    }

    /// The value of `key` as it stands in a file: its type's number, and its bytes.
    #[must_use]
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.by_key.get(key).map(|&i| self.stored(i))
    }

    /// The type of the value of `key`.
    #[must_use]
    pub fn value_type(&self, key: &str) -> Option<ValueType> {
        let mut cursor = Cursor::new(self.bytes(key)?);
        Some(cursor.value_type().expect("the value was read or written before"))
    }

    fn value(&self, entry: usize) -> Value<'_> {
        let mut cursor = Cursor::new(self.stored(entry));
        let value_type = cursor.value_type().expect("the value was read or written before");
        cursor.value(value_type).expect("the value was read or written before")
    }

    fn stored(&self, entry: usize) -> &[u8] {
        match &self.entries[entry].1 {
            Stored::AsRead(range) => &self.backing.bytes()[range.clone()],
            Stored::Written(bytes) => bytes,
        }
    }

    /// The value of `key` as a number that is not negative; an error if it is something else.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a number that is not negative", |value| value.as_u64())
    }

    /// The value of `key` as a number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| value.as_f64())
    }

    /// The value of `key` as a truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| value.as_bool())
    }

    /// The value of `key` as text.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string of UTF-8", |value| value.as_str())
    }

    /// The value of `key` as an array.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>> {
        self.typed(key, "an array", |value| value.as_array())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match get(value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.wrong(key, expected, &shown(value))),
        }
    }

    /// An error that says of `key` what was expected and what was found.
    #[must_use]
    pub fn wrong(&self, key: &str, expected: &'static str, found: &str) -> Error {
        Error::Key {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: found.to_owned(),
        }
    }

    /// Sets `key` to `value`: in its place, or at the end if it is new.
    pub fn set<T: ToValue + ?Sized>(&mut self, key: &str, value: &T) {
        let mut bytes = T::TYPE.id().to_le_bytes().to_vec();
        value.write(&mut bytes);
        self.store(key, bytes);
    }

    /// Puts the values of the array `key` in another order, which may repeat some and drop others.
    ///
    /// # Panics
    ///
    /// If `key` is no array, or `order` goes past its end.
    pub fn reorder(&mut self, key: &str, order: &[usize]) {
        let array = self.get(key).and_then(|value| value.as_array()).expect("it is an array");
        let pieces: Vec<&[u8]> = array.pieces().collect();
        let mut bytes = ValueType::Array.id().to_le_bytes().to_vec();
        bytes.extend(array.element.id().to_le_bytes());
        bytes.extend((order.len() as u64).to_le_bytes());
        for &i in order {
            bytes.extend(pieces[i]);
        }
        self.store(key, bytes);
    }

    fn store(&mut self, key: &str, bytes: Vec<u8>) {
        if let Some(&i) = self.by_key.get(key) {
            self.entries[i].1 = Stored::Written(bytes);
        } else {
            self.by_key.insert(key.to_owned(), self.entries.len());
            self.entries.push((key.to_owned(), Stored::Written(bytes)));
        }
    }

    /// Drops the keys for which `drop` says so.
    pub fn remove(&mut self, drop: impl Fn(&str) -> bool) {
        self.entries.retain(|(key, _)| !drop(key));
        let keys = self.entries.iter().enumerate();
        self.by_key = keys.map(|(i, (key, _))| (key.clone(), i)).collect();
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends all keys and values, as they stand in a file of version 2 or 3.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        for (i, (key, _)) in self.entries.iter().enumerate() {
            key.write(bytes);
            bytes.extend(self.stored(i));
        }
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("path", &self.path)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

fn in_key(key: &str, broken: Broken) -> Broken {
    match broken {
        Broken::Wrong(what) => Broken::Wrong(format!("in `{key}`: {what}")),
        Broken::EndsEarly => Broken::EndsEarly,
    }
}

/// A value for a message.
#[must_use]
pub fn shown(value: Value) -> String {
    match value {
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::String(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Value::Array(array) => format!("an array of {} {}", array.len(), array.element()),
    }
}
