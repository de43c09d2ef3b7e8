//! How a conversation becomes text: one template, or several with names.
//!
//! GGUF has a key for each; `tokenizer_config.json` has a string, or a list of names and templates.

use serde_json::{Value, json};

use crate::error::Result;
use crate::gguf::metadata::{Metadata, shown};
use crate::gguf::value::Array;

const KEY: &str = "tokenizer.chat_template";
const NAMES_KEY: &str = "tokenizer.chat_templates";
const DEFAULT: &str = "default";

/// Templates with their names.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ChatTemplates(Vec<(String, String)>);

impl ChatTemplates {
    /// The templates of a GGUF file.
    pub(super) fn of_metadata(metadata: &Metadata) -> Result<Self> {
        let mut templates = Vec::new();
        if let Some(template) = metadata.str(KEY)? {
            templates.push((DEFAULT.to_owned(), template.to_owned()));
        }
        for value in metadata.array(NAMES_KEY)?.iter().flat_map(Array::iter) {
            let name = value
                .as_str()
                .ok_or_else(|| metadata.wrong(NAMES_KEY, "an array of names", &shown(value)))?;
            let key = format!("{KEY}.{name}");
            let template = metadata
                .str(&key)?
                .ok_or_else(|| metadata.wrong(&key, "a template, which is named", "absent"))?;
            templates.push((name.to_owned(), template.to_owned()));
        }
        Ok(Self(templates))
    }

    /// The templates in `value`, which is `chat_template` of a `tokenizer_config.json`, if it has any.
    pub(super) fn of_config(value: &Value) -> Option<Self> {
        let mut templates = Vec::new();
        match value {
            Value::Null => {}
            Value::String(template) => templates.push((DEFAULT.to_owned(), template.clone())),
            Value::Array(list) => {
                for entry in list {
                    let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                    templates.push((text("name")?, text("template")?));
                }
            }
            Value::Object(entries) => {
                for (name, template) in entries {
                    templates.push((name.clone(), template.as_str()?.to_owned()));
                }
            }
            _ => return None,
        }
        Some(Self(templates))
    }

    /// Gives `name` the template `template`.
    pub(super) fn set(&mut self, name: &str, template: String) {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), template));
    }

    /// Makes `template` the one that is used where none is named.
    pub(super) fn set_default(&mut self, template: String) {
        self.set(DEFAULT, template);
    }

    /// The value of `chat_template` in a `tokenizer_config.json`.
    pub(super) fn config(&self) -> Option<Value> {
        match self.0.as_slice() {
            [] => None,
            [(name, template)] if name == DEFAULT => Some(json!(template)),
            list => {
                let entry = |(name, template): &(String, String)| json!({ "name": name, "template": template });
                Some(list.iter().map(entry).collect())
            }
        }
    }

    /// Writes the keys.
    pub(super) fn write(&self, metadata: &mut Metadata) {
        let mut names = Vec::new();
        for (name, template) in self.0.iter().filter(|(name, _)| name != DEFAULT) {
            // As llama.cpp's writer spells names.
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            metadata.set(&format!("{KEY}.{name}"), template);
            names.push(name);
        }
        if !names.is_empty() {
            metadata.set(NAMES_KEY, &names);
        }
        if let Some((_, template)) = self.0.iter().find(|(name, _)| name == DEFAULT) {
            metadata.set(KEY, template);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check_there_and_back(value: &Value) {
        let mut metadata = Metadata::new(Path::new("x.gguf"));
        ChatTemplates::of_config(value).unwrap().write(&mut metadata);
        let back = ChatTemplates::of_metadata(&metadata).unwrap();
        assert_eq!(back.config().unwrap_or_default(), *value);
    }

    #[test]
    fn templates_go_there_and_back() {
        check_there_and_back(&Value::Null);
        check_there_and_back(&json!("{{ messages }}"));
        check_there_and_back(&json!([
            { "name": "default", "template": "a" },
            { "name": "tool_use", "template": "b" },
        ]));
        check_there_and_back(&json!([{ "name": "rag", "template": "b" }]));
    }

    #[test]
    fn a_template_that_is_named_and_not_there_is_an_error() {
        let mut metadata = Metadata::new(Path::new("x.gguf"));
        metadata.set(NAMES_KEY, &vec!["rag".to_owned()]);
        let error = ChatTemplates::of_metadata(&metadata).unwrap_err();
        assert!(error.to_string().contains("tokenizer.chat_template.rag"), "{error}");
    }
}
