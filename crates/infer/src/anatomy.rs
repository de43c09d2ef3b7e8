//! Which tensors a decoder has: names and shapes that follow from its config.

use crate::config::DecoderConfig;

/// A tensor that a config promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name, in Hugging Face's form.
    pub name: String,
    /// Its shape; a matrix is (outputs, inputs).
    pub shape: Vec<usize>,
}

/// The embedding's name.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// The final norm's name.
pub const NORM: &str = "model.norm.weight";
/// The head's name, where it is not the embedding.
pub const HEAD: &str = "lm_head.weight";

/// The name of a tensor of layer number `layer`.
#[must_use]
pub fn layer_tensor(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

/// The layer that a tensor of this name belongs to.
#[must_use]
pub fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// The tensors of a decoder; a head that is the embedding is not among them.
#[must_use]
pub fn expected(config: &DecoderConfig) -> Vec<Expected> {
    let hidden = config.hidden_size;
    let mut all =
        vec![Expected { name: EMBEDDING.to_owned(), shape: vec![config.vocab_size, hidden] }];
    let of_layer = layer(config);
    for number in 0..config.num_hidden_layers {
        all.extend(of_layer.iter().map(|(name, shape)| Expected {
            name: layer_tensor(number, name),
            shape: shape.clone(),
        }));
    }
    all.push(Expected { name: NORM.to_owned(), shape: vec![hidden] });
    if !config.tie_word_embeddings {
        all.push(Expected { name: HEAD.to_owned(), shape: vec![config.vocab_size, hidden] });
    }
    all
}

/// Whether a tensor may be there although no config promises it: older files hold frequencies, which
/// follow from the config.
#[must_use]
pub fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// The tensors of one layer, without what stands before the layer's number.
fn layer(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let mut all = Vec::new();
    for (name, outputs, inputs, has_bias) in [
        ("self_attn.q_proj", queries, hidden, config.biases.qkv),
        ("self_attn.k_proj", keys, hidden, config.biases.qkv),
        ("self_attn.v_proj", keys, hidden, config.biases.qkv),
        ("self_attn.o_proj", hidden, queries, config.biases.o),
        ("mlp.gate_proj", inner, hidden, config.biases.mlp),
        ("mlp.up_proj", inner, hidden, config.biases.mlp),
        ("mlp.down_proj", hidden, inner, config.biases.mlp),
    ] {
        all.push((format!("{name}.weight"), vec![outputs, inputs]));
        if has_bias {
            all.push((format!("{name}.bias"), vec![outputs]));
        }
    }
    if config.qk_norm {
        for name in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
            all.push((name.to_owned(), vec![config.head_dim]));
        }
    }
    for name in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
        all.push((name.to_owned(), vec![hidden]));
    }
    all
}
