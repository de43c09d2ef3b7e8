//! The new `config.json`: the base's text, but for what must change.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "build/bases.rs"]
mod bases;
#[path = "deeper_config/kinds.rs"]
mod kinds;
#[path = "deeper_config/names.rs"]
mod names;
#[path = "deeper_config/text.rs"]
mod text;
#[path = "build/workshop.rs"]
mod workshop;

use std::fs;

use testkit::{Family, TinyModel, raw};

use crate::workshop::Workshop;

/// A folder with a model of that family, of four layers, whose `config.json` is `config`.
fn with_config(family: Family, config: &str) -> Workshop {
    let workshop = Workshop::with(&TinyModel { side_files: false, ..TinyModel::of(family) });
    fs::write(workshop.path("base/config.json"), config).unwrap();
    workshop
}

/// The same, for a config that is not known to the tables of tensor names.
fn with_keys(family: Family, keys: &serde_json::Value) -> Workshop {
    let workshop = Workshop::with(&TinyModel { side_files: false, ..TinyModel::of(family) });
    raw::edit_json(&workshop.path("base/config.json"), |config| {
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    });
    workshop
}

/// The text of the new config.
fn built_text(workshop: &Workshop, args: &[&str]) -> String {
    workshop.build(&[&["base"], args].concat());
    workshop.verified(&["out"]);
    fs::read_to_string(workshop.path("out/config.json")).unwrap()
}
