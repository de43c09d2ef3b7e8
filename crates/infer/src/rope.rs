//! Rotary position embedding: the angles by which queries and keys are turned.
//!
//! Pair `i` of a head is `(x[i], x[i + head_dim / 2])` and turns by `position × inverse_frequency[i]`
//! (Su et al. 2021, section 3.4, in Hugging Face's order of dimensions). Everything is in f32, step by
//! step as transformers has it: at position 4,000 a last bit more or less shows.

use std::f32::consts::TAU;

use checkpoint::json::Object;

use crate::error::Result;
use crate::keys::Keys;

/// A config's rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// How the frequencies are changed for contexts longer than the first training's.
    pub scaling: Scaling,
}

/// How frequencies are changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    Default,
    /// All divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1's: low ones divided by a factor, high ones kept, those between interpolated.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths longer than the original context divided by this are low.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context divided by this are high.
        high_freq_factor: f64,
        /// The context of the first training, in tokens.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al. 2023, section 3).
    Yarn {
        /// The factor.
        factor: f64,
        /// Turns in the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns in the original context below which it is divided.
        beta_slow: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// The context of the first training, in tokens.
        original_max_position_embeddings: usize,
        /// Whether the ends of the ramp are rounded to whole dimensions.
        truncate: bool,
    },
}

/// The cosines and sines of some positions, (positions, `head_dim / 2`) each.
#[derive(Debug, Clone, PartialEq)]
pub struct Angles {
    /// The cosines, row by row.
    pub cos: Vec<f32>,
    /// The sines, row by row.
    pub sin: Vec<f32>,
}

impl Rope {
    /// Reads the keys of a config whose `max_position_embeddings` is given.
    pub(crate) fn read(config: &Keys, max_position_embeddings: usize) -> Result<Self> {
        // transformers: `rope_scaling` if it says anything, else `rope_parameters`; what stands in
        // there wins over keys outside of it.
        let says_something = |object: &Object| object.keys().next().is_some();
        let scaling = object_under(config, "rope_scaling")?.filter(says_something);
        let inside = if let Some(object) = scaling {
            ("rope_scaling.", object)
        } else {
            let parameters = object_under(config, "rope_parameters")?;
            ("rope_parameters.", parameters.unwrap_or_default())
        };
        let keys = Keys { prefix: inside.0, object: &inside.1, ..*config };
        for key in inside.1.keys() {
            if keys.value(key).is_some_and(|value| value.is_object()) {
                // Frequencies that differ between kinds of layers.
                return Err(keys.unsupported(key));
            }
        }
        for keys in [&keys, config] {
            if keys
                .number("partial_rotary_factor")?
                .is_some_and(|factor| factor.total_cmp(&1.0).is_ne())
            {
                return Err(keys.unsupported("partial_rotary_factor"));
            }
        }
        let theta = keys.positive("rope_theta")?;
        let theta = theta.or(config.positive("rope_theta")?).unwrap_or(10_000.0);
        Ok(Self { theta, scaling: Scaling::read(&keys, config, max_position_embeddings)? })
    }

    /// The inverse frequencies of a head, `head_dim / 2` of them, in radians a position.
    #[must_use]
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let power = |i: usize| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            self.theta.powf(f64::from(exponent)) as f32
        };
        let pairs = 0..head_dim / 2;
        match self.scaling {
            Scaling::Default => pairs.map(|i| 1.0 / power(i)).collect(),
            Scaling::Linear { factor } => pairs.map(|i| 1.0 / power(i) / factor as f32).collect(),
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let context = original_max_position_embeddings as f32;
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                let scaled = |frequency: f32| {
                    let wavelength = TAU / frequency;
                    if wavelength < context / high {
                        frequency
                    } else if wavelength > context / low {
                        frequency / factor as f32
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                    }
                };
                pairs.map(|i| scaled(1.0 / power(i))).collect()
            }
            Scaling::Yarn { factor, .. } => {
                let (low, high) = self.yarn_ramp(head_dim);
                let scaled = |i: usize| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let keep = 1.0 - ramp;
                    let divided = 1.0 / (factor as f32 * power(i));
                    divided * (1.0 - keep) + 1.0 / power(i) * keep
                };
                pairs.map(scaled).collect()
            }
        }
    }

    /// Between which dimensions YaRN's frequencies go over from kept to divided.
    fn yarn_ramp(&self, head_dim: usize) -> (f64, f64) {
        let Scaling::Yarn {
            beta_fast, beta_slow, original_max_position_embeddings, truncate, ..
        } = self.scaling
        else {
            return (0.0, 0.0);
        };
        let dimension = |turns: f64| {
            let context = original_max_position_embeddings as f64;
            head_dim as f64 * (context / (turns * std::f64::consts::TAU)).ln()
                / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        // No ramp at all would divide by zero.
        (low, if low.total_cmp(&high).is_eq() { high + 0.001 } else { high })
    }

    /// What cosines and sines are multiplied by.
    #[must_use]
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// The cosines and sines of `positions`, from [`Rope::inverse_frequencies`].
    #[must_use]
    pub fn angles(
        &self,
        inverse_frequencies: &[f32],
        positions: impl Iterator<Item = usize>,
    ) -> Angles {
        let mut angles = Angles { cos: Vec::new(), sin: Vec::new() };
        let factor = self.attention_factor();
        for position in positions {
            for &frequency in inverse_frequencies {
                let angle = f64::from(position as f32 * frequency);
                angles.cos.push(angle.cos() as f32 * factor);
                angles.sin.push(angle.sin() as f32 * factor);
            }
        }
        angles
    }
}

impl Scaling {
    fn read(keys: &Keys, config: &Keys, max_position_embeddings: usize) -> Result<Self> {
        let (key, name) = match (keys.text("rope_type")?, keys.text("type")?) {
            (Some(name), _) => ("rope_type", name),
            (None, Some(name)) => ("type", name),
            (None, None) => {
                // transformers warns, and leaves the frequencies as they are: a model that was trained
                // with others would read long prompts wrongly.
                let is_of_all = |key: &str| ["rope_theta", "partial_rotary_factor"].contains(&key);
                let says = |key: &&str| !is_of_all(key) && keys.value(key).is_some();
                return match keys.object.keys().find(says) {
                    None => Ok(Self::Default),
                    Some(_) => Err(keys.wrong(
                        "rope_type",
                        "a name, as settings stand beside it: such as \"linear\", or \"default\" for no scaling",
                    )),
                };
            }
        };
        let factor = || match keys.positive("factor")? {
            Some(factor) => Ok(factor),
            None => Err(keys.wrong("factor", "a number above 0")),
        };
        let original = || -> Result<usize> {
            const KEY: &str = "original_max_position_embeddings";
            let original = config.count(KEY)?.or(keys.count(KEY)?);
            Ok(original.unwrap_or(max_position_embeddings))
        };
        let required = |key| keys.positive(key)?.ok_or_else(|| keys.wrong(key, "a number above 0"));
        match name.as_str() {
            "default" => Ok(Self::Default),
            "linear" => Ok(Self::Linear { factor: factor()? }),
            "llama3" => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if low >= high {
                    return Err(keys.wrong("high_freq_factor", "more than `low_freq_factor`"));
                }
                Ok(Self::Llama3 {
                    factor: factor()?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original()?,
                })
            }
            "yarn" => {
                let original = original()?;
                let factor = match keys.positive("factor")? {
                    Some(factor) => factor,
                    None if keys.object.contains("factor") => {
                        max_position_embeddings as f64 / original as f64
                    }
                    None => return Err(keys.wrong("factor", "a number above 0")),
                };
                Ok(Self::Yarn {
                    factor,
                    beta_fast: non_zero(keys, "beta_fast")?.unwrap_or(32.0),
                    beta_slow: non_zero(keys, "beta_slow")?.unwrap_or(1.0),
                    attention_factor: yarn_attention_factor(keys, factor)?,
                    original_max_position_embeddings: original,
                    truncate: keys.boolean("truncate")?.unwrap_or(true),
                })
            }
            // One that is not known would be a model that reads long prompts wrongly.
            _ => Err(keys.unsupported(key)),
        }
    }
}

/// `attention_factor`, or what YaRN makes of the factor and the two `mscale` keys.
fn yarn_attention_factor(keys: &Keys, factor: f64) -> Result<f64> {
    if let Some(given) = keys.positive("attention_factor")? {
        return Ok(given);
    }
    let of = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    Ok(match (non_zero(keys, "mscale")?, non_zero(keys, "mscale_all_dim")?) {
        (Some(mscale), Some(all_dim)) => of(mscale) / of(all_dim),
        _ => of(1.0),
    })
}

/// A number, where 0 stands for its absence.
fn non_zero(keys: &Keys, key: &str) -> Result<Option<f64>> {
    Ok(keys.number(key)?.filter(|&number| number != 0.0))
}

fn object_under(config: &Keys, key: &'static str) -> Result<Option<Object>> {
    if config.value(key).is_none() {
        return Ok(None);
    }
    let object = config.object.object(key);
    object.map(Some).ok_or_else(|| config.wrong(key, "an object"))
}
