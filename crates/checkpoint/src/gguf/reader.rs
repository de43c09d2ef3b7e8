//! A config's values, as the file of an architecture needs them or refuses them.

use serde_json::Value;

use super::architecture::{Architecture, Biases, Pair};
use super::error::GgufError;
use crate::json::Object;

type Result<T> = std::result::Result<T, GgufError>;

type IsOrdinary = fn(&Value) -> bool;

/// Settings that are ordinary only with one value, and what speaks against others.
const REFUSALS: &[(&str, IsOrdinary, &str)] = &[
    ("quantization_config", is_off, "is not translated: the weights are quantised"),
    ("num_local_experts", is_off, "has no place in a file of this architecture"),
    ("num_experts", is_off, "has no place in a file of this architecture"),
    ("num_nextn_predict_layers", is_off, "has no place in a file of this architecture"),
    ("mtp_num_hidden_layers", is_off, "has no place in a file of this architecture"),
    ("num_mtp_layers", is_off, "has no place in a file of this architecture"),
    ("per_layer_config", is_off, "has no place in a GGUF file"),
    ("use_bidirectional_attention", is_off, "llama.cpp does not have"),
    ("use_mrope", is_off, "llama.cpp does not have for this architecture"),
    ("is_causal", is_on, "is not translated"),
];

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

fn is_on(value: &Value) -> bool {
    value.is_null() || *value == Value::Bool(true)
}

/// A config with what its architecture makes of it.
pub(super) struct Reader<'a> {
    pub(super) config: &'a Object,
    pub(super) architecture: &'a Architecture,
}

impl Reader<'_> {
    fn stated(&self, key: &str) -> Option<Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn refused(&self, key: &str, why: &str) -> GgufError {
        let text = self.config.text(key).unwrap_or("missing").replace('\n', " ");
        let end = text.char_indices().nth(60).map_or(text.len(), |(end, _)| end);
        let dots = if end < text.len() { "…" } else { "" };
        GgufError::NotTranslated { what: format!("`{key}` is {}{dots}, which {why}", &text[..end]) }
    }

    pub(super) fn missing(&self, key: &str) -> GgufError {
        self.refused(key, "is needed for a GGUF file")
    }

    pub(super) fn u64(&self, key: &str) -> Result<Option<u64>> {
        let number = |value: Value| value.as_u64().ok_or_else(|| self.refused(key, "is no count"));
        self.stated(key).map(number).transpose()
    }

    pub(super) fn positive(&self, key: &str) -> Result<u64> {
        self.u64(key)?.filter(|&number| number > 0).ok_or_else(|| self.missing(key))
    }

    pub(super) fn f64(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: Value| value.as_f64().ok_or_else(|| self.refused(key, "is no number"));
        self.stated(key).map(number).transpose()
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        let truth = |value: Value| {
            value.as_bool().ok_or_else(|| self.refused(key, "is neither true nor false"))
        };
        self.stated(key).map(truth).transpose()
    }

    pub(super) fn model_type(&self) -> Option<&'static str> {
        let found = self.stated("model_type")?;
        let models = self.architecture.models.iter();
        models.map(|model| model.model_type).find(|known| found == *known)
    }

    /// Whether a config of the model without `num_key_value_heads` means as many as there are heads.
    pub(super) fn defaults_to_all_heads(&self) -> bool {
        matches!(self.model_type(), Some("llama" | "phi3"))
            || self.config.contains("num_key_value_heads")
    }

    pub(super) fn head_dim(&self, hidden_size: u64, num_heads: u64) -> Result<u64> {
        let derived = hidden_size / num_heads;
        let stated = self.u64("head_dim")?.filter(|&size| size > 0);
        if stated.is_some_and(|size| size != derived) && !self.architecture.states_head_dim {
            let why = format!("llama.cpp takes to be {derived}");
            return Err(self.refused("head_dim", &why));
        }
        match stated {
            Some(size) => Ok(size),
            // Their loaders have defaults that are no quotient.
            None if !matches!(self.architecture.name, "llama" | "qwen2" | "phi3") => {
                Err(self.missing("head_dim"))
            }
            None if derived == 0 => Err(self.missing("hidden_size")),
            None => Ok(derived),
        }
    }

    pub(super) fn refuse_other_arithmetic(&self) -> Result<()> {
        for (key, is_ordinary, why) in REFUSALS {
            if self.config.get(key).is_some_and(|value| !is_ordinary(&value)) {
                return Err(self.refused(key, why));
            }
        }
        let (key, function) = self.architecture.activation;
        if self.stated(key).is_some_and(|value| value != function) {
            return Err(self.refused(key, &format!("llama.cpp takes to be {function}")));
        }
        let model =
            self.architecture.models.iter().find(|it| Some(it.model_type) == self.model_type());
        for key in ["attention_bias", "mlp_bias"] {
            let has = |biases: &Biases| biases.key == Some(key);
            let known = model.is_some_and(|model| model.biases.iter().any(has));
            if !known && self.bool(key)?.unwrap_or(false) {
                let why = format!("llama.cpp's `{}` does not have", self.architecture.name);
                return Err(self.refused(key, &why));
            }
        }
        let needs_tied = !self.architecture.globals.iter().any(Pair::is_output);
        if needs_tied && self.bool("tie_word_embeddings")? == Some(false) {
            return Err(self.refused("tie_word_embeddings", "llama.cpp takes to be true"));
        }
        let caps = ["attn_logit_softcapping", "final_logit_softcapping"];
        let has = |cap: &str| self.architecture.softcaps.iter().any(|(known, _)| *known == cap);
        for cap in caps.into_iter().filter(|cap| !has(cap)) {
            if self.f64(cap)?.is_some_and(|number| number != 0.0) {
                let why = format!("llama.cpp's `{}` does not have", self.architecture.name);
                return Err(self.refused(cap, &why));
            }
        }
        Ok(())
    }

    /// Whether each layer has a window, where the config lists it.
    pub(super) fn layer_types(&self, num_layers: u64) -> Result<Option<Vec<bool>>> {
        const KEY: &str = "layer_types";
        let Some(value) = self.stated(KEY) else { return Ok(None) };
        let kinds: Option<Vec<bool>> = value.as_array().and_then(|items| {
            let kind = |item: &Value| match item.as_str()? {
                "full_attention" => Some(false),
                "sliding_attention" => Some(true),
                _ => None,
            };
            items.iter().map(kind).collect()
        });
        match kinds {
            Some(kinds) if kinds.len() as u64 == num_layers => Ok(Some(kinds)),
            Some(_) => Err(self.refused(KEY, &format!("has not {num_layers} entries"))),
            None => Err(self.refused(KEY, "llama.cpp does not have for this architecture")),
        }
    }
}

/// Refuses a list of kinds that llama.cpp would not give the layers.
pub(super) fn refuse_kinds(kinds: Option<&[bool]>, expected: impl Fn(u64) -> bool) -> Result<()> {
    let kinds = kinds.unwrap_or_default().iter().zip(0..);
    let Some((&found, layer)) = kinds.clone().find(|&(&kind, layer)| kind != expected(layer))
    else {
        return Ok(());
    };
    let (is, takes) = if found { ("a window", "none") } else { ("no window", "one") };
    Err(GgufError::NotTranslated {
        what: format!(
            "`layer_types` gives layer {layer} {is}, but llama.cpp gives it {takes}, by its number"
        ),
    })
}
