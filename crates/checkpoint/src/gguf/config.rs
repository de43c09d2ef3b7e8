//! `config.json` from a GGUF file's metadata: what transformers would want of the same model.
//!
//! The keys are in the spelling of transformers 4, which version 5 reads too. What the file says in
//! its tensors (a matrix of its own for the output, biases, the size of the vocabulary, factors of
//! RoPE) is taken from there; what metadata and tensors say both must agree.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::agreement;
use super::architecture::{Architecture, Biases, Model, Translated, Window};
use super::header::HeaderTensor;
use super::keys::Keys;
use super::metadata::Metadata;
use super::rope::{DEFAULT_ORIGINAL, Extent, Rope, RopeFactors, Scaling, long_attention};
use super::settings::{Setting, Settings, object};
use crate::error::Result;
use crate::json::Object;

/// What must be known of a file's tensors.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// All of them, those of every part of a split file.
    pub tensors: &'a [HeaderTensor],
    /// The numbers of those that become settings.
    pub rope: RopeFactors,
}

/// A config, and what is to be said of it.
#[derive(Debug, Clone)]
pub struct Described {
    /// The config, without the type of the weights (`torch_dtype`).
    pub config: Object,
    /// What a user should hear, a sentence each.
    pub notes: Vec<String>,
}

/// Describes the model of a file, of `architecture`, for Hugging Face's libraries.
///
/// The metadata are refused where the tensors or other keys contradict them, and where config.json
/// has no words for what they say. The weights are `hf_name`'s and its changes' matter.
pub fn config_from_metadata(
    metadata: &Metadata,
    architecture: &'static Architecture,
    facts: &Facts,
) -> Result<Described> {
    let keys = Keys::new(metadata, architecture);
    let mut notes = Vec::new();
    let num_layers = keys.required("block_count")?;
    let predictions = keys.u64("nextn_predict_layers")?.unwrap_or(0);
    if predictions > 0 {
        return Err(keys.not_translated(format!(
            "`{}` is {predictions}: `{}` has no prediction layers in config.json",
            keys.key("nextn_predict_layers"),
            architecture.name
        )));
    }
    agreement::check_layers(&keys, num_layers, facts.tensors)?;
    let vocab_size = agreement::vocab_size(&keys, facts.tensors)?;

    let window = keys.u64("attention.sliding_window")?;
    let model = match architecture.models {
        // Both are written as `llama`; a window is all that tells them apart.
        [_, other, ..] if window > Some(0) => other,
        models => &models[0],
    };
    let per_layer = |suffix| -> Result<u64> {
        keys.same_in_layers(suffix, num_layers)?.ok_or_else(|| keys.missing(suffix))
    };
    let hidden_size = keys.required("embedding_length")?;
    let num_heads = per_layer("attention.head_count")?;
    let num_key_value_heads =
        keys.same_in_layers("attention.head_count_kv", num_layers)?.unwrap_or(num_heads);
    let head_dim = head_dim(&keys, hidden_size, num_heads)?;
    let extent = Extent { head_dim, max_position_embeddings: keys.required("context_length")? };
    refuse_other_arithmetic(&keys)?;

    let (activation, function) = architecture.activation;
    let epsilon = keys.f64("attention.layer_norm_rms_epsilon")?;
    let epsilon = epsilon.ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?;
    let mut settings = Settings::from([
        ("architectures", json!([model.class]).into()),
        ("model_type", json!(model.model_type).into()),
        (activation, json!(function).into()),
        ("hidden_size", json!(hidden_size).into()),
        ("intermediate_size", json!(per_layer("feed_forward_length")?).into()),
        ("max_position_embeddings", json!(extent.max_position_embeddings).into()),
        ("num_attention_heads", json!(num_heads).into()),
        ("num_hidden_layers", json!(num_layers).into()),
        ("num_key_value_heads", json!(num_key_value_heads).into()),
        ("rms_norm_eps", Setting::Float(epsilon)),
        ("tie_word_embeddings", json!(!has(facts.tensors, "output.weight")).into()),
        ("vocab_size", json!(vocab_size).into()),
    ]);
    if architecture.states_head_dim
        && (model.model_type != "llama" || head_dim * num_heads != hidden_size)
    {
        settings.insert("head_dim", json!(head_dim).into());
    }
    agreement::check_shapes(&keys, &object(&settings), facts.tensors)?;
    let rope = Rope::of_metadata(&keys, extent, &facts.rope)?;
    write_biases(&mut settings, &keys, model, num_layers, facts.tensors)?;
    write_rope(&mut settings, &keys, &rope, extent)?;
    write_window(&mut settings, &keys, window, num_layers)?;
    write_gemma(&mut settings, &keys, [num_layers, hidden_size, num_heads, head_dim])?;
    write_special_tokens(&mut settings, &keys, vocab_size, &mut notes);

    for key in keys.unasked() {
        notes.push(format!("`{key}` has no counterpart in config.json and is left out"));
    }
    Ok(Described { config: object(&settings), notes })
}

/// The size of a head, which no architecture here lets differ between keys and values.
fn head_dim(keys: &Keys, hidden_size: u64, num_heads: u64) -> Result<u64> {
    let derived = hidden_size.checked_div(num_heads).filter(|&size| size > 0).ok_or_else(|| {
        keys.contradiction(format!(
            "`{}` is {num_heads}, but `{}` is {hidden_size}",
            keys.key("attention.head_count"),
            keys.key("embedding_length")
        ))
    })?;
    let size = keys.u64("attention.key_length")?.unwrap_or(derived);
    let values = keys.u64("attention.value_length")?.unwrap_or(derived);
    let stated = keys.architecture.states_head_dim;
    if size != values || size == 0 || (!stated && size != derived) {
        return Err(keys.not_translated(format!(
            "a head has {size} numbers by `{}`, {values} by `{}` and {derived} by `{}`, for which \
             config.json has no place",
            keys.key("attention.key_length"),
            keys.key("attention.value_length"),
            keys.key("embedding_length")
        )));
    }
    Ok(size)
}

/// Refuses keys that change what the loader computes and that no config of these models has.
fn refuse_other_arithmetic(keys: &Keys) -> Result<()> {
    let experts = keys.u64("expert_count")?.filter(|&count| count > 0);
    let causal = keys.metadata.bool(&keys.key("attention.causal"))?;
    let found = match (experts, causal) {
        (Some(count), _) => Some(("expert_count", count.to_string())),
        (None, Some(false)) => Some(("attention.causal", "false".to_owned())),
        _ => None,
    };
    // They mean nothing without experts.
    keys.key("expert_used_count");
    match found {
        Some((suffix, value)) => Err(keys.not_translated(format!(
            "`{}` is {value}, which is not written as a folder",
            keys.key(suffix)
        ))),
        None => Ok(()),
    }
}

fn has(tensors: &[HeaderTensor], name: &str) -> bool {
    tensors.iter().any(|tensor| tensor.name == name)
}

/// Biases are promised in the config where they are, in every layer or in none.
fn write_biases(
    settings: &mut Settings,
    keys: &Keys,
    model: &Model,
    num_layers: u64,
    tensors: &[HeaderTensor],
) -> Result<()> {
    let mut found: BTreeMap<String, &str> = BTreeMap::new();
    for tensor in tensors {
        if let Some(Translated::Tensor { name, .. }) = keys.architecture.hf_name(&tensor.name)
            && name.rsplit('.').next() == Some("bias")
        {
            found.insert(name, &tensor.name);
        }
    }
    let mut promised = BTreeSet::new();
    for Biases { key, modules } in model.biases {
        let expected: Vec<String> = (0..num_layers)
            .flat_map(|i| {
                modules.iter().map(move |module| format!("model.layers.{i}.{module}.bias"))
            })
            .collect();
        let present = expected.iter().find(|name| found.contains_key(*name));
        if let Some(key) = key {
            settings.insert(key, json!(present.is_some()).into());
        }
        let lacking = expected.iter().find(|name| !found.contains_key(*name));
        if let (Some(lacking), true) = (lacking, present.is_some() || key.is_none()) {
            let name = match keys.architecture.gguf_name(lacking) {
                Some(Translated::Tensor { name, .. }) => name,
                _ => lacking.clone(),
            };
            return Err(keys.not_translated(format!(
                "`{name}` is missing, which every {} {}",
                model.class,
                if key.is_some() { "with other biases has" } else { "has" }
            )));
        }
        promised.extend(expected);
    }
    match found.iter().find(|(name, _)| !promised.contains(*name)) {
        Some((_, name)) => {
            Err(keys
                .not_translated(format!("`{name}` is there, but {} has no such bias", model.class)))
        }
        None => Ok(()),
    }
}

fn write_rope(settings: &mut Settings, keys: &Keys, rope: &Rope, extent: Extent) -> Result<()> {
    let architecture = keys.architecture;
    settings.insert("rope_theta", Setting::Float(rope.theta));
    if let Some(theta) = rope.local_theta {
        settings.insert("rope_local_base_freq", Setting::Float(theta));
    }
    let takes_long = architecture.rope_types.contains(&"longrope");
    if rope.dimension != extent.head_dim {
        let factor = rope.dimension as f64 / extent.head_dim as f64;
        settings.insert("partial_rotary_factor", Setting::Float(factor));
    }
    if takes_long {
        let original = match rope.scaling {
            Scaling::Long { original, .. } => original,
            _ => keys.u64("rope.scaling.original_context_length")?.unwrap_or(DEFAULT_ORIGINAL),
        };
        settings.insert("original_max_position_embeddings", json!(original).into());
    }
    let kind = |kind: &str| ("rope_type", json!(kind).into());
    let scaling = match &rope.scaling {
        Scaling::None => {
            settings.insert("rope_scaling", Value::Null.into());
            return Ok(());
        }
        Scaling::Linear { factor } => {
            Settings::from([kind("linear"), ("factor", Setting::Float(*factor))])
        }
        Scaling::Yarn { factor, original, betas: [fast, slow], attention } => {
            let mut scaling = Settings::from([
                kind("yarn"),
                ("factor", Setting::Float(*factor)),
                ("original_max_position_embeddings", json!(original).into()),
            ]);
            let optional =
                [("beta_fast", fast), ("beta_slow", slow), ("attention_factor", attention)];
            for (key, number) in optional {
                scaling.extend(number.map(|number| (key, Setting::Float(number))));
            }
            scaling
        }
        Scaling::Llama3(curve) => Settings::from([
            kind("llama3"),
            ("factor", Setting::Float(curve.factor)),
            ("high_freq_factor", Setting::Float(curve.high)),
            ("low_freq_factor", Setting::Float(curve.low)),
            ("original_max_position_embeddings", json!(curve.original.round() as i64).into()),
        ]),
        Scaling::Long { long, short, original, attention } => {
            let mut scaling = Settings::from([
                kind("longrope"),
                ("long_factor", Setting::Floats(long.clone())),
                ("short_factor", Setting::Floats(short.clone())),
            ]);
            let whole = extent.max_position_embeddings as f64 / *original as f64;
            let usual = long_attention(whole, *original);
            // What transformers works out itself is not stated.
            if (attention - usual).abs() > 1e-6 * usual {
                scaling.insert("attention_factor", Setting::Float(*attention));
            }
            scaling
        }
    };
    let name = match &rope.scaling {
        Scaling::Linear { .. } => "linear",
        Scaling::Yarn { .. } => "yarn",
        Scaling::Llama3(_) => "llama3",
        _ => "longrope",
    };
    if !architecture.rope_types.contains(&name) {
        return Err(keys.not_translated(format!(
            "RoPE is stretched the way `{name}`, which `{}` is not read with",
            architecture.name
        )));
    }
    settings.insert("rope_scaling", Setting::Object(scaling));
    Ok(())
}

/// The window and the layers that have it.
fn write_window(
    settings: &mut Settings,
    keys: &Keys,
    window: Option<u64>,
    num_layers: u64,
) -> Result<()> {
    let window = window.filter(|&window| window > 0);
    match keys.architecture.window {
        Window::Ignored => {
            settings.extend(window.map(|window| ("sliding_window", json!(window).into())));
        }
        Window::Gated => {
            settings.insert("use_sliding_window", json!(false).into());
            settings.insert("sliding_window", json!(window).into());
            settings.insert("max_window_layers", json!(num_layers).into());
        }
        Window::Noted => {
            settings.insert("sliding_window", json!(window).into());
        }
        Window::Period { layers: period, default } => {
            let window = window.or(default);
            let kinds = match window {
                Some(_) => windowed(keys, period, num_layers)?,
                None => vec![false; num_layers as usize],
            };
            let name = |has_window| if has_window { "sliding_attention" } else { "full_attention" };
            let kinds: Vec<&str> = kinds.into_iter().map(name).collect();
            settings.insert("sliding_window", json!(window).into());
            settings.insert("layer_types", json!(kinds).into());
        }
    }
    Ok(())
}

/// Whether each layer has the window: by a list, else by the length of a group.
fn windowed(keys: &Keys, period: u64, num_layers: u64) -> Result<Vec<bool>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let key = keys.key(PATTERN);
    if let Some(array) = keys.value(PATTERN).and_then(|value| value.as_array()) {
        keys.refuse_other_length(&key, array.len(), num_layers)?;
        let kind = |value: super::Value| {
            value.as_bool().or_else(|| value.as_i64().map(|number| number != 0))
        };
        let kinds: Option<Vec<bool>> = array.iter().map(kind).collect();
        return kinds.ok_or_else(|| keys.metadata.wrong(&key, "truth values", "others"));
    }
    let period = keys.u64(PATTERN)?.unwrap_or(period);
    Ok((0..num_layers).map(|layer| period == 0 || layer % period < period - 1).collect())
}

/// The caps and the attention scale of Gemma.
fn write_gemma(settings: &mut Settings, keys: &Keys, sizes: [u64; 4]) -> Result<()> {
    let [num_layers, hidden_size, num_heads, head_dim] = sizes;
    for (cap, default) in keys.architecture.softcaps {
        let cap_of_file = keys.f64(cap)?.or(*default).filter(|&cap| cap != 0.0);
        let value = cap_of_file.map_or(Setting::Value(Value::Null), Setting::Float);
        settings.insert(cap, value);
    }
    if let Some(scale) = &keys.architecture.query_scale {
        let scalar = scale.scalar(num_layers, hidden_size, num_heads, head_dim);
        settings.insert("query_pre_attn_scalar", json!(scalar).into());
        settings.insert("attention_bias", json!(false).into());
    }
    Ok(())
}

fn write_special_tokens(
    settings: &mut Settings,
    keys: &Keys,
    vocab_size: u64,
    notes: &mut Vec<String>,
) {
    for (setting, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        let stated = keys.metadata.get(key).and_then(|value| value.as_i64());
        let id = stated.and_then(|id| u64::try_from(id).ok()).filter(|&id| id < vocab_size);
        if let (Some(stated), None) = (stated, id) {
            notes.push(format!(
                "`{key}` is {stated}, past the {vocab_size} rows of the embeddings, and is left out"
            ));
        }
        settings.insert(setting, json!(id).into());
    }
}
