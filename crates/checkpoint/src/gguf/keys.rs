//! The keys of one architecture in a file's metadata, and which of them were asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::architecture::Architecture;
use super::error::GgufError;
use super::llama3::shortest;
use super::metadata::{Metadata, shown};
use super::value::Value;
use crate::error::{Error, Result};

/// The keys that begin with an architecture's name; they are asked for without it.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'static Architecture,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(metadata: &'a Metadata, architecture: &'static Architecture) -> Self {
        Self { metadata, architecture, asked: RefCell::default() }
    }

    pub(super) fn failed(&self, source: GgufError) -> Error {
        Error::Gguf { path: self.metadata.path().to_owned(), source }
    }

    pub(super) fn contradiction(&self, what: String) -> Error {
        self.failed(GgufError::Contradiction { what })
    }

    pub(super) fn not_translated(&self, what: String) -> Error {
        self.failed(GgufError::NotTranslated { what })
    }

    /// The key `suffix` in full, from now on asked for.
    pub(super) fn key(&self, suffix: &str) -> String {
        let key = self.architecture.key(suffix);
        self.asked.borrow_mut().insert(key.clone());
        key
    }

    pub(super) fn value(&self, suffix: &str) -> Option<Value<'a>> {
        self.metadata.get(&self.key(suffix))
    }

    pub(super) fn u64(&self, suffix: &str) -> Result<Option<u64>> {
        self.metadata.u64(&self.key(suffix))
    }

    pub(super) fn required(&self, suffix: &str) -> Result<u64> {
        self.u64(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    pub(super) fn missing(&self, suffix: &str) -> Error {
        self.failed(GgufError::KeyMissing { key: self.key(suffix) })
    }

    /// A number with a point; of one in single precision, the shortest decimals that give it.
    pub(super) fn f64(&self, suffix: &str) -> Result<Option<f64>> {
        let key = self.key(suffix);
        let number = match self.metadata.get(&key) {
            Some(Value::F32(number)) => Some(shortest(number)),
            _ => self.metadata.f64(&key)?,
        };
        match number {
            Some(number) if !number.is_finite() => {
                Err(self.metadata.wrong(&key, "a finite number", &number.to_string()))
            }
            number => Ok(number),
        }
    }

    pub(super) fn str(&self, suffix: &str) -> Result<Option<&'a str>> {
        self.metadata.str(&self.key(suffix))
    }

    /// A number that stands once, or once a layer and is always the same.
    pub(super) fn same_in_layers(&self, suffix: &str, num_layers: u64) -> Result<Option<u64>> {
        let key = self.key(suffix);
        let Some(array) = self.value(suffix).and_then(|value| value.as_array()) else {
            return self.metadata.u64(&key);
        };
        self.refuse_other_length(&key, array.len(), num_layers)?;
        let mut numbers = Vec::new();
        for value in array.iter() {
            let expected = "numbers that are not negative";
            let number = value.as_u64();
            numbers.push(number.ok_or_else(|| self.metadata.wrong(&key, expected, &shown(value)))?);
        }
        match numbers.iter().find(|&&number| number != numbers[0]) {
            Some(other) => Err(self.not_translated(format!(
                "`{key}` is {} in one layer and {other} in another, for which config.json has no place",
                numbers[0]
            ))),
            None => Ok(numbers.first().copied()),
        }
    }

    pub(super) fn refuse_other_length(&self, key: &str, found: usize, layers: u64) -> Result<()> {
        if found as u64 == layers {
            return Ok(());
        }
        let count = self.architecture.key("block_count");
        let what = format!("`{key}` has {found} values, but `{count}` is {layers}");
        Err(self.contradiction(what))
    }

    /// The architecture's keys that nobody asked for.
    pub(super) fn unasked(&self) -> Vec<&'a str> {
        let (asked, begin) = (self.asked.borrow(), self.architecture.key(""));
        let keys = self.metadata.keys();
        keys.filter(|key| key.starts_with(&begin) && !asked.contains(*key)).collect()
    }
}
