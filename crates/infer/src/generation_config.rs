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

/// Settings that are not heeded, each with the number that asks for nothing.
const UNHEEDED: [(&str, Option<u32>); 20] = [
    ("bad_words_ids", None),
    ("begin_suppress_tokens", None),
    ("diversity_penalty", Some(0)),
    ("encoder_no_repeat_ngram_size", Some(0)),
    ("encoder_repetition_penalty", Some(1)),
    ("epsilon_cutoff", Some(0)),
    ("eta_cutoff", Some(0)),
    ("exponential_decay_length_penalty", None),
    ("forced_bos_token_id", None),
    ("forced_eos_token_id", None),
    ("guidance_scale", Some(1)),
    ("max_time", None),
    ("min_length", Some(0)),
    ("min_new_tokens", Some(0)),
    ("no_repeat_ngram_size", Some(0)),
    ("num_beams", Some(1)),
    ("num_return_sequences", Some(1)),
    ("penalty_alpha", Some(0)),
    ("sequence_bias", None),
    ("top_h", None),
];

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
    /// The texts that end a text.
    pub stop_strings: Vec<String>,
    /// What a user should hear: which settings are not heeded.
    pub notes: Vec<String>,
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
        let number = |key, default: f64, expected, is_good: fn(f64) -> bool| {
            let read = keys.read(key, expected, |value| value.as_f64().filter(|&x| is_good(x)));
            Ok::<_, crate::Error>(read?.unwrap_or(default))
        };
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let above_0 = |x: f64| x > 0.0;
        Ok(Self {
            eos,
            do_sample: keys.boolean("do_sample")?.unwrap_or(false),
            sampling: Sampling {
                temperature: number("temperature", 1.0, "0 or more", |x| x >= 0.0)?,
                top_k: keys.whole("top_k")?.unwrap_or(DEFAULT_TOP_K),
                top_p: number("top_p", 1.0, "from 0 to 1", share)?,
                min_p: number("min_p", 0.0, "from 0 to 1", share)?,
                typical_p: number("typical_p", 1.0, "above 0 and up to 1", |x| {
                    x > 0.0 && x <= 1.0
                })?,
                repetition_penalty: number("repetition_penalty", 1.0, "above 0", above_0)?,
                suppress_tokens: tokens(&keys, "suppress_tokens")?.unwrap_or_default(),
                ..Sampling::default()
            },
            max_new_tokens: keys.whole("max_new_tokens")?,
            max_length: keys.whole("max_length")?,
            stop_strings: stop_strings(&keys)?,
            notes: notes(&keys),
        })
    }
}

fn eos_of(config: &Keys) -> Result<Vec<u32>> {
    Ok(eos(config)?.unwrap_or_default())
}

/// `eos_token_id`: one, or a list.
fn eos(keys: &Keys) -> Result<Option<Vec<u32>>> {
    keys.read("eos_token_id", "a token, or a list of tokens", |value| match value {
        Value::Array(items) => items.iter().map(token).collect(),
        _ => token(value).map(|id| vec![id]),
    })
}

fn tokens(keys: &Keys, key: &str) -> Result<Option<Vec<u32>>> {
    keys.read(key, "a list of tokens", |value| value.as_array()?.iter().map(token).collect())
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// `stop_strings`: one, or a list.
fn stop_strings(keys: &Keys) -> Result<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let read = keys.read("stop_strings", "a text, or a list of texts", |value| match value {
        Value::Array(items) => items.iter().map(text).collect(),
        _ => text(value).map(|text| vec![text]),
    });
    Ok(read?.unwrap_or_default())
}

/// Names the settings that ask for something and are not heeded.
fn notes(keys: &Keys) -> Vec<String> {
    let asks = |&(key, nothing): &(&str, Option<u32>)| match keys.value(key) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Number(number)) => number.as_f64() != nothing.map(f64::from),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(items)) => !items.is_empty(),
        Some(_) => true,
    };
    let asked: Vec<&str> = UNHEEDED.iter().filter(|it| asks(it)).map(|&(key, _)| key).collect();
    if asked.is_empty() {
        return Vec::new();
    }
    vec![format!("not heeded of {}: {}", keys.path.display(), asked.join(", "))]
}
