//! A chat as one text, by the template that a model comes with.

use std::path::Path;

use checkpoint::folder;
use checkpoint::json::Object;
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::jinja::{self, Clock};

/// The file with the template alone, which wins over the one in [`CONFIG`].
const FILE: &str = "chat_template.jinja";
/// The file with the tokenizer's settings, the template among them.
const CONFIG: &str = "tokenizer_config.json";
/// An older file with the special tokens.
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// The template that is used where there are several.
const DEFAULT: &str = "default";

/// The special tokens that a template may name.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What somebody said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who: `system`, `user`, `assistant`, or what the template knows.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.to_owned(), content: content.into() }
    }
}

/// How a model wants a chat written.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Reads the template of the model in the folder `dir`.
    ///
    /// Errors are that there is none, and that it is not Jinja.
    pub fn open(dir: &Path) -> Result<Self> {
        let config_path = dir.join(CONFIG);
        let config = read_if_there(&config_path)?;
        let mut tokens = special_tokens(&config);
        for (name, token) in special_tokens(&read_if_there(&dir.join(SPECIAL_TOKENS))?) {
            if tokens.iter().all(|(known, _)| *known != name) {
                tokens.push((name, token));
            }
        }
        let file = dir.join(FILE);
        if file.symlink_metadata().is_err() {
            return Self::of_config(&config, dir, &config_path, tokens);
        }
        let source = std::fs::read_to_string(&file);
        let io = |source| Error::Io { path: file.clone(), doing: "read", source };
        Self::new(&source.map_err(io)?, &file, tokens, jinja::local_time)
    }

    /// Takes the template out of what a `tokenizer_config.json` says, be it a file or what the metadata
    /// of the GGUF file at `path` was translated to.
    pub fn from_config(config: &Object, path: &Path) -> Result<Self> {
        Self::of_config(config, path, path, special_tokens(config))
    }

    /// The template `source`, which errors call `path`, with the special tokens by their names
    /// (`bos_token`, …).
    pub fn new(
        source: &str,
        path: &Path,
        special_tokens: Vec<(String, String)>,
        clock: Clock,
    ) -> Result<Self> {
        let environment = jinja::environment(source, clock).map_err(|error| {
            Error::ChatTemplate { path: path.to_owned(), reason: reason(&error) }
        })?;
        Ok(Self { environment, special_tokens })
    }

    fn of_config(
        config: &Object,
        model: &Path,
        path: &Path,
        tokens: Vec<(String, String)>,
    ) -> Result<Self> {
        match config.get("chat_template").filter(|value| !value.is_null()) {
            None => Err(Error::NoChatTemplate { model: model.to_owned() }),
            Some(value) => match default_of(&value) {
                Some(source) => Self::new(source, path, tokens, jinja::local_time),
                None => Err(Error::ChatTemplate {
                    path: path.to_owned(),
                    reason: "neither a text nor named texts of which one is the default".to_owned(),
                }),
            },
        }
    }

    /// The chat as one text; with `add_generation_prompt` up to where the assistant begins.
    ///
    /// The error is the template's own word, or where it went wrong, or that nothing came of messages.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let message = |message: &Message| {
            let (role, content) = (message.role.as_str(), message.content.as_str());
            Value::from_pairs([("role", role), ("content", content)])
        };
        let mut variables: Vec<(&str, Value)> = vec![
            ("messages", messages.iter().map(message).collect::<Vec<_>>().into()),
            ("add_generation_prompt", add_generation_prompt.into()),
            // transformers has them too, and they are None there.
            ("tools", ().into()),
            ("documents", ().into()),
        ];
        let tokens = self.special_tokens.iter();
        variables.extend(tokens.map(|(name, token)| (name.as_str(), token.as_str().into())));
        let variables = Value::from_pairs(variables);
        let template = self.environment.get_template(jinja::NAME);
        let rendered = template.and_then(|template| template.render(variables));
        let text = rendered.map_err(|error| Error::TemplateFailed { reason: reason(&error) })?;
        if text.trim().is_empty() && !messages.is_empty() {
            let reason = "it writes nothing of what was said".to_owned();
            return Err(Error::TemplateFailed { reason });
        }
        Ok(text)
    }
}

/// The one text, or the default among named ones: `[{"name": …, "template": …}]`, or an object.
fn default_of(value: &Json) -> Option<&str> {
    match value {
        Json::String(source) => Some(source),
        Json::Array(items) => {
            let default = items.iter().find(|item| item["name"] == DEFAULT)?;
            default["template"].as_str()
        }
        Json::Object(named) => named.get(DEFAULT)?.as_str(),
        _ => None,
    }
}

/// The special tokens of a config; each is a text, or an object with its `content`.
fn special_tokens(config: &Object) -> Vec<(String, String)> {
    let token = |name: &&str| {
        let value = config.get(name)?;
        let token = value.as_str().or_else(|| value["content"].as_str())?;
        Some(((*name).to_owned(), token.to_owned()))
    };
    NAMES.iter().filter_map(token).collect()
}

fn read_if_there(path: &Path) -> Result<Object> {
    if path.symlink_metadata().is_err() {
        return Ok(Object::default());
    }
    Ok(folder::read_object(path)?)
}

/// What the template says, or the library of it, and where.
fn reason(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
