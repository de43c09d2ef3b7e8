//! Two models side by side on the same tokens: how far their logits and hidden states are apart.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::{Unit, Watch};
use crate::sampling::{best, log_sum_exp};

/// Tokens that run at once.
const PIECE: usize = 256;

/// Rows of logits that are held at once.
const ROWS: usize = 64;

/// How far a model is from a reference.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// The positions whose logits were compared.
    pub num_positions: usize,
    /// The largest difference of two logits.
    pub max_abs: f64,
    /// The mean of KL(reference ‖ model), in nats; `None` where not all logits are known.
    pub mean_kl: Option<f64>,
    /// The positions where both have the same best token.
    pub num_agreed: usize,
    /// Where they have not, how far the reference's two best logits are apart, at most.
    pub widest_disagreement: Option<f64>,
    /// For each layer the mean cosine between the hidden states behind it; `None` where the models
    /// differ in depth or width.
    pub layer_cosines: Option<Vec<f64>>,
}

impl Comparison {
    /// The share of positions where both have the same best token.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        self.num_agreed as f64 / self.num_positions.max(1) as f64
    }

    fn add(&mut self, position: &Position) {
        self.num_positions += 1;
        self.max_abs = self.max_abs.max(position.max_abs);
        self.mean_kl = self.mean_kl.map(|sum| sum + position.kl);
        match position.margin_of_disagreement {
            None => self.num_agreed += 1,
            Some(margin) => {
                self.widest_disagreement =
                    Some(self.widest_disagreement.map_or(margin, |widest| widest.max(margin)));
            }
        }
    }
}

/// Compares `model` with `reference` at every position of each of `samples`, sequences of tokens.
///
/// Errors are those of models with different vocabularies, and of a sample without tokens or no sample.
pub fn compare(
    model: &Model,
    reference: &Model,
    samples: &[Vec<u32>],
    watch: &Watch,
) -> Result<Comparison> {
    let (one, other) = (model.config(), reference.config());
    if one.vocab_size != other.vocab_size {
        return Err(Error::Incomparable {
            what: "tokens",
            model: one.vocab_size,
            other: other.vocab_size,
        });
    }
    if samples.is_empty() || samples.iter().any(Vec::is_empty) {
        return Err(Error::NothingToCompare { what: "a sequence of tokens" });
    }
    let has_same_layers =
        one.num_hidden_layers == other.num_hidden_layers && one.hidden_size == other.hidden_size;
    let total: usize = samples.iter().map(Vec::len).sum();
    watch.begin("comparing", total as u64, Unit::Tokens);
    let mut comparison = Comparison { mean_kl: Some(0.0), ..Comparison::default() };
    let mut cosines = has_same_layers.then(|| vec![0.0; one.num_hidden_layers]);
    for tokens in samples {
        let mut caches = (model.cache(tokens.len())?, reference.cache(tokens.len())?);
        for piece in tokens.chunks(PIECE) {
            watch.check()?;
            let (mut x, mut y) = (model.embed(piece)?, reference.embed(piece)?);
            if let Some(cosines) = &mut cosines {
                for (layer, cosine) in cosines.iter_mut().enumerate() {
                    x = model.forward_layers(layer..layer + 1, x, &mut caches.0)?;
                    y = reference.forward_layers(layer..layer + 1, y, &mut caches.1)?;
                    *cosine += sum_of_cosines(&x, &y)?;
                }
            } else {
                x = model.forward_layers(0..one.num_hidden_layers, x, &mut caches.0)?;
                y = reference.forward_layers(0..other.num_hidden_layers, y, &mut caches.1)?;
            }
            for first in (0..piece.len()).step_by(ROWS) {
                let n = ROWS.min(piece.len() - first);
                let logits = |model: &Model, hidden: &Tensor| {
                    model.finite_logits(&hidden.narrow(0, first, n)?, |_| tokens.clone())
                };
                let (x, y) = (logits(model, &x)?, logits(reference, &y)?);
                let rows = x.par_chunks(one.vocab_size).zip(y.par_chunks(one.vocab_size));
                let positions: Vec<Position> = rows.map(|(x, y)| Position::new(x, y)).collect();
                for position in &positions {
                    comparison.add(position);
                }
            }
            watch.done(piece.len() as u64);
        }
    }
    let n = comparison.num_positions.max(1) as f64;
    comparison.mean_kl = comparison.mean_kl.map(|sum| sum / n);
    comparison.layer_cosines =
        cosines.map(|cosines| cosines.into_iter().map(|sum| sum / n).collect());
    Ok(comparison)
}

/// The logits that are known of a reference behind some tokens: its best ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Tokens that may follow and their logits, best first; at least one.
    pub top: Vec<(u32, f64)>,
}

/// Compares `model` with what is `known` of a reference.
///
/// The error is that of no tokens, or of one that the model does not have.
pub fn compare_known(model: &Model, known: &[Known], watch: &Watch) -> Result<Comparison> {
    if known.is_empty() {
        return Err(Error::NothingToCompare { what: "what is known of the reference" });
    }
    let mut comparison = Comparison::default();
    for Known { ids, top } in known {
        let logits = crate::generate::next_logits(model, ids, watch)?;
        let vocab_size = logits.len();
        if let Some(&(id, _)) = top.iter().find(|&&(id, _)| id as usize >= vocab_size) {
            return Err(Error::NoSuchToken { id, vocab_size });
        }
        let difference = |&(id, logit): &(u32, f64)| (f64::from(logits[id as usize]) - logit).abs();
        let second = top.get(1).map_or(f64::INFINITY, |&(_, logit)| top[0].1 - logit);
        comparison.add(&Position {
            max_abs: top.iter().map(difference).fold(0.0, f64::max),
            kl: 0.0,
            margin_of_disagreement: (best(&logits) != top[0].0).then_some(second),
        });
    }
    Ok(comparison)
}

/// The logits of one position, compared.
struct Position {
    max_abs: f64,
    kl: f64,
    /// How far the reference's two best are apart, where the best is not the model's.
    margin_of_disagreement: Option<f64>,
}

impl Position {
    fn new(model: &[f32], reference: &[f32]) -> Self {
        let pairs = || model.iter().zip(reference).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        let (of_model, of_reference) = (log_sum_exp(model), log_sum_exp(reference));
        let kl = pairs().map(|(x, y)| {
            let (q, p) = (x - of_model, y - of_reference);
            p.exp() * (p - q)
        });
        let first = best(reference) as usize;
        let margin = || {
            let rest = reference.iter().enumerate().filter(|&(id, _)| id != first);
            let second = rest.map(|(_, &logit)| logit).fold(f32::NEG_INFINITY, f32::max);
            f64::from(reference[first] - second)
        };
        Self {
            max_abs: pairs().map(|(x, y)| (x - y).abs()).fold(0.0, f64::max),
            // Rounding may take it below zero.
            kl: kl.sum::<f64>().max(0.0),
            margin_of_disagreement: (best(model) as usize != first).then(margin),
        }
    }
}

/// The cosines between the rows of two tensors of one shape, summed.
fn sum_of_cosines(x: &Tensor, y: &Tensor) -> Result<f64> {
    let numbers = |x: &Tensor| -> Result<Vec<Vec<f32>>> {
        Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2()?)
    };
    let cosine = |(x, y): (Vec<f32>, Vec<f32>)| {
        let dot = |x: &[f32], y: &[f32]| -> f64 {
            x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
        };
        dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt()
    };
    Ok(numbers(x)?.into_iter().zip(numbers(y)?).map(cosine).sum())
}
