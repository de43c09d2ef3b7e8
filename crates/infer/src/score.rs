//! How well a model predicts a text.

use rayon::prelude::*;

use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::{Unit, Watch};
use crate::sampling::log_sum_exp;
use crate::windows::{Rule, Window};

/// Rows of logits that are held at once.
const ROWS: usize = 64;

/// A text to be scored.
#[derive(Debug, Clone)]
pub struct Text {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Where each token ends in the text, in bytes; `None` where only ids are known.
    pub ends: Option<Vec<usize>>,
    /// The token that the model's texts begin with, if there is one.
    pub bos: Option<u32>,
}

/// What a text scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The number of tokens that were predicted.
    pub num_tokens: usize,
    /// The sum of their log-probabilities, in nats.
    pub sum_logprob: f64,
    /// The bytes of the text that they are, where those are known.
    pub num_bytes: Option<usize>,
    /// The standard error of [`Score::nats_per_token`], with the tokens taken as independent.
    pub standard_error: f64,
    /// The number of windows that the text was cut into.
    pub num_windows: usize,
    /// Whether BOS opens the windows after the first.
    pub windows_open_with_bos: bool,
}

impl Score {
    /// The mean negative log-probability of a token.
    #[must_use]
    pub fn nats_per_token(&self) -> f64 {
        -self.sum_logprob / self.num_tokens as f64
    }

    /// `e` to the power of [`Score::nats_per_token`].
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }

    /// Bits for each byte of the text that was predicted, which does not depend on the tokenizer.
    #[must_use]
    pub fn bits_per_byte(&self) -> Option<f64> {
        let bytes = self.num_bytes.filter(|&bytes| bytes > 0)?;
        Some(-self.sum_logprob / std::f64::consts::LN_2 / bytes as f64)
    }
}

/// Scores `text`, cut by `rule`; the error is that of a token that the model does not have, or of a text
/// too short to be cut so.
pub fn score(model: &Model, text: &Text, rule: Rule, watch: &Watch) -> Result<Score> {
    // All of them before the first window: a token is read where it is predicted, too.
    let vocab_size = model.config().vocab_size;
    if let Some(&id) = text.ids.iter().chain(&text.bos).find(|&&id| id as usize >= vocab_size) {
        return Err(Error::NoSuchToken { id, vocab_size });
    }
    let windows = rule.cut(text.ids.len(), text.bos.is_some())?;
    let total: usize = windows.iter().map(|window| window.tokens.len()).sum();
    watch.begin("scoring", total as u64, Unit::Tokens);
    let longest = windows.iter().map(|window| window.tokens.len() + 1).max().unwrap_or(1);
    let mut cache = model.cache(longest)?;
    let mut logprobs = Vec::new();
    let mut num_bytes = text.ends.as_ref().map(|_| 0);
    for window in &windows {
        cache.truncate(0);
        logprobs.extend(predict(model, text, window, &mut cache, watch)?);
        if let (Some(num_bytes), Some(ends)) = (&mut num_bytes, &text.ends) {
            let predicted = &window.predicted;
            *num_bytes += ends[predicted.end - 1] - ends[predicted.start - 1];
        }
    }
    let n = logprobs.len() as f64;
    let sum_logprob: f64 = logprobs.iter().sum();
    let mean = sum_logprob / n;
    let squares: f64 = logprobs.iter().map(|x| (x - mean) * (x - mean)).sum();
    Ok(Score {
        num_tokens: logprobs.len(),
        sum_logprob,
        num_bytes,
        standard_error: if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 },
        num_windows: windows.len(),
        windows_open_with_bos: windows.iter().any(|window| window.bos_before || window.bos_instead),
    })
}

/// The log-probabilities of the tokens that a window predicts.
fn predict(
    model: &Model,
    text: &Text,
    window: &Window,
    cache: &mut KvCache,
    watch: &Watch,
) -> Result<Vec<f64>> {
    let mut tokens = text.ids[window.tokens.clone()].to_vec();
    match text.bos {
        Some(bos) if window.bos_before => tokens.insert(0, bos),
        Some(bos) if window.bos_instead => tokens[0] = bos,
        _ => {}
    }
    let shift = usize::from(window.bos_before);
    let first = window.predicted.start - window.tokens.start + shift;
    let mut logprobs = Vec::with_capacity(tokens.len() - first);
    for begin in (0..tokens.len()).step_by(model.piece()) {
        watch.check()?;
        let end = tokens.len().min(begin + model.piece());
        let hidden = model.forward(&tokens[begin..end], cache)?;
        // The hidden state at `i` predicts token `i + 1`.
        let rows = begin.max(first - 1)..end.min(tokens.len() - 1);
        for row in rows.clone().step_by(ROWS) {
            let num_rows = ROWS.min(rows.end - row);
            let hidden = hidden.narrow(0, row - begin, num_rows)?;
            let logits = model.finite_logits(&hidden, |_| tokens.clone())?;
            let vocab_size = logits.len() / num_rows;
            let of = |(logits, &next): (&[f32], &u32)| {
                f64::from(logits[next as usize]) - log_sum_exp(logits)
            };
            let next = &tokens[row + 1..=row + num_rows];
            logprobs.par_extend(logits.par_chunks(vocab_size).zip(next).map(of));
        }
        watch.done((end - begin) as u64);
    }
    Ok(logprobs)
}
