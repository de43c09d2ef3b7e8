//! The settings of a `config.json` while it is put together.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::json::{Object, float_text};

/// A value of the config before it is text.
pub(super) enum Setting {
    Value(Value),
    /// A number with a point.
    Float(f64),
    Floats(Vec<f64>),
    Object(Settings),
}

/// Settings in the order of the alphabet, as transformers writes them.
pub(super) type Settings = BTreeMap<&'static str, Setting>;

impl From<Value> for Setting {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// The settings as JSON.
pub(super) fn object(settings: &Settings) -> Object {
    let mut object = Object::default();
    fill(&mut object, settings);
    object
}

fn fill(object: &mut Object, settings: &Settings) {
    for (key, setting) in settings {
        match setting {
            Setting::Value(value) => object.set(key, value),
            Setting::Float(number) => object.set_float(key, *number),
            Setting::Floats(numbers) => {
                let items = numbers.iter().map(|&number| RawValue::from_string(float_text(number)));
                let items: Vec<_> = items.collect::<Result<_, _>>().expect("a number is JSON");
                object.set_list(key, &items);
            }
            Setting::Object(settings) => {
                object.set_object(key, &Object::default());
                let mut nested = object.object(key).expect("it was just set");
                fill(&mut nested, settings);
                object.set_object(key, &nested);
            }
        }
    }
}
