//! What stands once a layer, or names layers, wherever in the config it stands.

use std::collections::{HashMap, HashSet};

use checkpoint::json::Object;
use serde_json::Value;
use serde_json::value::RawValue;

use super::depth::{Depth, num_prediction_layers, shortened, text_at, value_at};
use super::error::SettingError;
use super::module_names::{find_layer_name, names_a_layer};
use super::rules::{
    LAYER_NUMBER_LISTS, OTHER_LISTS, PER_LAYER_LISTS, PER_LAYER_OBJECTS, PER_LAYER_STRINGS,
    QUANTISATION_OBJECTS, SKIPPED_OBJECTS,
};

/// Edits the lists of one file by the layers of a plan.
pub(super) struct Lists<'a> {
    pub(super) depth: &'a Depth<'a>,
    /// The layer count of each model.
    pub(super) num_base_layers: &'a [usize],
    /// The file of each model; the donor's is the one that is edited.
    pub(super) files: &'a [Option<&'a Object>],
}

pub(super) type Edited<T> = Result<T, SettingError>;

impl Lists<'_> {
    /// Edits `object`, which stands under the keys of `path`; whether anything changed is returned.
    pub(super) fn edit(
        &self,
        object: &mut Object,
        path: &[&str],
        only_names: bool,
    ) -> Edited<bool> {
        let before = object.to_string();
        let keys: Vec<String> = object.keys().map(str::to_owned).collect();
        for key in &keys {
            if SKIPPED_OBJECTS.contains(&key.as_str()) {
                continue;
            }
            let path = &[path, &[key.as_str()]].concat()[..];
            match object.get(key) {
                Some(Value::Array(items)) => self.edit_list(object, path, &items, only_names)?,
                Some(Value::String(text)) => self.edit_text(object, path, &text, only_names)?,
                Some(Value::Object(_)) if PER_LAYER_OBJECTS.contains(&key.as_str()) => {
                    let renumbered = self.per_layer_object(path)?;
                    if object.object(key).is_none_or(|it| !is_same(&it, &renumbered)) {
                        object.set_object(key, &renumbered);
                    }
                }
                Some(Value::Object(entries)) => {
                    let name = path.join(".");
                    if !only_names && self.is_keyed_by_layer(&entries) {
                        return Err(SettingError::UnknownList { key: name, len: entries.len() });
                    }
                    let mut nested = object.object(key).ok_or_else(|| SettingError::Malformed {
                        key: name,
                        expected: "an object with each key once",
                        found: shortened(object.text(key).unwrap_or_default()),
                    })?;
                    let only_names = only_names || QUANTISATION_OBJECTS.contains(&key.as_str());
                    let mut changed = self.edit(&mut nested, path, only_names)?;
                    if let Some(renamed) = self.rename_keys(&nested, path)? {
                        nested = renamed;
                        changed = true;
                    }
                    if changed {
                        object.set_object(key, &nested);
                    }
                }
                _ => {}
            }
        }
        Ok(object.to_string() != before)
    }

    fn edit_list(
        &self,
        object: &mut Object,
        path: &[&str],
        items: &[Value],
        only_names: bool,
    ) -> Edited<()> {
        let key = path[path.len() - 1];
        let name = path.join(".");
        if items.is_empty() && !self.others_state(path) {
            return Ok(());
        }
        if !only_names {
            if let Some(first) = first_of_numbers(&name) {
                let numbers = self.layer_numbers(path, first)?;
                let kept: Option<Vec<u64>> = items.iter().map(Value::as_u64).collect();
                if kept.is_none_or(|kept| !same_set(&kept, &numbers)) {
                    object.set(key, &numbers.into());
                }
                return Ok(());
            }
            if PER_LAYER_LISTS.contains(&key) {
                object.set_list(key, &self.per_layer(path)?);
                return Ok(());
            }
        }
        if items.iter().all(Value::is_string) {
            if items.iter().filter_map(Value::as_str).any(names_a_layer) || self.others_name(path) {
                object.set(key, &self.module_names(path)?.into());
                return Ok(());
            }
        } else if let Some(text) = items.iter().find_map(find_layer_name) {
            return Err(SettingError::LayerName { key: name, name: text });
        }
        let known = only_names || OTHER_LISTS.contains(&key);
        if !known && items.len() == self.num_base_layers[self.depth.donor] {
            return Err(SettingError::UnknownList { key: name, len: items.len() });
        }
        Ok(())
    }

    fn edit_text(
        &self,
        object: &mut Object,
        path: &[&str],
        text: &str,
        only_names: bool,
    ) -> Edited<()> {
        let key = path[path.len() - 1];
        let name = path.join(".");
        if only_names {
            return if names_a_layer(text) {
                Err(SettingError::LayerName { key: name, name: text.to_owned() })
            } else {
                Ok(())
            };
        }
        if PER_LAYER_STRINGS.contains(&key) {
            let letters = self.per_layer(path)?;
            let letters: String = letters
                .iter()
                .filter_map(|letter| serde_json::from_str::<String>(letter.get()).ok())
                .collect();
            object.set(key, &letters.into());
        } else if let Some(first) = first_of_numbers(&name) {
            let numbers = self.layer_numbers(path, first)?;
            let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            object.set(key, &numbers.join(",").into());
        }
        Ok(())
    }

    /// The entries of a per-layer list in the new order, as they are written.
    fn per_layer(&self, path: &[&str]) -> Edited<Vec<Box<RawValue>>> {
        let name = path.join(".");
        let mut tail = Vec::new();
        let mut lists: Vec<Vec<Box<RawValue>>> = Vec::new();
        for (model, file) in self.files.iter().enumerate() {
            let mut items = file
                .and_then(|file| text_at(file, path))
                .map_or_else(Vec::new, |text| entries(&text));
            let expected = self.num_base_layers[model];
            let is_used = model == self.depth.donor || self.depth.models().contains(&model);
            if is_used && items.len() != expected {
                let with_predictions = expected + file.map_or(0, num_prediction_layers);
                match items.len() {
                    0 => {
                        return Err(SettingError::Missing {
                            key: name,
                            model: self.depth.names[model].to_owned(),
                        });
                    }
                    found if found == with_predictions => {
                        let behind = items.split_off(expected);
                        if model == self.depth.donor {
                            tail = behind;
                        }
                    }
                    found => return Err(SettingError::ListLength { key: name, found, expected }),
                }
            }
            lists.push(items);
        }
        let mut reordered = Vec::with_capacity(self.depth.layers.len() + tail.len());
        for (layer, from) in self.depth.layers.iter().enumerate() {
            let mut items = from.iter().map(|&(m, k)| &lists[m][k]);
            let first = items.next().expect("a new layer is made of at least one");
            if items.any(|item| value(item) != value(first)) {
                return Err(SettingError::MadeOfUnlike { key: name, layer });
            }
            reordered.push(first.clone());
        }
        reordered.extend(tail);
        Ok(reordered)
    }

    /// An object of exceptions by layer number, for the new layers, its values as they are written.
    fn per_layer_object(&self, path: &[&str]) -> Edited<Object> {
        let name = path.join(".");
        let malformed = || SettingError::Malformed {
            key: name.clone(),
            expected: "an object with layer numbers as keys",
            found: "another one".to_owned(),
        };
        let mut texts: HashMap<(usize, usize), String> = HashMap::new();
        for (model, file) in self.files.iter().enumerate() {
            let Some(text) = file.and_then(|file| text_at(file, path)) else { continue };
            let exceptions = Object::parse(&text).map_err(|_| malformed())?;
            for key in exceptions.keys() {
                let layer: usize = key.parse().map_err(|_| malformed())?;
                if layer >= self.num_base_layers[model] {
                    return Err(malformed());
                }
                texts.insert((model, layer), exceptions.text(key).unwrap_or_default().to_owned());
            }
        }
        // As transformers writes them: as many digits as the last layer's number has.
        let width = self.depth.layers.len().saturating_sub(1).to_string().len();
        let mut entries = Vec::new();
        for (layer, from) in self.depth.layers.iter().enumerate() {
            let text = texts.get(&from[0]);
            if from.iter().any(|source| texts.get(source) != text) {
                return Err(SettingError::MadeOfUnlike { key: name, layer });
            }
            if let Some(text) = text {
                entries.push(format!("\"{layer:0width$}\": {text}"));
            }
        }
        Object::parse(&format!("{{{}}}", entries.join(", "))).map_err(|_| malformed())
    }

    /// The new numbers of the layers that a list of numbers, the first layer's being `first`, has.
    fn layer_numbers(&self, path: &[&str], first: usize) -> Edited<Vec<u64>> {
        let name = path.join(".");
        let mut lists: Vec<HashSet<usize>> = Vec::new();
        let mut behind = Vec::new();
        for (model, file) in self.files.iter().enumerate() {
            let stated = file.and_then(|file| value_at(file, path));
            let numbers =
                stated.as_ref().map_or(Some(Vec::new()), numbers_of).ok_or_else(|| {
                    SettingError::Malformed {
                        key: name.clone(),
                        expected: "numbers of layers",
                        found: shortened(
                            &stated.as_ref().map(Value::to_string).unwrap_or_default(),
                        ),
                    }
                })?;
            let count = self.num_base_layers[model];
            let last = count + file.map_or(0, num_prediction_layers);
            if let Some(number) = numbers.iter().find(|&&it| it < first || it - first >= last) {
                return Err(SettingError::Malformed {
                    key: name,
                    expected: "numbers of layers that the model has",
                    found: number.to_string(),
                });
            }
            if model == self.depth.donor {
                behind = numbers.iter().filter(|&&it| it - first >= count).copied().collect();
                for number in &mut behind {
                    *number = *number - count + self.depth.layers.len();
                }
            }
            lists.push(numbers.into_iter().map(|number| number - first).collect());
        }
        let mut renumbered = Vec::new();
        for (layer, from) in self.depth.layers.iter().enumerate() {
            let listed = from.iter().filter(|(m, k)| lists[*m].contains(k)).count();
            match listed {
                0 => {}
                all if all == from.len() => renumbered.push((layer + first) as u64),
                _ => return Err(SettingError::MadeOfUnlike { key: name, layer }),
            }
        }
        renumbered.extend(behind.into_iter().map(|number| number as u64));
        Ok(renumbered)
    }

    /// Whether `entries` are as many as the base has layers, under numbers.
    fn is_keyed_by_layer(&self, entries: &serde_json::Map<String, Value>) -> bool {
        entries.len() == self.num_base_layers[self.depth.donor]
            && entries.keys().all(|key| key.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

/// The number of the first layer, if the list of that name is known to hold numbers of layers.
fn first_of_numbers(name: &str) -> Option<usize> {
    LAYER_NUMBER_LISTS
        .iter()
        .find(|(known, _)| {
            name.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
        .map(|(_, first)| *first)
}

fn is_same(a: &Object, b: &Object) -> bool {
    a.keys().eq(b.keys()) && a.keys().all(|key| a.text(key) == b.text(key))
}

/// The entries of a list, or the letters of a text, each as JSON.
fn entries(text: &str) -> Vec<Box<RawValue>> {
    if let Ok(letters) = serde_json::from_str::<String>(text) {
        let letters = letters.chars().map(|letter| Value::from(letter.to_string()).to_string());
        return letters.filter_map(|letter| RawValue::from_string(letter).ok()).collect();
    }
    serde_json::from_str(text).unwrap_or_default()
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

/// Layer numbers from a list or from a text with commas.
fn numbers_of(value: &Value) -> Option<Vec<usize>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) => text
            .split(',')
            .map(str::trim)
            .filter(|number| !number.is_empty())
            .map(|number| number.parse().ok())
            .collect(),
        list => serde_json::from_value(list.clone()).ok(),
    }
}

fn same_set(a: &[u64], b: &[u64]) -> bool {
    a.iter().collect::<HashSet<_>>() == b.iter().collect::<HashSet<_>>()
}
