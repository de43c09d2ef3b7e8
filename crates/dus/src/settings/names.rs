//! Lists and objects that name modules, each name under the new numbers of its layer.

use std::collections::{HashMap, HashSet};

use checkpoint::json::Object;
use serde_json::Value;

use super::depth::value_at;
use super::error::SettingError;
use super::lists::{Edited, Lists};
use super::module_names::{ModuleName, names_a_layer};

impl Lists<'_> {
    /// The module names of all models' lists, those of layers under their new numbers.
    pub(super) fn module_names(&self, path: &[&str]) -> Edited<Vec<String>> {
        let lists: Vec<Vec<String>> = self
            .files
            .iter()
            .map(|file| file.and_then(|file| value_at(file, path)).map_or_else(Vec::new, texts))
            .collect();
        self.renumber(&lists, &path.join("."))
    }

    /// The keys of `object` under their new numbers; `None` where no key names a layer.
    pub(super) fn rename_keys(&self, object: &Object, path: &[&str]) -> Edited<Option<Object>> {
        if !object.keys().any(names_a_layer) {
            return Ok(None);
        }
        let name = path.join(".");
        if self.depth.models().len() > 1 {
            let key = object.keys().find(|key| names_a_layer(key)).unwrap_or_default();
            return Err(SettingError::LayerName { key: name, name: key.to_owned() });
        }
        let mut renamed = HashMap::new();
        for key in object.keys() {
            let mut lists = vec![Vec::new(); self.files.len()];
            lists[self.depth.donor] = vec![key.to_owned()];
            renamed.insert(key.to_owned(), self.renumber(&lists, &name)?);
        }
        object
            .rename(|key| renamed.remove(key).unwrap_or_default())
            .map(Some)
            .map_err(|key| SettingError::LayerName { key: name, name: key })
    }

    /// Gives each name the numbers of its layer's copies: the donor's list first, in its order.
    fn renumber(&self, lists: &[Vec<String>], key: &str) -> Edited<Vec<String>> {
        let stated: Vec<HashSet<&str>> =
            lists.iter().map(|names| names.iter().map(String::as_str).collect()).collect();
        let donor = self.depth.donor;
        let others = self.depth.models().into_iter().filter(|&model| model != donor);
        let mut renumbered = Vec::new();
        let mut seen = HashSet::new();
        for model in std::iter::once(donor).chain(others) {
            for name in &lists[model] {
                match ModuleName::parse(name) {
                    ModuleName::Everywhere => {
                        if model == donor || !stated[donor].contains(name.as_str()) {
                            renumbered.push(name.clone());
                        }
                    }
                    ModuleName::Layer { before, layer, after } => {
                        let count = self.num_base_layers[model];
                        if layer >= count {
                            if model == donor {
                                let behind = layer - count + self.depth.layers.len();
                                renumbered.push(format!("{before}{behind}{after}"));
                            }
                            continue;
                        }
                        for j in self.depth.copies(model, layer) {
                            let is_alike = self.depth.layers[j].iter().all(|(m, k)| {
                                stated[*m].contains(format!("{before}{k}{after}").as_str())
                            });
                            if !is_alike {
                                let key = key.to_owned();
                                return Err(SettingError::MadeOfUnlike { key, layer: j });
                            }
                            let new = format!("{before}{j}{after}");
                            if self.depth.layers[j].len() == 1 || seen.insert(new.clone()) {
                                renumbered.push(new);
                            }
                        }
                    }
                    ModuleName::Pattern => {
                        let (key, name) = (key.to_owned(), name.clone());
                        return Err(SettingError::LayerName { key, name });
                    }
                }
            }
        }
        Ok(renumbered)
    }

    /// Whether another model that layers come from has something in its list at `path`.
    pub(super) fn others_state(&self, path: &[&str]) -> bool {
        self.others(path).any(|value| value.as_array().is_some_and(|items| !items.is_empty()))
    }

    /// Whether the list at `path` of another model names layers.
    pub(super) fn others_name(&self, path: &[&str]) -> bool {
        self.others(path).any(|value| texts(value).iter().any(|text| names_a_layer(text)))
    }

    fn others(&self, path: &[&str]) -> impl Iterator<Item = Value> {
        self.depth
            .models()
            .into_iter()
            .filter(|&model| model != self.depth.donor)
            .filter_map(|model| self.files[model].and_then(|file| value_at(file, path)))
    }
}

fn texts(value: Value) -> Vec<String> {
    serde_json::from_value(value).unwrap_or_default()
}
