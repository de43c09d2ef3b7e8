//! The decoder that a `config.json` describes: sizes, windows, biases, checked once.

use std::path::Path;

use checkpoint::json::Object;

use crate::error::{Error, Result};
use crate::family::{BiasRule, Family, WindowRule};
use crate::keys::Keys;
use crate::rope::Rope;

/// The sizes and switches of a decoder, under the names that `config.json` has for them.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The number of tokens: rows of the embedding and of the head.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width inside the feed-forward block.
    pub intermediate_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of query heads; a multiple of `num_key_value_heads`.
    pub num_attention_heads: usize,
    /// The number of key and value heads.
    pub num_key_value_heads: usize,
    /// The width of a head; even.
    pub head_dim: usize,
    /// What is added to a mean square before its root is taken.
    pub rms_norm_eps: f64,
    /// The number of positions.
    pub max_position_embeddings: usize,
    /// The rotary embedding.
    pub rope: Rope,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// For each layer how many keys a query sees, itself included; `None`: all before it.
    pub sliding_windows: Vec<Option<usize>>,
    /// Which projections have biases.
    pub biases: Biases,
    /// Whether each head's queries and keys are normed before they are turned.
    pub qk_norm: bool,
}

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// `q_proj`, `k_proj` and `v_proj`.
    pub qkv: bool,
    /// `o_proj`.
    pub o: bool,
    /// Those of the feed-forward block.
    pub mlp: bool,
}

impl DecoderConfig {
    /// Reads `config`, which errors call `path`.
    pub fn read(config: &Object, path: &Path) -> Result<Self> {
        let keys = Keys::new(path, config);
        let family = family(&keys)?;
        refuse_other_arithmetic(&keys)?;

        let hidden_size = keys.required_count("hidden_size")?;
        let num_attention_heads = keys.required_count("num_attention_heads")?;
        // An explicit null means as many as query heads; absence means the family's default.
        let default = family.num_key_value_heads;
        let default = default.filter(|_| !config.contains("num_key_value_heads"));
        let num_key_value_heads = keys.count("num_key_value_heads")?.or(default);
        let num_key_value_heads = num_key_value_heads.unwrap_or(num_attention_heads);
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(keys.wrong("num_key_value_heads", "a divisor of `num_attention_heads`"));
        }
        let head_dim = keys.count("head_dim")?.or(family.head_dim);
        let head_dim = head_dim.unwrap_or(hidden_size / num_attention_heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(keys.wrong("head_dim", "an even number, as RoPE turns pairs"));
        }
        let max_position_embeddings = keys.count("max_position_embeddings")?;
        let max_position_embeddings =
            max_position_embeddings.unwrap_or(family.max_position_embeddings);
        let num_hidden_layers = keys.layers("num_hidden_layers")?;
        Ok(Self {
            vocab_size: keys.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: keys.required_count("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
            max_position_embeddings,
            rope: Rope::read(&keys, max_position_embeddings)?,
            tie_word_embeddings: keys.boolean("tie_word_embeddings")?.unwrap_or(false),
            sliding_windows: sliding_windows(&keys, family.window, num_hidden_layers)?,
            biases: biases(&keys, family)?,
            qk_norm: family.qk_norm,
        })
    }
}

/// The family by `model_type`; `architectures` must be a causal language model's.
fn family(keys: &Keys) -> Result<&'static Family> {
    let unknown =
        |found: String| Error::UnknownArchitecture { config: keys.path.to_owned(), found };
    let model_type = keys.text("model_type")?;
    let model_type = model_type.ok_or_else(|| keys.wrong("model_type", "a text"))?;
    let family = Family::of(&model_type).ok_or_else(|| unknown(model_type))?;
    let architectures = keys.texts("architectures")?.unwrap_or_default();
    match architectures.into_iter().find(|name| !Family::is_known(name)) {
        Some(name) => Err(unknown(name)),
        None => Ok(family),
    }
}

fn biases(keys: &Keys, family: &Family) -> Result<Biases> {
    let attention_bias = keys.boolean("attention_bias")?.unwrap_or(false);
    let (qkv, o) = match family.attention_bias {
        BiasRule::Never => (false, false),
        BiasRule::QueriesKeysValues => (true, false),
        BiasRule::AttentionKey => (attention_bias, attention_bias),
    };
    let mlp = family.mlp_bias_key && keys.boolean("mlp_bias")?.unwrap_or(false);
    Ok(Biases { qkv, o, mlp })
}

/// Refuses what would run, and give other numbers than the model's.
fn refuse_other_arithmetic(keys: &Keys) -> Result<()> {
    let activation = keys.text("hidden_act")?;
    if activation.is_some_and(|name| !["silu", "swish"].contains(&name.as_str())) {
        return Err(keys.unsupported("hidden_act"));
    }
    if keys.value("quantization_config").is_some() {
        return Err(keys.unsupported("quantization_config"));
    }
    Ok(())
}

/// How many keys a query sees in each layer.
fn sliding_windows(keys: &Keys, rule: WindowRule, num_layers: usize) -> Result<Vec<Option<usize>>> {
    // An explicit null means no window; only absence means the default.
    let window = |default| {
        let is_given = keys.object.contains("sliding_window");
        if is_given { keys.count("sliding_window") } else { Ok(Some(default)) }
    };
    match rule {
        WindowRule::Never => Ok(vec![None; num_layers]),
        WindowRule::Every(default) => Ok(vec![window(default)?; num_layers]),
        WindowRule::Gated { sliding_window, max_window_layers } => {
            let is_on = keys.boolean("use_sliding_window")?.unwrap_or(false);
            let window = if is_on { window(sliding_window)? } else { None };
            if let Some(types) = keys.texts("layer_types")? {
                return by_layer_types(keys, &types, window, num_layers);
            }
            let first = keys.whole("max_window_layers")?.unwrap_or(max_window_layers);
            Ok((0..num_layers).map(|layer| window.filter(|_| layer >= first)).collect())
        }
    }
}

/// An explicit list is the truth, whatever `max_window_layers` says beside it.
fn by_layer_types(
    keys: &Keys,
    types: &[String],
    window: Option<usize>,
    num_layers: usize,
) -> Result<Vec<Option<usize>>> {
    if types.len() != num_layers {
        return Err(keys.wrong("layer_types", "a list with an entry for each layer"));
    }
    let of = |name: &String| match name.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        _ => Err(keys.unsupported("layer_types")),
    };
    types.iter().map(of).collect()
}
