//! How deep the models are, and which old layer each new one takes its settings from.

use checkpoint::json::Object;
use serde_json::Value;

use super::error::SettingError;
use super::rules::{LAYER_COUNT_KEYS, NESTED_CONFIGS, PREDICTION_LAYER_KEYS};

/// Where the settings of each new layer come from.
#[derive(Debug, Clone, Copy)]
pub struct Depth<'a> {
    /// The config of each model of the plan, in the recipe's order.
    pub configs: &'a [&'a Object],
    /// What each model is called in errors.
    pub names: &'a [&'a str],
    /// The model whose config is edited.
    pub donor: usize,
    /// For each new layer the (model, layer) that it takes its settings from: one for a copied
    /// layer, several for a made one, which must agree.
    pub layers: &'a [Vec<(usize, usize)>],
}

impl<'a> Depth<'a> {
    pub(super) fn base(&self) -> &'a Object {
        self.configs[self.donor]
    }

    /// The layer count of each model; every layer of the plan is checked to be one of them.
    pub(super) fn num_base_layers(&self) -> Result<Vec<usize>, SettingError> {
        let counts: Vec<usize> = self
            .configs
            .iter()
            .map(|config| num_layers(config).map(|(_, count)| count))
            .collect::<Result<_, _>>()?;
        for &(model, layer) in self.layers.iter().flatten() {
            if layer >= counts[model] {
                return Err(SettingError::NoSuchLayer { model, layer, num_layers: counts[model] });
            }
        }
        Ok(counts)
    }

    /// Whether the new layers are the donor's, each once and in order.
    pub(super) fn is_identity(&self, num_base_layers: &[usize]) -> bool {
        self.layers.len() == num_base_layers[self.donor]
            && self.layers.iter().enumerate().all(|(j, from)| from[..] == [(self.donor, j)])
    }

    /// The new layers that take settings from layer `layer` of `model`, in order.
    pub(super) fn copies(&self, model: usize, layer: usize) -> impl Iterator<Item = usize> + 'a {
        let layers = self.layers;
        (0..layers.len()).filter(move |&j| layers[j].contains(&(model, layer)))
    }

    /// The models that layers come from, and the donor.
    pub(super) fn models(&self) -> Vec<usize> {
        (0..self.configs.len())
            .filter(|&m| m == self.donor || self.layers.iter().flatten().any(|from| from.0 == m))
            .collect()
    }
}

/// The key that states the layer count of a model, and the count.
///
/// Several keys may state it (GLM-4 has two), as long as they agree; the first of the table is
/// returned. A config that keeps the language model's settings in a nested one is refused.
pub fn num_layers(config: &Object) -> Result<(&'static str, usize), SettingError> {
    let mut stated: Option<(&'static str, usize)> = None;
    for key in LAYER_COUNT_KEYS.into_iter().filter(|key| config.contains(key)) {
        let count = match config.read::<usize>(key) {
            Some(Ok(count)) if count > 0 => count,
            _ => return Err(malformed(config, key, "a positive number of layers")),
        };
        match stated {
            None => stated = Some((key, count)),
            Some((_, expected)) if expected == count => {}
            Some((other, expected)) => {
                let key = key.to_owned();
                return Err(SettingError::LayerCounts { key, found: count, other, expected });
            }
        }
    }
    let nested = NESTED_CONFIGS.into_iter().find(|key| {
        config
            .object(key)
            .is_some_and(|nested| LAYER_COUNT_KEYS.iter().any(|key| nested.contains(key)))
    });
    match (nested, stated) {
        (Some(key), _) => Err(SettingError::Nested { key }),
        (None, stated) => stated.ok_or(SettingError::NoLayerCount),
    }
}

/// How many prediction layers stand behind the last layer.
#[must_use]
pub fn num_prediction_layers(config: &Object) -> usize {
    prediction_layers(config).map_or(0, |(_, number)| number)
}

/// The key that promises prediction layers behind the last layer, and how many.
#[must_use]
pub fn prediction_layers(config: &Object) -> Option<(&'static str, usize)> {
    PREDICTION_LAYER_KEYS.iter().find_map(|&key| Some((key, config.read(key)?.ok()?)))
}

pub(super) fn malformed(config: &Object, key: &str, expected: &'static str) -> SettingError {
    let found = config.text(key).unwrap_or("nothing");
    SettingError::Malformed { key: key.to_owned(), expected, found: shortened(found) }
}

/// A value for a message: on one line, and not longer than one.
pub(super) fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The value that stands under the keys of `path`, as it is written.
pub(super) fn text_at(config: &Object, path: &[&str]) -> Option<String> {
    match path {
        [] => None,
        [key] => config.text(key).map(str::to_owned),
        [key, rest @ ..] => text_at(&config.object(key)?, rest),
    }
}

/// The value that stands under the keys of `path`.
pub(super) fn value_at(config: &Object, path: &[&str]) -> Option<Value> {
    serde_json::from_str(&text_at(config, path)?).ok()
}
