//! The choice of tokens where their logits are, and steps that begin with what was chosen there.

use std::sync::{MutexGuard, PoisonError};

use kernels::decode::Cache;
use kernels::sample::{History, Row, Sampler, Settings};

use super::super::Choosing;
use super::{Card, CardCache};
use crate::error::Result;
use crate::sampling::Sampling;

/// What has occurred in a sequence.
#[derive(Debug)]
pub(crate) struct CardHistory(History);

impl Card {
    /// Whether tokens can be chosen here.
    pub(crate) fn can_choose(&self) -> bool {
        self.sampler.is_some()
    }

    /// Steps that choose their tokens, if they can be chosen here and all of the model is; others wait meanwhile.
    pub(crate) fn flight(&self) -> Option<Flight<'_>> {
        let sampler = self.sampler.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Flight { card: self, sampler, num_waiting: 0 })
    }

    /// What has occurred in the sequence of the tokens `prompt` and `new`, and matters for choices.
    pub(crate) fn history(
        &self,
        sampling: &Sampling,
        tokens: [&[u32]; 2],
    ) -> Result<Option<CardHistory>> {
        let Sampling { logit_bias, suppress_tokens, .. } = sampling;
        let matters = settings(sampling).needs_history()
            || !logit_bias.is_empty()
            || !suppress_tokens.is_empty();
        if !matters {
            return Ok(None);
        }
        let decoder = self.decoder();
        let vocab_size = decoder.shape().vocab_size;
        let history = History::new(decoder.gpu(), vocab_size, tokens, logit_bias, suppress_tokens)?;
        Ok(Some(CardHistory(history)))
    }
}

/// Steps that are asked for before the tokens of the one before are known here.
pub(crate) struct Flight<'a> {
    card: &'a Card,
    sampler: MutexGuard<'a, Sampler>,
    /// Steps that were asked for and not waited for.
    num_waiting: usize,
}

impl Flight<'_> {
    /// Has the card run a token of each of up to [`MAX_BATCH`] sequences and choose those behind them: of `tokens`,
    /// or of those that were chosen last, for the same sequences.
    pub(crate) fn start(
        &mut self,
        tokens: Option<&[u32]>,
        caches: &mut [&mut CardCache],
        choosing: &mut [Choosing],
    ) -> Result<()> {
        let mut decoder = self.card.decoder();
        for cache in caches.iter_mut() {
            cache.reserve_for_step()?;
        }
        let mut held: Vec<&mut Cache> = caches.iter_mut().map(|cache| &mut cache.cache).collect();
        match tokens {
            Some(tokens) => {
                let batch = tokens.iter().copied().zip(held);
                decoder.step(&mut batch.collect::<Vec<_>>())?;
            }
            None => decoder.step_with(self.sampler.tokens(), &mut held)?,
        }
        for cache in caches.iter_mut() {
            cache.stepped();
        }
        let mut rows: Vec<Row> = choosing
            .iter_mut()
            .map(|Choosing { sampling, draw, history }| Row {
                settings: settings(sampling),
                draw: *draw,
                history: history.as_mut().map(|history| &mut history.0),
            })
            .collect();
        self.sampler.start(decoder.logits_on_card(), &mut rows, false)?;
        self.num_waiting += 1;
        Ok(())
    }

    /// Waits for the first of the steps that were asked for, and gives what was chosen there; `None` where the logits
    /// were not finite.
    pub(crate) fn finish(&mut self) -> Result<Vec<Option<u32>>> {
        self.num_waiting -= 1;
        let choices = self.sampler.finish()?;
        Ok(choices.into_iter().map(|it| it.is_finite.then_some(it.token)).collect())
    }
}

impl Drop for Flight<'_> {
    /// Who comes next finds nothing waiting.
    fn drop(&mut self) {
        while self.num_waiting > 0 {
            let _ = self.finish();
        }
    }
}

/// `sampling` without the tokens that it names.
fn settings(sampling: &Sampling) -> Settings {
    Settings {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        typical_p: sampling.typical_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
    }
}
