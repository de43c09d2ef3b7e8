//! What a model's files say of generation: where it ends, and how tokens are chosen.

use std::path::Path;

use checkpoint::folder;
use checkpoint::json::Object;
use serde_json::Value;

use crate::error::Result;
use crate::keys::Keys;
use crate::sampling::Sampling;

const FILE: &str = "generation_config.json";

/// The `top_k` of transformers where sampling is on and nothing says otherwise.
const DEFAULT_TOP_K: usize = 50;

/// The defaults that a model comes with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// Whether tokens are drawn by default; else the best is taken.
    pub do_sample: bool,
    /// How they are drawn, if they are.
    pub sampling: Sampling,
    /// How many new tokens there are at most.
    pub max_new_tokens: Option<usize>,
    /// How many tokens there are at most, those of the prompt included.
    pub max_length: Option<usize>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` in `dir`; the model's `config`, which errors call `path`, stands
    /// in where that says nothing.
    pub fn read(dir: &Path, config: &Object, path: &Path) -> Result<Self> {
        let file = dir.join(FILE);
        let own = match file.symlink_metadata() {
            Ok(_) => folder::read_object(&file)?,
            Err(_) => Object::default(),
        };
        Self::of(&own, &file, config, path)
    }

    /// The same of `own`, the content of a `generation_config.json`, which errors call `file`.
    pub fn of(own: &Object, file: &Path, config: &Object, path: &Path) -> Result<Self> {
        let (keys, config) = (Keys::new(file, own), Keys::new(path, config));
        let eos = match eos(&keys)? {
            Some(eos) => eos,
            None => eos_of(&config)?,
        };
        let number =
            |key, default: f64| Ok::<_, crate::Error>(keys.number(key)?.unwrap_or(default));
        Ok(Self {
            eos,
            do_sample: keys.boolean("do_sample")?.unwrap_or(false),
            sampling: Sampling {
                temperature: number("temperature", 1.0)?,
                top_k: keys.whole("top_k")?.unwrap_or(DEFAULT_TOP_K),
                top_p: number("top_p", 1.0)?,
                min_p: number("min_p", 0.0)?,
                typical_p: number("typical_p", 1.0)?,
                repetition_penalty: number("repetition_penalty", 1.0)?,
                ..Sampling::default()
            },
            max_new_tokens: keys.whole("max_new_tokens")?,
            max_length: keys.whole("max_length")?,
        })
    }
}

fn eos_of(config: &Keys) -> Result<Vec<u32>> {
    Ok(eos(config)?.unwrap_or_default())
}

/// `eos_token_id`: one, or a list.
fn eos(keys: &Keys) -> Result<Option<Vec<u32>>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    keys.read("eos_token_id", "a token, or a list of tokens", |value| match value {
        Value::Array(items) => items.iter().map(id).collect(),
        _ => id(value).map(|id| vec![id]),
    })
}
