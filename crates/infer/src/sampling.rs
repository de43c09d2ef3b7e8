//! The choice of the next token, in transformers' order: bias, penalties, suppressed tokens, temperature,
//! top-k, top-p, min-p, typical.
//!
//! Each warper works on what the one before it left, with probabilities computed anew, as
//! transformers' `LogitsWarper`s do; tokens that tie with the last that is kept are kept too.

use std::collections::HashSet;

use crate::error::{Error, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the best token, whatever else is set.
    pub temperature: f64,
    /// How many of the best tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The best tokens are kept until their probabilities sum to this; 1 keeps all.
    pub top_p: f64,
    /// Tokens less probable than this, times the best one's probability, are left out; 0 keeps all.
    pub min_p: f64,
    /// Tokens whose information is nearest to the entropy are kept until their probabilities sum to
    /// this (Meister et al. 2022); 1 keeps all.
    pub typical_p: f64,
    /// What positive logits of tokens that have occurred, in the prompt too, are divided by and
    /// negative ones multiplied (Keskar et al. 2019); 1 does nothing.
    pub repetition_penalty: f64,
    /// What is taken from the logits of tokens that have been generated.
    pub presence_penalty: f64,
    /// The same, times how often.
    pub frequency_penalty: f64,
    /// What is added to logits, by token.
    pub logit_bias: Vec<(u32, f64)>,
    /// Tokens that are never chosen; those that the model does not have change nothing.
    pub suppress_tokens: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            suppress_tokens: Vec::new(),
        }
    }
}

/// A token that is still in the running, with its logit.
type Candidate = (u32, f32);

impl Sampling {
    /// Refuses values that mean nothing; `vocab_size` bounds the tokens of the bias.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let bounds = |option, value: f64, is_good: bool, expected| {
            if is_good {
                return Ok(());
            }
            Err(Error::OptionValue { option, found: value.to_string(), expected })
        };
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let (t, p) = (self.temperature, self.repetition_penalty);
        bounds("--temperature", t, t >= 0.0 && t.is_finite(), "0 or more")?;
        bounds("--top-p", self.top_p, share(self.top_p), "from 0 to 1")?;
        bounds("--min-p", self.min_p, share(self.min_p), "from 0 to 1")?;
        let typical = self.typical_p > 0.0 && self.typical_p <= 1.0;
        bounds("--typical-p", self.typical_p, typical, "above 0 and up to 1")?;
        // Logits are f32: what is not finite there has no order any more.
        let is_finite = |x: f64| (x as f32).is_finite();
        bounds("--repetition-penalty", p, p as f32 > 0.0 && is_finite(p), "above 0")?;
        let biases = self.logit_bias.iter().map(|&(_, bias)| ("--logit-bias", bias));
        let penalties = [
            ("--presence-penalty", self.presence_penalty),
            ("--frequency-penalty", self.frequency_penalty),
        ];
        for (option, value) in penalties.into_iter().chain(biases) {
            bounds(option, value, is_finite(value), "a finite number of 32 bits")?;
        }
        let suppressed: HashSet<u32> = self.suppress_tokens.iter().copied().collect();
        if suppressed.iter().filter(|&&id| (id as usize) < vocab_size).count() == vocab_size {
            let (option, found) = ("suppress_tokens", "all tokens".to_owned());
            return Err(Error::OptionValue { option, found, expected: "some of them" });
        }
        match self.logit_bias.iter().find(|(id, _)| *id as usize >= vocab_size) {
            Some(&(id, _)) => Err(Error::NoSuchToken { id, vocab_size }),
            None => Ok(()),
        }
    }

    /// Chooses among `logits` behind the tokens `prompt` and `new`; `draw`, from 0 to 1, decides.
    #[must_use]
    pub fn choose(&self, mut logits: Vec<f32>, prompt: &[u32], new: &[u32], draw: f64) -> u32 {
        if self.temperature == 0.0 {
            self.process(&mut logits, prompt, new);
            return best(&logits);
        }
        let left = self.distribution(logits, prompt, new);
        let mut sum = 0.0;
        for &(id, probability) in &left {
            sum += probability;
            if draw < sum {
                return id;
            }
        }
        // The sum fell short of 1 by rounding.
        left.last().map_or(0, |&(id, _)| id)
    }

    /// The tokens that may be drawn and their probabilities, best first; for a temperature above 0.
    #[must_use]
    pub fn distribution(
        &self,
        mut logits: Vec<f32>,
        prompt: &[u32],
        new: &[u32],
    ) -> Vec<(u32, f64)> {
        self.process(&mut logits, prompt, new);
        let left = self.warp(&logits);
        let probabilities = softmax(&left);
        left.into_iter().map(|(id, _)| id).zip(probabilities).collect()
    }

    /// Bias, penalties and suppressed tokens, which greedy choices heed too.
    fn process(&self, logits: &mut [f32], prompt: &[u32], new: &[u32]) {
        for &(id, bias) in &self.logit_bias {
            logits[id as usize] += bias as f32;
        }
        if self.repetition_penalty.total_cmp(&1.0).is_ne() {
            let penalty = self.repetition_penalty as f32;
            let mut seen: Vec<u32> = prompt.iter().chain(new).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                let logit = &mut logits[id as usize];
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            let mut sorted = new.to_vec();
            sorted.sort_unstable();
            for run in sorted.chunk_by(|a, b| a == b) {
                let penalty = self.presence_penalty + self.frequency_penalty * run.len() as f64;
                logits[run[0] as usize] -= penalty as f32;
            }
        }
        for logit in &mut *logits {
            *logit = logit.clamp(f32::MIN, f32::MAX);
        }
        for &id in &self.suppress_tokens {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// The tokens that are left, best first, with their logits.
    fn warp(&self, logits: &[f32]) -> Vec<Candidate> {
        // From the best down: at a temperature near 0 all others are out of reach, and none overflows.
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let scaled =
            logits.iter().map(|&logit| ((f64::from(logit) - max) / self.temperature) as f32);
        let mut left: Vec<Candidate> = (0..).zip(scaled).collect();
        left.retain(|&(_, logit)| logit > f32::NEG_INFINITY);
        if self.top_k > 0 && self.top_k < left.len() {
            let (_, kth, _) = left.select_nth_unstable_by(self.top_k - 1, better);
            let lowest = kth.1;
            left.retain(|&(_, logit)| logit >= lowest);
        }
        left.sort_unstable_by(better);
        if self.top_p < 1.0 {
            top_p(&mut left, self.top_p);
        }
        if self.min_p > 0.0 {
            // p / p_best is e to the difference of the logits.
            let lowest = f64::from(left[0].1) + self.min_p.ln();
            left.retain(|&(_, logit)| f64::from(logit) >= lowest);
        }
        if self.typical_p < 1.0 {
            typical(&mut left, self.typical_p);
        }
        left
    }
}

/// The token with the largest logit; the first of several.
#[must_use]
pub fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The `n` best tokens and their logits, best first.
#[must_use]
pub fn top(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<Candidate> = (0..).zip(logits.iter().copied()).collect();
    if n < all.len() {
        all.select_nth_unstable_by(n, better);
        all.truncate(n);
    }
    all.sort_unstable_by(better);
    all
}

/// The log-probabilities of the token `id` and of the `n` best tokens, by `logits` as they are.
#[must_use]
pub fn logprobs(logits: &[f32], id: u32, n: usize) -> (f64, Vec<(u32, f64)>) {
    let log_sum = log_sum_exp(logits);
    let of = |logit: f32| f64::from(logit) - log_sum;
    let top = top(logits, n).into_iter().map(|(id, logit)| (id, of(logit)));
    (of(logits[id as usize]), top.collect())
}

/// The logarithm of the sum of the exponentials of `logits`.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Larger logits first; of equal ones, smaller ids.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "sorting hands over references")]
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn softmax(left: &[Candidate]) -> Vec<f64> {
    let max = left.iter().map(|&(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f64> =
        left.iter().map(|&(_, logit)| f64::from(logit - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= sum;
    }
    weights
}

/// Leaves out the worst tokens whose probabilities sum to at most `1 − top_p`; one is kept.
fn top_p(left: &mut Vec<Candidate>, top_p: f64) {
    let mut sum = 0.0;
    let weights = softmax(left);
    let left_out = weights.iter().rev().take_while(|&&weight| {
        sum += weight;
        sum <= 1.0 - top_p
    });
    let kept = left.len() - left_out.count();
    left.truncate(kept.max(1));
}

/// Keeps the tokens whose information is nearest to the entropy, up to a mass of `typical_p`.
fn typical(left: &mut Vec<Candidate>, typical_p: f64) {
    let weights = softmax(left);
    let information = |weight: f64| if weight > 0.0 { -weight.ln() } else { f64::INFINITY };
    let entropy: f64 = weights.iter().filter(|&&w| w > 0.0).map(|&w| w * information(w)).sum();
    let distance = |weight: f64| (information(weight) - entropy).abs();
    let mut order: Vec<usize> = (0..left.len()).collect();
    order.sort_by(|&a, &b| distance(weights[a]).total_cmp(&distance(weights[b])));
    let mut sum = 0.0;
    let last = order.iter().take_while(|&&i| {
        sum += weights[i];
        sum < typical_p
    });
    let last = order[last.count().min(order.len() - 1)];
    let farthest = distance(weights[last]);
    let mut i = 0;
    left.retain(|_| {
        i += 1;
        distance(weights[i - 1]) <= farthest
    });
}
