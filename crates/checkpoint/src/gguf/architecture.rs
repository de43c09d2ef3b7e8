//! What llama.cpp calls tensors and settings, architecture by architecture: the one table of names.
//!
//! An entry pairs GGUF's name of a tensor with Hugging Face's, and says what a translation must do
//! to the numbers: llama.cpp keeps the rows of Llama's queries and keys in another order, and adds
//! one to Gemma's norms. The settings that no key states, because llama.cpp's loader has them built
//! in, stand here too. Facts are those of llama.cpp's loader and its converter.

use super::error::GgufError;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::json::Object;

/// The key of an architecture's name.
pub const ARCHITECTURE_KEY: &str = "general.architecture";

/// What a layer's tensors begin with, in GGUF and in Hugging Face's names.
const LAYERS: (&str, &str) = ("blk", "model.layers");

/// An architecture of GGUF files, and the models of Hugging Face that are written as it.
#[derive(Debug)]
pub struct Architecture {
    /// Its name, which is also what its keys begin with.
    pub name: &'static str,
    /// The models written as it, the one that it is read as by default first.
    pub models: &'static [Model],
    /// The tensors outside the layers.
    pub globals: &'static [Pair],
    /// A layer's tensors.
    pub layer: &'static [Pair],
    /// The key of the activation in `config.json`, and the only one that llama.cpp computes.
    pub activation: (&'static str, &'static str),
    /// Whether `config.json` and metadata state the size of a head; else it is derived.
    pub states_head_dim: bool,
    /// Whether `vocab_size` and `rope.dimension_count` are stated in the metadata.
    pub states_vocab_size: bool,
    /// What a missing `rope_theta` means to transformers; in GGUF files it is always 10,000.
    pub default_rope_theta: f64,
    /// Whether the base of RoPE is written although it is llama.cpp's default.
    pub writes_rope_theta: bool,
    /// The ways of stretching RoPE that llama.cpp's loader has for it, by transformers' names.
    pub rope_types: &'static [&'static str],
    /// What it makes of a sliding window.
    pub window: Window,
    /// The caps of logits that it has.
    pub softcaps: &'static [&'static str],
    /// Gemma's attention scale; the others divide by the root of the head's size.
    pub query_scale: Option<QueryScale>,
}

/// A model of Hugging Face.
#[derive(Debug)]
pub struct Model {
    /// Its `model_type`.
    pub model_type: &'static str,
    /// Its class, as in `architectures`.
    pub class: &'static str,
}

/// What llama.cpp makes of a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// It has none: every layer sees all tokens, whatever a key says.
    Ignored,
    /// As [`Window::Ignored`], but the config has the gates of Qwen, which are closed.
    Gated,
    /// As [`Window::Ignored`], and its converter writes 0 where there is none.
    Noted,
    /// All layers have it but the last of each group of so many.
    Period(usize),
}

/// Gemma's attention scale, which llama.cpp takes from the number of layers.
#[derive(Debug)]
pub struct QueryScale {
    /// With so many layers it is the root of `hidden_size / num_attention_heads`, else of `head_dim`.
    pub layers_of_the_largest: usize,
}

/// A tensor in both forms, without `.weight` or `.bias`.
#[derive(Debug)]
pub struct Pair {
    gguf: &'static str,
    hf: &'static str,
    change: Change,
    /// Whether it may have a bias too.
    bias: bool,
}

/// What happens to a tensor's numbers on the way from Hugging Face to GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The rows of each head take another order, see [`hf_row`]; a bias' numbers likewise.
    Interleaved(Heads),
    /// One is added to each number.
    PlusOne,
}

/// The key of `config.json` that says how many heads the rows are split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// `num_attention_heads`.
    Queries,
    /// `num_key_value_heads`.
    KeysValues,
}

impl Heads {
    /// The key of `config.json`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Queries => "num_attention_heads",
            Self::KeysValues => "num_key_value_heads",
        }
    }
}

/// A tensor's name in the other form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Translated {
    /// It is a tensor there too.
    Tensor {
        /// Its name there.
        name: String,
        /// The layer that it belongs to.
        layer: Option<usize>,
        /// What happens to its numbers on the way to GGUF, to be undone on the way back.
        change: Change,
    },
    /// It becomes a setting of `config.json`.
    Setting(RopeTensor),
    /// No loader reads it.
    Dropped,
}

/// A tensor of GGUF that is a setting in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeTensor {
    /// What the wave lengths of Llama 3.1 are multiplied by.
    Frequencies,
    /// `LongRoPE`'s factors for long texts.
    LongFactors,
    /// `LongRoPE`'s factors for short texts.
    ShortFactors,
}

/// The names of [`RopeTensor`]s. Old files have them once a layer.
const ROPE_TENSORS: [(&str, RopeTensor); 3] = [
    ("rope_freqs.weight", RopeTensor::Frequencies),
    ("rope_factors_long.weight", RopeTensor::LongFactors),
    ("rope_factors_short.weight", RopeTensor::ShortFactors),
];

impl RopeTensor {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ROPE_TENSORS.iter().find(|(_, tensor)| *tensor == self).map_or("", |(name, _)| name)
    }
}

/// Tensors of old GGUF files that hold what loaders work out themselves.
const DROPPED_FROM_GGUF: [&str; 1] = ["attn_rot_embd.weight"];

/// The ends of such tensors' names in old checkpoints of Hugging Face.
const DROPPED_FROM_HF: [&str; 3] =
    [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];

const fn same(gguf: &'static str, hf: &'static str) -> Pair {
    Pair { gguf, hf, change: Change::None, bias: false }
}

const fn plus_one(gguf: &'static str, hf: &'static str) -> Pair {
    Pair { change: Change::PlusOne, ..same(gguf, hf) }
}

const fn interleaved(gguf: &'static str, hf: &'static str, heads: Heads) -> Pair {
    Pair { change: Change::Interleaved(heads), ..same(gguf, hf) }
}

/// It may have a bias too.
const fn biased(pair: Pair) -> Pair {
    Pair { bias: true, ..pair }
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    models: &[
        Model { model_type: "llama", class: "LlamaForCausalLM" },
        Model { model_type: "mistral", class: "MistralForCausalLM" },
    ],
    globals: &[
        same("token_embd", "model.embed_tokens"),
        same("output_norm", "model.norm"),
        same("output", "lm_head"),
    ],
    layer: &[
        same("attn_norm", "input_layernorm"),
        biased(interleaved("attn_q", "self_attn.q_proj", Heads::Queries)),
        biased(interleaved("attn_k", "self_attn.k_proj", Heads::KeysValues)),
        biased(same("attn_v", "self_attn.v_proj")),
        biased(same("attn_output", "self_attn.o_proj")),
        same("ffn_norm", "post_attention_layernorm"),
        biased(same("ffn_gate", "mlp.gate_proj")),
        biased(same("ffn_up", "mlp.up_proj")),
        biased(same("ffn_down", "mlp.down_proj")),
    ],
    activation: ("hidden_act", "silu"),
    states_head_dim: true,
    states_vocab_size: true,
    default_rope_theta: 10_000.0,
    writes_rope_theta: true,
    rope_types: &["linear", "yarn", "llama3"],
    window: Window::Ignored,
    softcaps: &[],
    query_scale: None,
};

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    models: &[Model { model_type: "qwen2", class: "Qwen2ForCausalLM" }],
    layer: &[
        same("attn_norm", "input_layernorm"),
        biased(same("attn_q", "self_attn.q_proj")),
        biased(same("attn_k", "self_attn.k_proj")),
        biased(same("attn_v", "self_attn.v_proj")),
        same("attn_output", "self_attn.o_proj"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
    ],
    states_head_dim: false,
    states_vocab_size: false,
    rope_types: &["linear", "yarn"],
    window: Window::Gated,
    ..LLAMA
};

const QWEN3: Architecture = Architecture {
    name: "qwen3",
    models: &[Model { model_type: "qwen3", class: "Qwen3ForCausalLM" }],
    layer: &[
        same("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        same("attn_q_norm", "self_attn.q_norm"),
        same("attn_k", "self_attn.k_proj"),
        same("attn_k_norm", "self_attn.k_norm"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_output", "self_attn.o_proj"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
    ],
    states_head_dim: true,
    ..QWEN2
};

/// Its loader always takes the embeddings as the output matrix.
const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    models: &[Model { model_type: "gemma2", class: "Gemma2ForCausalLM" }],
    globals: &[same("token_embd", "model.embed_tokens"), plus_one("output_norm", "model.norm")],
    layer: &[
        plus_one("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        same("attn_k", "self_attn.k_proj"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_output", "self_attn.o_proj"),
        plus_one("post_attention_norm", "post_attention_layernorm"),
        plus_one("ffn_norm", "pre_feedforward_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
        plus_one("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    states_vocab_size: false,
    writes_rope_theta: false,
    rope_types: &[],
    window: Window::Period(2),
    softcaps: &["attn_logit_softcapping", "final_logit_softcapping"],
    query_scale: Some(QueryScale { layers_of_the_largest: 46 }),
    ..LLAMA
};

const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    models: &[Model { model_type: "gemma3_text", class: "Gemma3ForCausalLM" }],
    globals: &[
        same("token_embd", "model.embed_tokens"),
        plus_one("output_norm", "model.norm"),
        same("output", "lm_head"),
    ],
    layer: &[
        plus_one("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        plus_one("attn_q_norm", "self_attn.q_norm"),
        same("attn_k", "self_attn.k_proj"),
        plus_one("attn_k_norm", "self_attn.k_norm"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_output", "self_attn.o_proj"),
        plus_one("post_attention_norm", "post_attention_layernorm"),
        plus_one("ffn_norm", "pre_feedforward_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
        plus_one("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    default_rope_theta: 1_000_000.0,
    writes_rope_theta: true,
    rope_types: &["linear"],
    window: Window::Period(6),
    softcaps: &["final_logit_softcapping"],
    query_scale: Some(QueryScale { layers_of_the_largest: 62 }),
    ..GEMMA2
};

const PHI3: Architecture = Architecture {
    name: "phi3",
    models: &[Model { model_type: "phi3", class: "Phi3ForCausalLM" }],
    layer: &[
        same("attn_norm", "input_layernorm"),
        same("attn_qkv", "self_attn.qkv_proj"),
        same("attn_output", "self_attn.o_proj"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_up", "mlp.gate_up_proj"),
        same("ffn_down", "mlp.down_proj"),
    ],
    states_head_dim: false,
    states_vocab_size: false,
    rope_types: &["longrope"],
    window: Window::Noted,
    ..LLAMA
};

const ARCHITECTURES: &[Architecture] = &[LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3];

impl Architecture {
    /// The architecture that a file's metadata names.
    pub fn of_metadata(metadata: &Metadata) -> Result<&'static Self> {
        let failed = |source| Error::Gguf { path: metadata.path().to_owned(), source };
        let Some(found) = metadata.str(ARCHITECTURE_KEY)? else {
            return Err(failed(GgufError::KeyMissing { key: ARCHITECTURE_KEY.to_owned() }));
        };
        ARCHITECTURES.iter().find(|known| known.name == found).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            failed(GgufError::Architecture { found: found.to_owned(), known: known.join(", ") })
        })
    }

    /// The architecture that a model with this `config.json` is written as.
    #[must_use]
    pub fn of_config(config: &Object) -> Option<&'static Self> {
        let model_type = config.get("model_type")?;
        let model_type = model_type.as_str()?;
        let has = |known: &&Self| known.models.iter().any(|it| it.model_type == model_type);
        ARCHITECTURES.iter().find(has)
    }

    /// The key `suffix` of the architecture, as in `llama.block_count`.
    #[must_use]
    pub fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name)
    }

    /// What the tensor that GGUF calls `name` is to Hugging Face; `None` if it is not known.
    #[must_use]
    pub fn hf_name(&self, name: &str) -> Option<Translated> {
        let (layer, own) = split_layer(name, LAYERS.0).unzip();
        let own = own.unwrap_or(name);
        if let Some((_, tensor)) = ROPE_TENSORS.iter().find(|(known, _)| *known == own) {
            return Some(Translated::Setting(*tensor));
        }
        if layer.is_some() && DROPPED_FROM_GGUF.contains(&own) {
            return Some(Translated::Dropped);
        }
        let (pair, ending) = self.pair(layer.is_some(), own, |pair| pair.gguf)?;
        Some(translated(layer, LAYERS.1, pair.hf, ending, pair.change))
    }

    /// What the tensor that Hugging Face calls `name` is to GGUF; `None` if it is not known.
    #[must_use]
    pub fn gguf_name(&self, name: &str) -> Option<Translated> {
        if is_dropped(name) {
            return Some(Translated::Dropped);
        }
        let (layer, own) = split_layer(name, LAYERS.1).unzip();
        let own = own.unwrap_or(name);
        let (pair, ending) = self.pair(layer.is_some(), own, |pair| pair.hf)?;
        Some(translated(layer, LAYERS.0, pair.gguf, ending, pair.change))
    }

    /// The entry of the table for `name`, and whether it is the weight or the bias.
    fn pair<'a>(
        &self,
        in_layer: bool,
        name: &'a str,
        side: impl Fn(&Pair) -> &'static str,
    ) -> Option<(&'static Pair, &'a str)> {
        let (stem, ending) = name.rsplit_once('.')?;
        let pairs = if in_layer { self.layer } else { self.globals };
        let pair = pairs.iter().find(|pair| side(pair) == stem)?;
        (ending == "weight" || ending == "bias" && pair.bias).then_some((pair, ending))
    }
}

/// The `model_type`s that have an architecture, for a message.
#[must_use]
pub fn known_model_types() -> String {
    let models = ARCHITECTURES.iter().flat_map(|architecture| architecture.models);
    models.map(|model| model.model_type).collect::<Vec<_>>().join(", ")
}

/// Whether no loader reads the tensor that old checkpoints of Hugging Face call `name`.
#[must_use]
pub fn is_dropped(name: &str) -> bool {
    DROPPED_FROM_HF.iter().any(|ending| name.ends_with(ending))
}

fn translated(
    layer: Option<usize>,
    layers: &str,
    stem: &str,
    ending: &str,
    change: Change,
) -> Translated {
    let name = match layer {
        Some(layer) => format!("{layers}.{layer}.{stem}.{ending}"),
        None => format!("{stem}.{ending}"),
    };
    Translated::Tensor { name, layer, change }
}

/// The layer's number and what follows it, in the name of a layer's tensor.
fn split_layer<'a>(name: &'a str, layers: &str) -> Option<(usize, &'a str)> {
    let (number, own) = name.strip_prefix(layers)?.strip_prefix('.')?.split_once('.')?;
    let layer: usize = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, own))
}

/// Whether llama.cpp wants a tensor of this name in f32, whatever type the others have.
///
/// Its loader computes with norms, biases and everything of one dimension in that type only.
#[must_use]
pub fn is_always_f32(gguf_name: &str, num_dims: usize) -> bool {
    num_dims <= 1 || gguf_name.ends_with("_norm.weight")
}

/// Where Hugging Face has the row that is number `gguf_row` in a file of [`Change::Interleaved`].
///
/// RoPE turns pairs of a head's numbers. Hugging Face pairs number i of the head's first half with
/// number i of its second half; llama.cpp's `llama` pairs neighbours, 2i with 2i + 1. So within the
/// `head_dim` rows of each head, GGUF's rows are those of Hugging Face in the order
/// 0, d/2, 1, d/2 + 1, …
#[must_use]
pub fn hf_row(gguf_row: usize, head_dim: usize) -> usize {
    let (head, row) = (gguf_row / head_dim, gguf_row % head_dim);
    head * head_dim + row % 2 * (head_dim / 2) + row / 2
}

/// Where a file of [`Change::Interleaved`] has the row that is number `hf_row` to Hugging Face.
#[must_use]
pub fn gguf_row(hf_row: usize, head_dim: usize) -> usize {
    let (head, row) = (hf_row / head_dim, hf_row % head_dim);
    head * head_dim + row % (head_dim / 2) * 2 + row / (head_dim / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_there_and_back() {
        for head_dim in [2, 4, 6, 128] {
            for row in 0..3 * head_dim {
                assert_eq!(gguf_row(hf_row(row, head_dim), head_dim), row, "{head_dim}");
            }
        }
        let rows: Vec<usize> = (0..8).map(|row| hf_row(row, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7]);
    }

    #[test]
    fn names_that_are_only_like_a_layers_are_unknown() {
        for name in
            ["blk.0.attn_q", "blk.+1.attn_q.weight", "blk.01.attn_q.weight", "blk.attn_q.weight"]
        {
            assert_eq!(LLAMA.hf_name(name), None, "{name}");
        }
        assert_eq!(LLAMA.hf_name("blk.0.attn_norm.bias"), None);
        assert_eq!(GEMMA2.gguf_name("lm_head.weight"), None);
        assert_eq!(LLAMA.hf_name("attn_q.weight"), None);
        assert_eq!(LLAMA.hf_name("blk.0.output.weight"), None);
    }

    #[test]
    fn what_is_no_weight_is_told_apart() {
        let name = "model.layers.3.self_attn.rotary_emb.inv_freq";
        assert_eq!(LLAMA.gguf_name(name), Some(Translated::Dropped));
        assert_eq!(LLAMA.hf_name("blk.3.attn_rot_embd.weight"), Some(Translated::Dropped));
        let freqs = Some(Translated::Setting(RopeTensor::Frequencies));
        assert_eq!(LLAMA.hf_name("rope_freqs.weight"), freqs);
    }
}
