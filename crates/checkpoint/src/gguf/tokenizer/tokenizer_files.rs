//! The files of a folder that say something of its tokenizer.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chat_template::ChatTemplates;
use super::error::TokenizerError;
use crate::error::{Error, Result};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
pub(super) const CONFIG: &str = "config.json";
pub(super) const ADDED_TOKENS: &str = "added_tokens.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
pub(super) const SENTENCE_PIECE: &str = "tokenizer.model";
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// All that is read as text.
const TEXTS: &[&str] = &[
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    GENERATION_CONFIG,
    CONFIG,
    ADDED_TOKENS,
    CHAT_TEMPLATE,
];

/// Tokenizers in other forms, which are not read.
const OTHER_FORMS: &[&str] = &["vocab.json", "tekken.json", "vocab.txt", "spiece.model"];

/// The tokenizer files of a folder, as far as they are there.
#[derive(Debug, Default)]
pub struct TokenizerFiles {
    /// The folder, which errors name.
    pub dir: PathBuf,
    /// Contents by name.
    pub texts: BTreeMap<String, String>,
    /// `tokenizer.model`.
    pub sentencepiece: Option<Vec<u8>>,
    /// A file with a tokenizer in a form that is not read.
    pub other_form: Option<String>,
}

impl TokenizerFiles {
    /// Reads what `dir` has.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut files = Self { dir: dir.to_owned(), ..Self::default() };
        for &name in TEXTS {
            if let Some(text) = read_if_there(&dir.join(name), fs::read_to_string)? {
                files.texts.insert(name.to_owned(), text);
            }
        }
        for entry in dir.join(MORE_TEMPLATES).read_dir().into_iter().flatten() {
            let path = entry.map_err(|e| Error::io(dir, "listed", e))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let is_template = path.extension().is_some_and(|extension| extension == "jinja");
            if let Some(name) = name.filter(|_| is_template) {
                let text = fs::read_to_string(&path);
                let text = text.map_err(|e| Error::io(&path, "read", e))?;
                files.texts.insert(format!("{MORE_TEMPLATES}/{name}"), text);
            }
        }
        files.sentencepiece = read_if_there(&dir.join(SENTENCE_PIECE), fs::read)?;
        let is_there = |name: &&&str| dir.join(name).exists();
        files.other_form = OTHER_FORMS.iter().find(is_there).map(|&name| name.to_owned());
        Ok(files)
    }

    /// The paths of what was read.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let sentencepiece = self.sentencepiece.is_some().then_some(SENTENCE_PIECE);
        let names = self.texts.keys().map(String::as_str).chain(sentencepiece);
        names.map(|name| self.dir.join(name))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The value in the file `name`; `null` if it is not there.
    pub(super) fn json(&self, name: &str) -> Result<Value> {
        let Some(text) = self.texts.get(name) else { return Ok(Value::Null) };
        serde_json::from_str(text).map_err(|source| Error::Json { path: self.path(name), source })
    }

    pub(super) fn failed(&self, name: &str, source: TokenizerError) -> Error {
        Error::Tokenizer { path: self.path(name), source }
    }
}

fn read_if_there<T>(
    path: &Path,
    read: impl FnOnce(PathBuf) -> std::io::Result<T>,
) -> Result<Option<T>> {
    match read(path.to_owned()) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "read", e)),
    }
}

/// The JSON files beside `tokenizer.json`; `null` where they are missing.
pub(super) struct Configs {
    pub(super) tokenizer: Value,
    pub(super) special_tokens: Value,
    pub(super) generation: Value,
    pub(super) model: Value,
}

impl Configs {
    pub(super) fn of(files: &TokenizerFiles) -> Result<Self> {
        let model = files.json(CONFIG)?;
        // The text model of one that sees or hears.
        let text = model.get("text_config").filter(|text| text.is_object()).cloned();
        Ok(Self {
            tokenizer: files.json(TOKENIZER_CONFIG)?,
            special_tokens: files.json(SPECIAL_TOKENS_MAP)?,
            generation: files.json(GENERATION_CONFIG)?,
            model: text.unwrap_or(model),
        })
    }

    /// Templates in files of their own take precedence, as in transformers.
    pub(super) fn chat_templates(&self, files: &TokenizerFiles) -> Result<ChatTemplates> {
        let value = &self.tokenizer["chat_template"];
        let mut templates = ChatTemplates::of_config(value).ok_or_else(|| Error::Key {
            path: files.path(TOKENIZER_CONFIG),
            key: "chat_template".to_owned(),
            expected: "a template, or a list of names and templates",
            found: value.to_string(),
        })?;
        for (name, text) in &files.texts {
            let name =
                name.strip_prefix(MORE_TEMPLATES).and_then(|name| name.strip_suffix(".jinja"));
            if let Some(name) = name {
                templates.set(name.trim_start_matches('/'), text.clone());
            }
        }
        if let Some(text) = files.texts.get(CHAT_TEMPLATE) {
            templates.set_default(text.clone());
        }
        Ok(templates)
    }
}

/// The text of a token that a config names, as a string or as an object.
pub(super) fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
