//! JSON objects that keep what they are not asked to change.
//!
//! A model's `config.json` carries keys that only its own loader understands, so it is edited, never
//! rewritten: [`Object`] keeps the order of its keys and the very text of every value (`1e-05` stays
//! `1e-05`), and it refuses a key that stands twice, which readers resolve differently.

use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The entries of a JSON object in the order of the text; a repeated key is an error.
#[derive(Debug, Clone)]
pub struct Entries<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<V>(std::marker::PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(de::Error::custom(format_args!("`{key}` stands twice")));
                    }
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(std::marker::PhantomData))
    }
}

/// A JSON object whose untouched values keep their text.
#[derive(Debug, Clone, Default)]
pub struct Object {
    entries: Vec<(String, Box<RawValue>)>,
    /// How many objects it stands in: what is set here is indented to fit.
    depth: usize,
}

impl Object {
    /// Reads `text`, which must hold one JSON object and nothing else.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let Entries(entries) = serde_json::from_str(text)?;
        Ok(Self { entries, depth: 0 })
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Whether `key` is there, be its value `null` or not.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// The value of `key`; `None` where the key is absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        self.read(key).and_then(Result::ok)
    }

    /// The value of `key` as a `T`; `None` where the key is absent.
    #[must_use]
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Option<Result<T, serde_json::Error>> {
        self.position(key).map(|i| serde_json::from_str(self.entries[i].1.get()))
    }

    /// The value of `key` as it is written.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.position(key).map(|i| self.entries[i].1.get())
    }

    /// The object that stands under `key`, to be edited and put back by [`Object::set_object`].
    ///
    /// `None` where `key` is absent, is no object, or holds a key twice.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Self> {
        let object = Self::parse(self.text(key)?).ok()?;
        Some(Self { depth: self.depth + 1, ..object })
    }

    /// Gives `key` a new value in its old place, or appends it.
    ///
    /// A value that is already equal keeps its text.
    pub fn set(&mut self, key: &str, value: &Value) {
        if self.get(key).as_ref() != Some(value) {
            self.put(key, format!("{value:#}").replace('\n', &self.line_end()));
        }
    }

    /// Gives `key` a number with a point, written as Python writes it: `1e-05`, `10000.0`.
    ///
    /// A value that is already equal keeps its text.
    pub fn set_float(&mut self, key: &str, value: f64) {
        if self.get(key) != Some(value.into()) {
            self.put(key, float_text(value));
        }
    }

    /// As [`Object::set`]; a new key goes where the alphabet has it if the others stand in that order.
    pub fn insert(&mut self, key: &str, value: &Value) {
        let sorted = self.keys().is_sorted();
        let added = !self.contains(key);
        self.set(key, value);
        if sorted && added {
            self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }

    /// Gives `key` the object `value`, whose untouched values keep their text here too.
    pub fn set_object(&mut self, key: &str, value: &Self) {
        self.put(key, Self { depth: self.depth + 1, ..value.clone() }.body());
    }

    /// Gives `key` the list of `items`, each as it is written.
    ///
    /// A list that is already equal keeps its text.
    pub fn set_list(&mut self, key: &str, items: &[Box<RawValue>]) {
        let values: Option<Vec<Value>> =
            items.iter().map(|item| serde_json::from_str(item.get()).ok()).collect();
        if self.get(key) == values.map(Value::Array) {
            return;
        }
        let line_end = self.line_end();
        let lines: Vec<String> =
            items.iter().map(|item| format!("{line_end}  {}", item.get())).collect();
        let text = if lines.is_empty() {
            "[]".to_owned()
        } else {
            format!("[{}{line_end}]", lines.join(","))
        };
        self.put(key, text);
    }

    /// The same values under other keys: `rename` says which each key becomes, none or several.
    ///
    /// The error is a key that would stand twice.
    pub fn rename(&self, mut rename: impl FnMut(&str) -> Vec<String>) -> Result<Self, String> {
        let mut renamed = Self { entries: Vec::new(), depth: self.depth };
        for (key, value) in &self.entries {
            for key in rename(key) {
                if renamed.contains(&key) {
                    return Err(key);
                }
                renamed.entries.push((key, value.clone()));
            }
        }
        Ok(renamed)
    }

    /// Takes `key` out; the others keep their order.
    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key);
    }

    fn put(&mut self, key: &str, text: String) {
        let raw = RawValue::from_string(text).expect("a serialised value is valid JSON");
        match self.position(key) {
            Some(i) => self.entries[i].1 = raw,
            None => self.entries.push((key.to_owned(), raw)),
        }
    }

    /// A line end and the indentation of the entries.
    fn line_end(&self) -> String {
        format!("\n{}", "  ".repeat(self.depth + 1))
    }

    fn body(&self) -> String {
        if self.entries.is_empty() {
            return "{}".to_owned();
        }
        let line_end = self.line_end();
        let lines: Vec<String> = self
            .entries
            .iter()
            .map(|(key, value)| format!("{line_end}{}: {}", Value::from(key.as_str()), value.get()))
            .collect();
        format!("{{{}\n{}}}", lines.join(","), "  ".repeat(self.depth))
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(k, _)| k == key)
    }
}

/// A finite number as Python writes it: the shortest digits that give the same number back.
#[must_use]
pub fn float_text(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, size) = match exponent.strip_prefix('-') {
            Some(size) => ('-', size),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{size:0>2}");
    }
    format!("{value:?}")
}

/// As `json.dump(…, indent=2)` writes it, with a final line end; this is how Hugging Face's files look.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.body())
    }
}

impl Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{
  "rms_norm_eps": 1e-05,
  "eos_token_id": [
    2,
    3
  ],
  "rope_theta": 10000.0,
  "num_hidden_layers": 32
}
"#;

    #[test]
    fn what_is_not_changed_keeps_its_text() {
        let mut object = Object::parse(CONFIG).unwrap();
        object.set("num_hidden_layers", &48.into());
        object.set("rope_theta", &10000.0.into());
        assert_eq!(object.to_string(), CONFIG.replace("32", "48"));
    }

    #[test]
    fn numbers_with_a_point_look_as_python_writes_them() {
        for (value, text) in [
            (1e-5, "1e-05"),
            (2.5e-7, "2.5e-07"),
            (1e-4, "0.0001"),
            (10_000.0, "10000.0"),
            (1e16, "1e+16"),
            (0.0, "0.0"),
            (0.1, "0.1"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn new_values_are_indented_like_their_neighbours() {
        let mut object = Object::parse(CONFIG).unwrap();
        object.set("eos_token_id", &serde_json::json!([4, 5]));
        assert_eq!(object.to_string(), CONFIG.replace("    2,\n    3\n", "    4,\n    5\n"));
    }

    #[test]
    fn a_nested_object_is_edited_in_place() {
        let text =
            "{\n  \"a\": {\n    \"eps\": 1e-05,\n    \"list\": [\n      \"x\"\n    ]\n  }\n}\n";
        let mut object = Object::parse(text).unwrap();
        let mut nested = object.object("a").unwrap();
        nested.set("list", &serde_json::json!(["y", "z"]));
        object.set_object("a", &nested);
        let expected = text.replace("      \"x\"\n", "      \"y\",\n      \"z\"\n");
        assert_eq!(object.to_string(), expected);
    }

    #[test]
    fn a_new_key_goes_where_the_alphabet_has_it() {
        let mut sorted = Object::parse(r#"{"a": 1, "c": 3}"#).unwrap();
        sorted.insert("b", &2.into());
        assert_eq!(sorted.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        let mut unsorted = Object::parse(r#"{"c": 1, "a": 3}"#).unwrap();
        unsorted.insert("b", &2.into());
        assert_eq!(unsorted.keys().collect::<Vec<_>>(), ["c", "a", "b"]);
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        let error = Object::parse(r#"{"a": 1, "a": 1}"#).unwrap_err();
        assert!(error.to_string().contains("`a` stands twice"), "{error}");
    }
}
