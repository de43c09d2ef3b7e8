//! The object of a config that says how RoPE is stretched: what in it llama.cpp has words for.

use serde_json::Value;

use super::architecture::Architecture;
use super::error::GgufError;
use super::llama3::Llama3;
use super::rope::{DEFAULT_ORIGINAL, Extent, Scaling, is_near, long_attention};

/// YaRN's, which llama.cpp has built in.
fn yarn_attention(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

/// Keys that stand beside every way of stretching; `finetuned` is read by no loader.
const COMMON: [&str; 5] = ["rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"];

/// The object of a config that says how RoPE is stretched, under its key.
pub(super) struct Parameters {
    name: String,
    values: serde_json::Map<String, Value>,
}

impl Parameters {
    pub(super) fn new(name: &str, value: Value) -> Result<Self, GgufError> {
        match value {
            Value::Object(values) => Ok(Self { name: name.to_owned(), values }),
            other => Err(GgufError::NotTranslated {
                what: format!("`{name}` is {other}, which is no object"),
            }),
        }
    }

    /// The objects for the layers without and with a window, where it holds these.
    pub(super) fn split(&self) -> Result<Option<(Self, Self)>, GgufError> {
        let kinds = ["full_attention", "sliding_attention"];
        if !kinds.iter().any(|kind| self.values.contains_key(*kind)) {
            return Ok(None);
        }
        let part = |kind: &str| {
            let empty = || Value::Object(serde_json::Map::new());
            let value = self.values.get(kind).filter(|it| !it.is_null()).cloned();
            Self::new(&format!("{}.{kind}", self.name), value.unwrap_or_else(empty))
        };
        Ok(Some((part(kinds[0])?, part(kinds[1])?)))
    }

    pub(super) fn refused(&self, key: &str, why: &str) -> GgufError {
        let value = self.values.get(key).map_or("missing".to_owned(), Value::to_string);
        GgufError::NotTranslated { what: format!("`{}.{key}` is {value}, which {why}", self.name) }
    }

    fn stated(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn f64(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let number =
            |value: &Value| value.as_f64().ok_or_else(|| self.refused(key, "is no number"));
        self.stated(key).map(number).transpose()
    }

    fn required(&self, key: &str) -> Result<f64, GgufError> {
        let number = self.f64(key)?.filter(|&number| number > 0.0);
        number.ok_or_else(|| self.refused(key, "is no number above 0"))
    }

    /// `original_max_position_embeddings`.
    fn original(&self) -> Result<Option<u64>, GgufError> {
        const KEY: &str = "original_max_position_embeddings";
        let count = |value: &Value| {
            let count = value.as_u64().filter(|&count| count > 0);
            count.ok_or_else(|| self.refused(KEY, "is no count above 0"))
        };
        self.stated(KEY).map(count).transpose()
    }

    fn numbers(&self, key: &str, len: u64) -> Result<Vec<f64>, GgufError> {
        let numbers: Option<Vec<f64>> = self
            .stated(key)
            .and_then(Value::as_array)
            .and_then(|items| items.iter().map(Value::as_f64).collect());
        let fitting = numbers.filter(|numbers| numbers.len() as u64 == len);
        fitting.ok_or_else(|| self.refused(key, &format!("is no list of {len} numbers")))
    }

    /// The way of stretching, if one is stated; version 4 has two keys for it.
    pub(super) fn rope_type(&self) -> Result<Option<&str>, GgufError> {
        let Some(key) = ["rope_type", "type"].into_iter().find(|key| self.stated(key).is_some())
        else {
            return Ok(None);
        };
        match &self.values[key] {
            Value::String(text) => Ok(Some(text)),
            _ => Err(self.refused(key, "is no text")),
        }
    }

    pub(super) fn scaling(
        &self,
        architecture: &Architecture,
        extent: Extent,
        dimension: u64,
        original_of_config: Option<u64>,
    ) -> Result<Scaling, GgufError> {
        let kind = match self.rope_type()? {
            None if self.stated("factor").is_some() => {
                return Err(self.refused("rope_type", "leaves open what the factor is for"));
            }
            None | Some("default") => return Ok(Scaling::None),
            // What Phi-3 called it first; its loader takes YaRN's name for it too.
            Some("su") => "longrope",
            Some("yarn") if architecture.rope_types == ["longrope"] => "longrope",
            Some(kind) => kind,
        };
        if !architecture.rope_types.contains(&kind) {
            let why = format!("llama.cpp's `{}` does not have", architecture.name);
            let key = if self.stated("rope_type").is_some() { "rope_type" } else { "type" };
            return Err(self.refused(key, &why));
        }
        let known: &[&str] = match kind {
            "linear" => &["factor"],
            "yarn" => &[
                "factor",
                "original_max_position_embeddings",
                "beta_fast",
                "beta_slow",
                "attention_factor",
                "truncate",
            ],
            "llama3" => &[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ],
            _ => &[
                "long_factor",
                "short_factor",
                "factor",
                "original_max_position_embeddings",
                "attention_factor",
            ],
        };
        let is_known =
            |key: &&String| known.contains(&key.as_str()) || COMMON.contains(&key.as_str());
        if let Some(key) =
            self.values.keys().find(|key| !is_known(key) && self.stated(key).is_some())
        {
            return Err(self.refused(key, "has no place in a GGUF file"));
        }
        let original = self.original()?;
        Ok(match kind {
            "linear" => Scaling::Linear { factor: self.required("factor")? },
            "yarn" => self.yarn()?,
            "llama3" => Scaling::Llama3(Llama3 {
                factor: self.required("factor")?,
                low: self.required("low_freq_factor")?,
                high: self.required("high_freq_factor")?,
                original: self.required("original_max_position_embeddings")?,
            }),
            _ => {
                let original = original_of_config.or(original).unwrap_or(DEFAULT_ORIGINAL);
                let whole = extent.max_position_embeddings as f64 / original as f64;
                let stretch = self.f64("factor")?.unwrap_or(whole);
                let attention = self.f64("attention_factor")?;
                Scaling::Long {
                    long: self.numbers("long_factor", dimension / 2)?,
                    short: self.numbers("short_factor", dimension / 2)?,
                    original,
                    attention: attention.unwrap_or_else(|| long_attention(stretch, original)),
                }
            }
        })
    }

    /// YaRN as llama.cpp has it built in: other numbers than the usual ones are refused.
    fn yarn(&self) -> Result<Scaling, GgufError> {
        let factor = self.required("factor")?;
        let built_in =
            [("attention_factor", yarn_attention(factor)), ("beta_fast", 32.0), ("beta_slow", 1.0)];
        for (key, expected) in built_in {
            if self.f64(key)?.is_some_and(|number| !is_near(number, expected)) {
                return Err(self.refused(key, &format!("llama.cpp takes to be {expected}")));
            }
        }
        if self.stated("truncate").is_some_and(|value| *value != Value::Bool(true)) {
            return Err(self.refused("truncate", "llama.cpp takes to be true"));
        }
        Ok(Scaling::Yarn {
            factor,
            original: self.original()?.ok_or_else(|| {
                self.refused("original_max_position_embeddings", "is needed for YaRN")
            })?,
            betas: [self.f64("beta_fast")?, self.f64("beta_slow")?],
            attention: None,
        })
    }
}
