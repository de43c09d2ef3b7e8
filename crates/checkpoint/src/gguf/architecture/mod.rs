//! What llama.cpp calls tensors and settings, architecture by architecture: the one table of names.
//!
//! An entry pairs GGUF's name of a tensor with Hugging Face's, and says what a translation must do
//! to the numbers: llama.cpp keeps the rows of Llama's queries and keys in another order, and adds
//! one to Gemma's norms. The settings that no key states, because llama.cpp's loader has them built
//! in, stand here too. Facts are those of llama.cpp's loader and its converter.

mod rows;
mod table;

pub use self::rows::{gguf_row, hf_row};
use self::table::ARCHITECTURES;
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
    /// What a missing base for the layers with a window means, where these have one of their own.
    pub local_rope_theta: Option<f64>,
    /// Whether the base of RoPE is written although it is llama.cpp's default.
    pub writes_rope_theta: bool,
    /// The ways of stretching RoPE that llama.cpp's loader has for it, by transformers' names.
    pub rope_types: &'static [&'static str],
    /// What it makes of a sliding window.
    pub window: Window,
    /// The caps of logits that it has, by the key in both forms, and what it takes where none is
    /// stated in a file.
    pub softcaps: &'static [(&'static str, Option<f64>)],
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
    /// The biases that it can have; every layer has all of a group, or none does.
    pub biases: &'static [Biases],
}

/// Biases that come together.
#[derive(Debug)]
pub struct Biases {
    /// The key of `config.json` that promises them; `None`: they are always there.
    pub key: Option<&'static str>,
    /// The modules that have one.
    pub modules: &'static [&'static str],
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
    /// All layers have it but the last of each group.
    Period {
        /// The layers of a group.
        layers: u64,
        /// The window where the metadata have none; `None`: then no layer has one.
        default: Option<u64>,
    },
}

/// Gemma's attention scale, which llama.cpp takes from the number of layers.
#[derive(Debug)]
pub struct QueryScale {
    /// With so many layers it is the root of `hidden_size / num_attention_heads`, else of `head_dim`.
    pub layers_of_the_largest: u64,
}

impl QueryScale {
    /// `query_pre_attn_scalar`, by whose root llama.cpp divides.
    #[must_use]
    pub fn scalar(&self, layers: u64, hidden_size: u64, num_heads: u64, head_dim: u64) -> u64 {
        if layers == self.layers_of_the_largest { hidden_size / num_heads } else { head_dim }
    }
}

/// A tensor in both forms, without `.weight` or `.bias`.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    gguf: &'static str,
    hf: &'static str,
    change: Change,
    /// Whether it may have a bias too.
    bias: bool,
}

impl Pair {
    /// Whether it is the output matrix, which models may share with the embeddings.
    pub(super) fn is_output(&self) -> bool {
        self.hf == "lm_head"
    }
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

    /// The tensors outside the layers that llama.cpp's loader asks for.
    pub(super) fn required_globals(&self) -> impl Iterator<Item = String> {
        let required = self.globals.iter().filter(|pair| !pair.is_output());
        required.map(|pair| format!("{}.weight", pair.gguf))
    }

    /// The tensors of a layer that llama.cpp's loader asks for.
    pub(super) fn required_in_layer(&self, layer: u64) -> impl Iterator<Item = String> {
        let (blocks, pairs) = (LAYERS.0, self.layer);
        pairs.iter().map(move |pair| format!("{blocks}.{layer}.{}.weight", pair.gguf))
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

#[cfg(test)]
mod tests {
    use super::table::{GEMMA2, LLAMA};
    use super::*;

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
