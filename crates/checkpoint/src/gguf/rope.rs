//! How RoPE is stretched for long texts, in a config's words and in a file's.
//!
//! Both are read into [`Rope`] and written from it, and each way refuses what the other has no words
//! for. transformers has two spellings: `rope_theta` and `rope_scaling` of version 4, and
//! `rope_parameters` of version 5, which wins.

use serde_json::Value;

use super::architecture::{Architecture, RopeTensor};
use super::error::GgufError;
use super::keys::Keys;
use super::llama3::{Llama3, shortest};
use super::rope_parameters::Parameters;
use crate::error::Result;
use crate::json::Object;

/// llama.cpp's base where a file states none.
pub(super) const DEFAULT_THETA: f64 = 10_000.0;

/// The default of Phi-3's `original_max_position_embeddings`.
pub(super) const DEFAULT_ORIGINAL: u64 = 4096;

/// The numbers of the tensors that are settings to Hugging Face, where the file has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RopeFactors {
    /// Of `rope_freqs.weight`.
    pub frequencies: Option<Vec<f32>>,
    /// Of `rope_factors_long.weight`.
    pub long: Option<Vec<f32>>,
    /// Of `rope_factors_short.weight`.
    pub short: Option<Vec<f32>>,
}

/// RoPE, in no form in particular.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    /// The base of the wave lengths.
    pub(super) theta: f64,
    /// That of the layers with a window, where these have one of their own.
    pub(super) local_theta: Option<f64>,
    /// How many of a head's numbers are turned.
    pub(super) dimension: u64,
    pub(super) scaling: Scaling,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scaling {
    None,
    Linear { factor: f64 },
    Yarn { factor: f64, original: u64, betas: [Option<f64>; 2], attention: Option<f64> },
    Llama3(Llama3),
    Long { long: Vec<f64>, short: Vec<f64>, original: u64, attention: f64 },
}

/// What heads and texts a model has: all that RoPE depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) head_dim: u64,
    pub(super) max_position_embeddings: u64,
}

/// `LongRoPE`'s factor on the attention, where nothing else is stated.
pub(super) fn long_attention(stretch: f64, original: u64) -> f64 {
    if stretch > 1.0 { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() } else { 1.0 }
}

/// Whether two numbers are the same but for some roundings of single precision.
pub(super) fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs()
}

impl Rope {
    /// RoPE as a file has it.
    pub(super) fn of_metadata(keys: &Keys, extent: Extent, tensors: &RopeFactors) -> Result<Self> {
        let theta = keys.f64("rope.freq_base")?.unwrap_or(DEFAULT_THETA);
        let local = keys.f64("rope.freq_base_swa")?;
        let dimension = keys.u64("rope.dimension_count")?.unwrap_or(extent.head_dim);
        let turns_a_part = keys.architecture.rope_types.contains(&"longrope");
        if dimension > extent.head_dim || (dimension != extent.head_dim && !turns_a_part) {
            return Err(keys.contradiction(format!(
                "`{}` is {dimension}, but a head has {}{}",
                keys.key("rope.dimension_count"),
                extent.head_dim,
                if turns_a_part { "" } else { ", all of which are turned" }
            )));
        }
        let scaling = scaling_of_metadata(keys, extent, theta, dimension, tensors)?;
        let local_theta = keys.architecture.local_rope_theta.map(|theta| local.unwrap_or(theta));
        Ok(Self { theta, local_theta, dimension, scaling })
    }

    /// RoPE as a config has it.
    pub(super) fn of_config(
        config: &Object,
        architecture: &Architecture,
        extent: Extent,
    ) -> Result<Self, GgufError> {
        let stated = |key: &str| config.get(key).filter(|value| !value.is_null());
        let (new, old) = (stated("rope_parameters"), stated("rope_scaling"));
        if let (Some(new), Some(Value::Object(old))) = (&new, &old)
            && old.iter().any(|(key, value)| new.get(key) != Some(value))
        {
            let what = "`rope_parameters` and `rope_scaling` are both stated and differ";
            return Err(GgufError::NotTranslated { what: what.to_owned() });
        }
        let name = if new.is_some() { "rope_parameters" } else { "rope_scaling" };
        let mut parameters = Parameters::new(
            name,
            new.or(old).unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        )?;
        let mut local_theta = None;
        if let Some(default) = architecture.local_rope_theta {
            let older = config.get("rope_local_base_freq").and_then(|value| value.as_f64());
            local_theta = older.or(Some(default));
            if let Some((full, sliding)) = parameters.split()? {
                if sliding.rope_type()?.is_some_and(|it| it != "default") {
                    return Err(sliding.refused("rope_type", "has no place in a GGUF file"));
                }
                local_theta = sliding.f64("rope_theta")?.or(local_theta);
                parameters = full;
            }
        }
        let theta = parameters.f64("rope_theta")?;
        let theta = theta.or(config.get("rope_theta").and_then(|value| value.as_f64()));
        let partial = parameters.f64("partial_rotary_factor")?;
        let partial = partial.or(config.get("partial_rotary_factor").and_then(|it| it.as_f64()));
        let partial = partial.unwrap_or(1.0);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(GgufError::NotTranslated {
                what: format!("`partial_rotary_factor` is {partial}, which is no part of a head"),
            });
        }
        #[expect(clippy::cast_sign_loss, reason = "it is above 0")]
        let dimension = (extent.head_dim as f64 * partial) as u64; // as Python's int() rounds
        let stated = stated("original_max_position_embeddings").and_then(|value| value.as_u64());
        Ok(Self {
            theta: theta.unwrap_or(architecture.default_rope_theta),
            local_theta,
            dimension,
            scaling: parameters.scaling(architecture, extent, dimension, stated)?,
        })
    }

    /// The tensors that a file has for it.
    pub(super) fn tensors(&self) -> Vec<(RopeTensor, Vec<f32>)> {
        let single = |numbers: &[f64]| numbers.iter().map(|&number| number as f32).collect();
        match &self.scaling {
            Scaling::Llama3(numbers) => {
                let factors = numbers.factors(self.theta, self.dimension as usize);
                vec![(RopeTensor::Frequencies, factors)]
            }
            Scaling::Long { long, short, .. } => vec![
                (RopeTensor::LongFactors, single(long)),
                (RopeTensor::ShortFactors, single(short)),
            ],
            _ => Vec::new(),
        }
    }
}

fn scaling_of_metadata(
    keys: &Keys,
    extent: Extent,
    theta: f64,
    dimension: u64,
    tensors: &RopeFactors,
) -> Result<Scaling> {
    let kind = keys.str("rope.scaling.type")?.unwrap_or("linear");
    // The later key wins over the older one, as in the loader.
    let (factor, older) = (keys.f64("rope.scaling.factor")?, keys.f64("rope.scale_linear")?);
    let factor = factor.or(older).filter(|&factor| factor != 0.0).unwrap_or(1.0);
    let original = keys.u64("rope.scaling.original_context_length")?;
    let original = original.unwrap_or(extent.max_position_embeddings);
    let attention = keys.f64("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let betas =
        [keys.f64("rope.scaling.yarn_beta_fast")?, keys.f64("rope.scaling.yarn_beta_slow")?];
    let yarn_attention = keys.f64("rope.scaling.yarn_attn_factor")?;

    let pairs = dimension as usize / 2;
    for (tensor, numbers) in [
        (RopeTensor::Frequencies, &tensors.frequencies),
        (RopeTensor::LongFactors, &tensors.long),
        (RopeTensor::ShortFactors, &tensors.short),
    ] {
        if let Some(found) = numbers.as_ref().map(Vec::len).filter(|&found| found != pairs) {
            let what =
                format!("`{}` has {found} numbers, but a head has {pairs} pairs", tensor.name());
            return Err(keys.contradiction(what));
        }
    }
    if let (Some(long), Some(short)) = (&tensors.long, &tensors.short) {
        let [long, short] =
            [long, short].map(|numbers| numbers.iter().map(|&number| shortest(number)).collect());
        return Ok(Scaling::Long { long, short, original, attention });
    }
    if tensors.long.is_some() || tensors.short.is_some() || kind == "longrope" {
        let lacking =
            if tensors.long.is_none() { RopeTensor::LongFactors } else { RopeTensor::ShortFactors };
        let what =
            format!("RoPE is stretched by factors, of which `{}` is missing", lacking.name());
        return Err(keys.contradiction(what));
    }
    if !is_near(attention, 1.0) {
        return Err(keys.not_translated(format!(
            "`{}` is {attention} without `LongRoPE`, for which config.json has no place",
            keys.key("rope.scaling.attn_factor")
        )));
    }
    let scaling = match kind {
        "none" => Scaling::None,
        "linear" if is_near(factor, 1.0) => Scaling::None,
        "linear" => Scaling::Linear { factor },
        "yarn" => Scaling::Yarn { factor, original, betas, attention: yarn_attention },
        other => {
            let expected = "none, linear, yarn or longrope";
            return Err(keys.metadata.wrong(&keys.key("rope.scaling.type"), expected, other));
        }
    };
    match &tensors.frequencies {
        Some(factors) if factors.iter().any(|&factor| !is_near(factor.into(), 1.0)) => {
            let name = RopeTensor::Frequencies.name();
            if scaling != Scaling::None {
                let what = format!(
                    "RoPE is stretched twice: by `{name}` and by `{}`",
                    keys.key("rope.scaling.type")
                );
                return Err(keys.not_translated(what));
            }
            let curve = Llama3::of_factors(factors, theta, dimension as usize);
            curve.map(Scaling::Llama3).ok_or_else(|| {
                keys.not_translated(format!(
                    "`{name}` is no curve of Llama 3.1's, the only one that config.json has words for"
                ))
            })
        }
        _ => Ok(scaling),
    }
}
