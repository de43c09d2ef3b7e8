//! Prompts that share their beginnings, as the turns of a chat do: only what is new of each is run.

use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::generate::{self, Generation, Request, Step};
use crate::model::Model;
use crate::progress::Watch;
use crate::tokenizer::Tokenizer;

/// A model with the tokens that it has seen last.
#[derive(Debug)]
pub struct Session<'a> {
    model: &'a Model,
    cache: KvCache,
    /// The tokens that the cache holds, and those behind them that were chosen and not run.
    seen: Vec<u32>,
    num_reused: usize,
}

impl<'a> Session<'a> {
    /// A session that has seen nothing, with room for `positions`; more are made room for.
    pub fn new(model: &'a Model, positions: usize) -> Result<Self> {
        // What grows is copied, on a GPU with kernels of our own as a whole, which may not fit beside itself.
        let positions = if model.has_card() { positions } else { 1 };
        Ok(Self { model, cache: model.cache(positions)?, seen: Vec::new(), num_reused: 0 })
    }

    /// How many of the last prompt's tokens were not run again.
    #[must_use]
    pub fn num_reused(&self) -> usize {
        self.num_reused
    }

    /// As [`generate::generate`], for one sequence; the tokens that `prompt` has in common with
    /// what was seen last are not run again. What a call that was stopped has seen is kept.
    pub fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        request: &Request,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
        watch: &Watch,
    ) -> Result<Generation> {
        // The last token is always run: its logits are asked for.
        let last = prompt.len().checked_sub(1).ok_or(Error::EmptyPrompt)?;
        let pairs = self.seen.iter().zip(prompt);
        let common = pairs.take_while(|(seen, prompt)| seen == prompt).count();
        self.num_reused = common.min(last).min(self.cache.len());
        self.cache.truncate(self.num_reused);
        self.seen = prompt.to_vec();
        let seen = &mut self.seen;
        let mut on_step = |step: Step| {
            seen.extend(step.id);
            on_step(step)
        };
        let request = Request { num_sequences: 1, ..request.clone() };
        let cache = &mut self.cache;
        generate::go_on(self.model, Some(tokenizer), prompt, cache, &request, &mut on_step, watch)
    }
}
