//! What the models of a plan must have alike.

use checkpoint::json::Object;
use serde_json::Value;

use super::depth::{Depth, shortened};
use super::error::SettingError;
use super::module_names::ModuleName;
use super::rules::{
    ARITHMETIC, Absent, LAYER_NUMBER_LISTS, PER_LAYER_LISTS, PER_LAYER_OBJECTS,
    QUANTISATION_OBJECTS, SHAPES,
};

/// Refuses models of unlike shapes, vocabulary or quantisation, and notes other differences.
pub(super) fn check(depth: &Depth, notes: &mut Vec<String>) -> Result<(), SettingError> {
    let donor = depth.base();
    for (model, config) in depth.configs.iter().enumerate() {
        if model == depth.donor {
            continue;
        }
        let disagree = |key: &str, absent: Absent| {
            let show = |config: &Object| {
                let implied = || stated(config, key, absent).map(|value| value.to_string());
                let text = config.text(key).map(str::to_owned).or_else(implied);
                text.map_or("absent".to_owned(), |text| shortened(&text))
            };
            let (found, expected) = (show(config), show(donor));
            SettingError::Disagree {
                key: key.to_owned(),
                model: depth.names[model].to_owned(),
                found,
                donor: depth.names[depth.donor].to_owned(),
                expected,
            }
        };
        for (key, default) in SHAPES {
            let (found, expected) = (stated(config, key, *default), stated(donor, key, *default));
            match (&found, &expected) {
                (Some(Value::Array(_)), Some(Value::Array(_))) => {}
                (Some(a), Some(b)) if a != b => return Err(disagree(key, *default)),
                _ => {}
            }
        }
        for key in QUANTISATION_OBJECTS {
            let (found, expected) = (config.get(key), donor.get(key));
            if found.map(without_layers) != expected.map(without_layers) {
                return Err(disagree(key, Absent::Unknown));
            }
        }
        for key in ARITHMETIC {
            let (found, expected) = (config.get(key), donor.get(key));
            let is_list = found.as_ref().is_some_and(Value::is_array);
            if found != expected && !is_list {
                notes.push(disagree(key, Absent::Unknown).to_string() + "; the latter is written");
            }
        }
        if depth.models().contains(&model) {
            let lists = PER_LAYER_LISTS
                .iter()
                .chain(LAYER_NUMBER_LISTS.iter().map(|(key, _)| key))
                .chain(&PER_LAYER_OBJECTS);
            let states = |config: &Object, key: &str| match config.get(key) {
                Some(Value::Array(items)) => !items.is_empty(),
                Some(Value::Object(entries)) => !entries.is_empty(),
                _ => false,
            };
            let has_place = |config: &Object, key: &str| {
                config.get(key).is_some_and(|value| value.is_array() || value.is_object())
            };
            if let Some(key) =
                lists.copied().find(|key| states(config, key) && !has_place(donor, key))
            {
                return Err(SettingError::Missing {
                    key: key.to_owned(),
                    model: depth.names[depth.donor].to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// The value in force, where that can be told from the config alone.
fn stated(config: &Object, key: &str, absent: Absent) -> Option<Value> {
    let value = config.get(key).filter(|value| !value.is_null());
    value.or_else(|| match absent {
        Absent::Unknown => None,
        Absent::Off => Some(false.into()),
        Absent::HeadDim => {
            let hidden: u64 = config.read("hidden_size")?.ok()?;
            let heads: u64 = config.read("num_attention_heads")?.ok()?;
            Some(hidden.checked_div(heads)?.into())
        }
    })
}

/// `value` without the names of single layers, which each model has its own of.
fn without_layers(value: Value) -> Value {
    let is_layer = |text: &str| matches!(ModuleName::parse(text), ModuleName::Layer { .. });
    match value {
        Value::Array(items) => {
            let items = items.into_iter().filter(|it| !it.as_str().is_some_and(is_layer));
            items.map(without_layers).collect()
        }
        Value::Object(entries) => entries
            .into_iter()
            .filter(|(key, _)| !is_layer(key))
            .map(|(key, value)| (key, without_layers(value)))
            .collect(),
        other => other,
    }
}
