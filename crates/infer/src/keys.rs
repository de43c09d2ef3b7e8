//! Reading the keys of a JSON config, with errors that name file, key and value.

use std::path::Path;

use checkpoint::json::Object;
use serde_json::Value;

use crate::error::{Error, Result};

/// The keys of a config, and the file that errors name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) path: &'a Path,
    pub(crate) object: &'a Object,
    /// What stands before a key's name in errors, as in `rope_parameters.`.
    pub(crate) prefix: &'static str,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(path: &'a Path, object: &'a Object) -> Self {
        Self { path, object, prefix: "" }
    }

    /// The value of `key`; `None` where it is absent or null.
    pub(crate) fn value(&self, key: &str) -> Option<Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A count from 1 on.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        let is_count = |value: &Value| value.as_u64().filter(|&n| n > 0 && n <= u32::MAX.into());
        let count = self.read(key, "a whole number above 0", is_count)?;
        Ok(count.map(|n| n as usize))
    }

    /// A count of layers that must be there, small enough for lists with an entry for each.
    pub(crate) fn layers(&self, key: &str) -> Result<usize> {
        const EXPECTED: &str = "a whole number from 1 to 65,536";
        let is_count = |value: &Value| value.as_u64().filter(|n| (1..=1 << 16).contains(n));
        let layers = self.read(key, EXPECTED, is_count)?;
        layers.map(|n| n as usize).ok_or_else(|| self.wrong(key, EXPECTED))
    }

    /// A count that must be there.
    pub(crate) fn required_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.wrong(key, "a whole number above 0"))
    }

    /// A whole number.
    pub(crate) fn whole(&self, key: &str) -> Result<Option<usize>> {
        let whole = self.read(key, "a whole number", Value::as_u64)?;
        Ok(whole.map(|n| n as usize))
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_f64)
    }

    /// A number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number above 0", |value| value.as_f64().filter(|&x| x > 0.0))
    }

    /// True or false.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.read(key, "a list of texts", |value| {
            let texts = value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect()
        })
    }

    /// What `parse` makes of the value; an error where it makes nothing.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => parse(&value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    /// The error for a `key` that is not what is `expected`.
    pub(crate) fn wrong(&self, key: &str, expected: &'static str) -> Error {
        Error::Key {
            config: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            expected,
            found: self.found(key),
        }
    }

    /// The error for a `key` that asks for what is not run.
    pub(crate) fn unsupported(&self, key: &str) -> Error {
        Error::Unsupported {
            config: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: self.found(key),
        }
    }

    fn found(&self, key: &str) -> String {
        const MAX_CHARS: usize = 100;
        let text = self.object.text(key).unwrap_or("absent");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(MAX_CHARS) {
            Some((at, _)) => format!("{} …", &words[..at]),
            None => words,
        }
    }
}
