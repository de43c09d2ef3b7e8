//! A GGUF file's metadata from `config.json`: the keys that llama.cpp's converter writes.
//!
//! What llama.cpp's loader computes otherwise than the config says is refused by the key; so is what
//! has no key. The tokenizer's keys are another module's.

use super::architecture::{Architecture, RopeTensor, Window};
use super::error::GgufError;
use super::ggml_type::GgmlType;
use super::metadata::Metadata;
use super::reader::{Reader, refuse_kinds};
use super::rope::{DEFAULT_ORIGINAL, DEFAULT_THETA, Extent, Rope, Scaling};
use crate::json::Object;

type Result<T> = std::result::Result<T, GgufError>;

/// The most layers that llama.cpp has room for.
pub const MAX_LAYERS: u64 = 512;

/// The version of the layout of quantised blocks.
pub const QUANTIZATION_VERSION: u32 = 2;

/// What a file needs beyond the metadata that were written.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Tensors of one dimension and type F32 that stand for settings.
    pub tensors: Vec<(RopeTensor, Vec<f32>)>,
    /// What a user should hear, a sentence each.
    pub notes: Vec<String>,
}

/// Writes what `config` says into `metadata`, for a file of `architecture` called `name`.
///
/// `weights` is the type of its matrices: F32, F16, BF16 or `Q8_0`.
pub fn to_metadata(
    config: &Object,
    architecture: &Architecture,
    name: &str,
    weights: GgmlType,
    metadata: &mut Metadata,
) -> Result<Parameters> {
    let reader = Reader { config, architecture };
    reader.refuse_other_arithmetic()?;
    let num_layers = reader.positive("num_hidden_layers")?;
    let hidden_size = reader.positive("hidden_size")?;
    let num_heads = reader.positive("num_attention_heads")?;
    let num_key_value_heads = match reader.u64("num_key_value_heads")? {
        Some(count) => count,
        None if reader.defaults_to_all_heads() => num_heads,
        None => reader.positive("num_key_value_heads")?,
    };
    if num_layers > MAX_LAYERS {
        let why = format!("is more than the {MAX_LAYERS} that llama.cpp has room for");
        return Err(reader.refused("num_hidden_layers", &why));
    }
    let head_dim = reader.head_dim(hidden_size, num_heads)?;
    let extent =
        Extent { head_dim, max_position_embeddings: reader.positive("max_position_embeddings")? };
    let rope = Rope::of_config(config, architecture, extent)?;
    let epsilon = reader.f64("rms_norm_eps")?.ok_or_else(|| reader.missing("rms_norm_eps"))?;
    let mut notes = Vec::new();

    let mut keys = Writer { architecture, metadata };
    keys.metadata.set("general.architecture", architecture.name);
    keys.metadata.set("general.type", "model");
    keys.metadata.set("general.name", name);
    keys.u32("block_count", num_layers)?;
    keys.u32("context_length", extent.max_position_embeddings)?;
    keys.u32("embedding_length", hidden_size)?;
    keys.u32("feed_forward_length", reader.positive("intermediate_size")?)?;
    keys.u32("attention.head_count", num_heads)?;
    keys.u32("attention.head_count_kv", num_key_value_heads)?;
    keys.f32("attention.layer_norm_rms_epsilon", epsilon);
    if architecture.states_head_dim {
        keys.u32("attention.key_length", head_dim)?;
        keys.u32("attention.value_length", head_dim)?;
    }
    write_rope(&mut keys, &reader, &rope, extent)?;
    write_window(&mut keys, &reader, num_layers, extent, &mut notes)?;
    for (cap, default) in architecture.softcaps {
        match reader.f64(cap)? {
            Some(number) if number != 0.0 => keys.f32(cap, number),
            _ if default.is_none() => {}
            _ => return Err(reader.refused(cap, "is not off in llama.cpp")),
        }
    }
    if let Some(scale) = &architecture.query_scale {
        let expected = scale.scalar(num_layers, hidden_size, num_heads, head_dim);
        let stated = reader.f64("query_pre_attn_scalar")?.unwrap_or(DEFAULT_QUERY_SCALAR);
        if (stated - expected as f64).abs() > 0.0 {
            let why = format!("llama.cpp takes to be {expected} with {num_layers} layers");
            return Err(reader.refused("query_pre_attn_scalar", &why));
        }
    }
    if architecture.states_vocab_size {
        keys.u32("vocab_size", reader.positive("vocab_size")?)?;
        keys.u32("rope.dimension_count", rope.dimension)?;
    }
    let file_type = file_type(weights).ok_or_else(|| GgufError::NotTranslated {
        what: format!("{weights} is no type that a folder is written as a GGUF file with"),
    })?;
    keys.metadata.set("general.file_type", &file_type);
    keys.metadata.set("general.quantization_version", &QUANTIZATION_VERSION);
    Ok(Parameters { tensors: rope.tensors(), notes })
}

/// Gemma's `query_pre_attn_scalar` where none is stated.
const DEFAULT_QUERY_SCALAR: f64 = 256.0;

/// llama.cpp's number for files whose matrices are of this type.
#[must_use]
pub fn file_type(weights: GgmlType) -> Option<u32> {
    match weights {
        GgmlType::F32 => Some(0),
        GgmlType::F16 => Some(1),
        GgmlType::Q8_0 => Some(7),
        GgmlType::BF16 => Some(32),
        _ => None,
    }
}

/// Writes an architecture's keys in the types that the converter gives them.
struct Writer<'a> {
    architecture: &'a Architecture,
    metadata: &'a mut Metadata,
}

impl Writer<'_> {
    fn u32(&mut self, suffix: &str, value: u64) -> Result<()> {
        let key = self.architecture.key(suffix);
        let Ok(value) = u32::try_from(value) else {
            let what = format!("{value} does not fit into `{key}`, which has 32 bits");
            return Err(GgufError::NotTranslated { what });
        };
        self.metadata.set(&key, &value);
        Ok(())
    }

    fn f32(&mut self, suffix: &str, value: f64) {
        self.metadata.set(&self.architecture.key(suffix), &(value as f32));
    }

    fn str(&mut self, suffix: &str, value: &str) {
        self.metadata.set(&self.architecture.key(suffix), value);
    }
}

fn write_rope(keys: &mut Writer, reader: &Reader, rope: &Rope, extent: Extent) -> Result<()> {
    let architecture = reader.architecture;
    let takes_long = architecture.rope_types.contains(&"longrope");
    if architecture.writes_rope_theta || (rope.theta - DEFAULT_THETA).abs() > 0.0 {
        keys.f32("rope.freq_base", rope.theta);
    }
    if let Some(theta) = rope.local_theta {
        keys.f32("rope.freq_base_swa", theta);
    }
    if rope.dimension != extent.head_dim && !takes_long {
        let why = format!("llama.cpp's `{}` takes to be 1", architecture.name);
        return Err(reader.refused("partial_rotary_factor", &why));
    }
    if takes_long {
        let original = match rope.scaling {
            Scaling::Long { original, .. } => original,
            _ => reader.u64("original_max_position_embeddings")?.unwrap_or(DEFAULT_ORIGINAL),
        };
        keys.u32("rope.scaling.original_context_length", original)?;
        keys.u32("rope.dimension_count", rope.dimension)?;
    }
    match &rope.scaling {
        // Llama 3.1's curve is a tensor, and no key.
        Scaling::None | Scaling::Llama3(_) => {}
        Scaling::Linear { factor } => {
            keys.str("rope.scaling.type", "linear");
            keys.f32("rope.scaling.factor", *factor);
        }
        Scaling::Yarn { factor, original, betas: [fast, slow], .. } => {
            keys.str("rope.scaling.type", "yarn");
            keys.f32("rope.scaling.factor", *factor);
            keys.u32("rope.scaling.original_context_length", *original)?;
            for (suffix, number) in
                [("rope.scaling.yarn_beta_fast", fast), ("rope.scaling.yarn_beta_slow", slow)]
            {
                if let Some(number) = number {
                    keys.f32(suffix, *number);
                }
            }
        }
        Scaling::Long { attention, .. } => keys.f32("rope.scaling.attn_factor", *attention),
    }
    Ok(())
}

fn write_window(
    keys: &mut Writer,
    reader: &Reader,
    num_layers: u64,
    extent: Extent,
    notes: &mut Vec<String>,
) -> Result<()> {
    let window = reader.u64("sliding_window")?.filter(|&window| window > 0);
    let kinds = reader.layer_types(num_layers)?;
    match reader.architecture.window {
        Window::Ignored => {
            // Llama's own loader knows of no window; Mistral's does.
            let window = window.filter(|_| reader.model_type() == Some("mistral"));
            refuse_kinds(kinds.as_deref(), |_| window.is_some())?;
            let Some(window) = window else { return Ok(()) };
            keys.u32("attention.sliding_window", window)?;
            if window < extent.max_position_embeddings {
                notes.push(format!(
                    "`sliding_window` is {window}, which llama.cpp does not apply: texts longer \
                     than that come out otherwise"
                ));
            }
        }
        Window::Gated => {
            refuse_kinds(kinds.as_deref(), |_| false)?;
            let opens = reader.bool("use_sliding_window")?.unwrap_or(false);
            let first = reader.u64("max_window_layers")?.unwrap_or(28);
            if kinds.is_none() && opens && window.is_some() && first < num_layers {
                return Err(reader.refused("use_sliding_window", "llama.cpp does not have"));
            }
        }
        Window::Noted => {
            refuse_kinds(kinds.as_deref(), |_| window.is_some())?;
            keys.u32("attention.sliding_window", window.unwrap_or(0))?;
            if window.is_some_and(|window| window < extent.max_position_embeddings) {
                notes.push(
                    "`sliding_window` is written, but llama.cpp does not apply it to this \
                     architecture"
                        .to_owned(),
                );
            }
        }
        Window::Period { layers, default } => {
            let sees_all = kinds.as_ref().is_some_and(|kinds| kinds.iter().all(|&it| !it));
            if sees_all && default.is_none() {
                return Ok(());
            }
            if sees_all || window.is_none() {
                let key = if window.is_none() { "sliding_window" } else { "layer_types" };
                return Err(reader.refused(key, "has no place in a GGUF file of this architecture"));
            }
            for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
                let stated = reader.u64(key)?;
                if kinds.is_none() && stated.is_some_and(|stated| stated != layers) {
                    return Err(reader.refused(key, &format!("llama.cpp takes to be {layers}")));
                }
            }
            refuse_kinds(kinds.as_deref(), |layer| layer % layers < layers - 1)?;
            keys.u32("attention.sliding_window", window.unwrap_or(0))?;
        }
    }
    Ok(())
}
