//! Mistral weights described as Llama's, as SOLAR did.
//!
//! Names and shapes of the tensors are the same in both. What differs is the window, which Llama has
//! not: within one window's length the two compute the same, so that is what the model is good for.

use checkpoint::json::Object;
use serde_json::{Value, json};

use super::depth::{malformed, shortened};
use super::error::SettingError;

/// What transformers takes where a Mistral config is silent and Llama's default is another.
const MISTRAL_DEFAULTS: [(&str, u64); 4] = [
    ("intermediate_size", 14336),
    ("max_position_embeddings", 131_072),
    ("num_key_value_heads", 8),
    (WINDOW, DEFAULT_WINDOW),
];

const WINDOW: &str = "sliding_window";
const DEFAULT_WINDOW: u64 = 4096;
const POSITIONS: &str = "max_position_embeddings";

/// Turns the config of a Mistral model into that of the Llama model with the same weights.
///
/// `configs` are those of all models of the plan: the smallest of their windows counts. A config that
/// is Llama's already stays as it is.
pub(super) fn write_as_llama(
    config: &mut Object,
    configs: &[&Object],
    notes: &mut Vec<String>,
) -> Result<(), SettingError> {
    let refuse = |config: &Object, key| {
        let found = config.text(key).map_or("absent".to_owned(), shortened);
        Err(SettingError::Architecture { key, found })
    };
    match config.get("model_type").as_ref().and_then(Value::as_str) {
        Some("llama") => return Ok(()),
        Some("mistral") => {}
        _ => return refuse(config, "model_type"),
    }
    let architectures = config.get("architectures").filter(|value| !value.is_null());
    if architectures.is_some_and(|value| value != json!(["MistralForCausalLM"])) {
        return refuse(config, "architectures");
    }

    let mut window: Option<u64> = None;
    for config in configs {
        let of_model = match config.read::<Option<u64>>(WINDOW) {
            None => Some(DEFAULT_WINDOW),
            Some(Ok(Some(0)) | Err(_)) => {
                return Err(malformed(config, WINDOW, "null or a positive number of tokens"));
            }
            Some(Ok(window)) => window,
        };
        window = window.into_iter().chain(of_model).min();
    }
    if config.contains("auto_map") {
        notes.push(
            "`auto_map` is kept: with remote code trusted, the base's own classes are loaded"
                .to_owned(),
        );
    }

    config.insert("architectures", &json!(["LlamaForCausalLM"]));
    config.set("model_type", &"llama".into());
    for (key, value) in MISTRAL_DEFAULTS.iter().filter(|(key, _)| *key != WINDOW) {
        if !config.contains(key) {
            config.insert(key, &(*value).into());
        }
    }
    config.remove(WINDOW);
    if let Some(window) = window {
        let Some(Ok(positions)) = config.read::<u64>(POSITIONS) else {
            return Err(malformed(config, POSITIONS, "a number of tokens"));
        };
        if positions > window {
            config.set(POSITIONS, &window.into());
            notes.push(format!(
                "`{POSITIONS}` set from {positions} to {window}, the sliding window, which Llama has not"
            ));
        }
    }
    for (key, value) in
        [("attention_bias", json!(false)), ("mlp_bias", json!(false)), ("pretraining_tp", json!(1))]
    {
        if !config.contains(key) {
            config.insert(key, &value);
        }
    }
    if !config.contains("rope_parameters") && !config.contains("rope_scaling") {
        config.insert("rope_scaling", &Value::Null);
    }
    note_head_dim(config, notes);
    Ok(())
}

/// Old Llama readers take the head dimension to be the hidden size over the number of heads.
fn note_head_dim(config: &Object, notes: &mut Vec<String>) {
    let number = |key| config.read::<u64>(key).and_then(Result::ok);
    if let (Some(head_dim), Some(hidden), Some(heads)) =
        (number("head_dim"), number("hidden_size"), number("num_attention_heads"))
        && Some(head_dim) != hidden.checked_div(heads)
    {
        notes.push(format!(
            "`head_dim` is {head_dim}, not {hidden} / {heads}: Llama readers before transformers \
             4.46 do not read it"
        ));
    }
}
