//! Generation: a prompt's tokens to new ones, for one or several sequences at once.

use std::time::{Duration, Instant};

use crate::cache::KvCache;
use crate::card::{CardHistory, Choosing, Flight};
use crate::error::{Error, Result};
use crate::model::{Model, Sequence};
use crate::progress::Watch;
use crate::random::uniform;
use crate::sampling::{self, Sampling};
use crate::stop_strings::{Passed, StopStrings};
use crate::text_stream::TextStream;
use crate::tokenizer::Tokenizer;

/// Sequences that take a step together: up to so many rows, each row's numbers are the same alone and
/// beside others ([`crate::dot`]), and so are the tokens that are drawn.
pub(crate) const TOGETHER: usize = 8;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the draws follow from, with a sequence's number and the step.
    pub seed: u64,
    /// How many new tokens there are at most.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence, and are part of it.
    pub eos: Vec<u32>,
    /// Texts that end a sequence, and are not part of its text.
    pub stop_strings: Vec<String>,
    /// How many sequences there are.
    pub num_sequences: usize,
    /// For how many of the best tokens log-probabilities are wanted at each step.
    pub top_logprobs: Option<usize>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model said so.
    Eos,
    /// It is as long as was asked for.
    Length,
    /// All positions of the model are taken.
    ContextFull,
    /// A stop string came.
    StopString,
}

impl Stop {
    /// The word for it in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length | Self::ContextFull => "length",
            Self::StopString => "stop_string",
        }
    }
}

/// The log-probabilities at a step, by the model alone: no bias, penalty or temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLogprobs {
    /// The token that was chosen.
    pub id: u32,
    /// Its log-probability, in nats.
    pub logprob: f64,
    /// The best tokens and theirs, best first.
    pub top: Vec<(u32, f64)>,
}

/// A sequence that was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The new tokens, an end-of-text token included.
    pub ids: Vec<u32>,
    /// Their text; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// The log-probabilities at each step, if they were asked for.
    pub logprobs: Vec<StepLogprobs>,
}

/// What generation came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The sequences, by their numbers.
    pub sequences: Vec<Generated>,
    /// The time that the prompt took, up to the logits behind it.
    pub prefill: Duration,
    /// The time of all steps behind that.
    pub decode: Duration,
    /// The tokens that went through the model in those steps.
    pub num_decoded: usize,
}

/// A step of a sequence, told as soon as it is known.
#[derive(Debug)]
pub struct Step<'a> {
    /// The sequence's number.
    pub sequence: usize,
    /// The token; `None` for the text that is left at the end.
    pub id: Option<u32>,
    /// What it adds to the text.
    pub text: &'a str,
    /// Its log-probabilities, if they were asked for.
    pub logprobs: Option<&'a StepLogprobs>,
}

/// Generates behind `prompt`; `on_step` hears of each token.
///
/// Errors are those of the tokens (none, not in the vocabulary, more than positions) and of options.
pub fn generate(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    request: &Request,
    on_step: &mut dyn FnMut(Step) -> Result<()>,
    watch: &Watch,
) -> Result<Generation> {
    // All of it at once: what a cache grows to may be more than was planned for.
    let positions = prompt.len().saturating_add(request.max_new_tokens);
    let mut cache = model.cache(positions.min(model.config().max_position_embeddings))?;
    go_on(model, tokenizer, prompt, &mut cache, request, on_step, watch)
}

/// As [`generate`], with a cache that holds some of the prompt's first tokens, not all of them.
///
/// At the end, and after an error, it holds the prompt's and the last sequence's tokens, or the first
/// of them.
pub fn go_on(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    cache: &mut KvCache,
    request: &Request,
    on_step: &mut dyn FnMut(Step) -> Result<()>,
    watch: &Watch,
) -> Result<Generation> {
    request.sampling.check(model.config().vocab_size)?;
    let available = model.config().max_position_embeddings;
    if prompt.len() > available {
        return Err(Error::TooManyTokens { needed: prompt.len(), available });
    }
    let begin = Instant::now();
    let logits = prefill(model, prompt, cache, watch)?;
    let prefill = begin.elapsed();

    let begin = Instant::now();
    let bounds = Bounds { max_new: request.max_new_tokens, room: available - prompt.len() };
    let mut sequences = Vec::new();
    for number in 0..request.num_sequences {
        let is_last = number + 1 == request.num_sequences;
        let cache = (!is_last).then(|| model.fork(cache)).transpose()?;
        sequences.push(Live::new(number, tokenizer, request, cache.map(Held::Own)));
    }
    // The last sequence has the cache itself.
    if let Some(last) = sequences.last_mut() {
        last.cache = Some(Held::Lent(cache));
    }
    for sequence in &mut sequences {
        sequence.step(&logits, prompt, request, bounds, on_step)?;
        if sequence.is_going() && request.top_logprobs.is_none() {
            sequence.history = model.history(&request.sampling, [prompt, &sequence.ids])?;
        }
    }
    let mut num_decoded = 0;
    while sequences.iter().any(Live::is_going) {
        let mut going: Vec<&mut Live> =
            sequences.iter_mut().filter(|live| live.is_going()).collect();
        for going in going.chunks_mut(TOGETHER) {
            watch.check()?;
            // Those who look at the probabilities of other tokens need all logits here.
            let flight = model.flight().filter(|_| request.top_logprobs.is_none());
            num_decoded += if let Some(flight) = flight {
                in_flight(Ask { model, prompt, request, bounds, watch }, flight, going, on_step)?
            } else {
                together(model, going, prompt, request, bounds, on_step)?;
                going.len()
            };
        }
    }
    let decode = begin.elapsed();
    let sequences = sequences.into_iter().map(Live::into_generated).collect();
    Ok(Generation { sequences, prefill, decode, num_decoded })
}

/// The logits behind `prompt`, `vocab_size` of them.
pub fn next_logits(model: &Model, prompt: &[u32], watch: &Watch) -> Result<Vec<f32>> {
    let mut cache = model.cache(prompt.len())?;
    prefill(model, prompt, &mut cache, watch)
}

/// Runs what `cache` lacks of a prompt in pieces, and returns the logits behind it.
fn prefill(model: &Model, prompt: &[u32], cache: &mut KvCache, watch: &Watch) -> Result<Vec<f32>> {
    let mut logits = None;
    let mut at = cache.len();
    while at < prompt.len() {
        watch.check()?;
        let end = (at + model.piece()).min(prompt.len());
        // Only the last piece's logits are wanted.
        if end < prompt.len() {
            model.feed(&prompt[at..end], cache)?;
        } else {
            logits = Some(model.prompt_logits(&prompt[at..end], cache)?);
        }
        at = end;
    }
    model.finite(logits.ok_or(Error::EmptyPrompt)?, |_| prompt.to_vec())
}

/// A step of some sequences that are not at their end.
fn together(
    model: &Model,
    going: &mut [&mut Live],
    prompt: &[u32],
    request: &Request,
    bounds: Bounds,
    on_step: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<()> {
    let mut batch: Vec<Sequence> = going
        .iter_mut()
        .filter_map(|live| {
            let tokens = live.ids.last_chunk::<1>()?;
            Some(Sequence { tokens, cache: live.cache.as_mut()?.get() })
        })
        .collect();
    let logits = model.step(&mut batch)?;
    let logits = model.finite(logits, |row| [prompt, &going[row].ids].concat())?;
    let rows = logits.chunks(model.config().vocab_size);
    for (live, logits) in going.iter_mut().zip(rows) {
        live.step(logits, prompt, request, bounds, on_step)?;
    }
    Ok(())
}

/// What is generated, and how.
#[derive(Clone, Copy)]
struct Ask<'a> {
    model: &'a Model,
    prompt: &'a [u32],
    request: &'a Request,
    bounds: Bounds,
    watch: &'a Watch<'a>,
}

/// Steps of some sequences on a card, each asked for before the tokens of the one before are known here, until one
/// of them ends; says how many tokens that were.
///
/// What a sequence that ends has in its cache is its own tokens, with or without the last one.
fn in_flight(
    ask: Ask,
    mut flight: Flight,
    going: &mut [&mut Live],
    on_step: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<usize> {
    let mut num_taken = 0;
    start(ask, &mut flight, going, 0)?;
    loop {
        ask.watch.check()?;
        // Whose length ends it is known before.
        let goes_on = going.iter().all(|live| ask.bounds.reached(live.ids.len() + 1).is_none());
        if goes_on {
            start(ask, &mut flight, going, 1)?;
        }
        num_taken += take_all(ask, &mut flight, going, on_step)?;
        if !goes_on {
            return Ok(num_taken);
        }
        if !going.iter().all(|live| live.is_going()) {
            return Ok(num_taken + take_all(ask, &mut flight, going, on_step)?);
        }
    }
}

/// Asks for a step of each sequence, behind `num_unknown` tokens that are not known here yet.
fn start(ask: Ask, flight: &mut Flight, going: &mut [&mut Live], num_unknown: usize) -> Result<()> {
    let (mut tokens, mut caches, mut choosing) = (Vec::new(), Vec::new(), Vec::new());
    for live in going {
        let draw = live.draw(ask.request, num_unknown);
        let Live { ids, cache, history, .. } = &mut **live;
        if let (Some(&token), Some(cache)) = (ids.last(), cache) {
            tokens.push(token);
            caches.push(cache.get());
            let (sampling, history) = (&ask.request.sampling, history.as_mut());
            choosing.push(Choosing { sampling, draw, history });
        }
    }
    let tokens = (num_unknown == 0).then_some(&tokens[..]);
    ask.model.start(flight, tokens, &mut caches, &mut choosing)
}

/// Waits for a step, and gives each sequence that goes on its token; says how many these are.
fn take_all(
    ask: Ask,
    flight: &mut Flight,
    going: &mut [&mut Live],
    on_step: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<usize> {
    let chosen = flight.finish()?;
    let mut num_taken = 0;
    for (live, id) in going.iter_mut().zip(chosen).filter(|(live, _)| live.is_going()) {
        let tokens = || [ask.prompt, &live.ids].concat();
        let id = id.ok_or_else(|| ask.model.not_finite(&tokens()))?;
        live.take(id, ask.request, ask.bounds, on_step)?;
        num_taken += 1;
    }
    Ok(num_taken)
}

/// How long a sequence may become, in new tokens.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    max_new: usize,
    room: usize,
}

impl Bounds {
    fn reached(self, num_new: usize) -> Option<Stop> {
        if num_new >= self.max_new {
            Some(Stop::Length)
        } else if num_new >= self.room {
            Some(Stop::ContextFull)
        } else {
            None
        }
    }
}

/// A sequence's cache: a copy, or the caller's.
enum Held<'a> {
    Own(KvCache),
    Lent(&'a mut KvCache),
}

impl Held<'_> {
    fn get(&mut self) -> &mut KvCache {
        match self {
            Self::Own(cache) => cache,
            Self::Lent(cache) => cache,
        }
    }
}

/// A sequence on its way.
struct Live<'a> {
    number: usize,
    cache: Option<Held<'a>>,
    /// What has occurred, where tokens are chosen on a card that must know.
    history: Option<CardHistory>,
    ids: Vec<u32>,
    stream: Option<TextStream<'a>>,
    stop_strings: StopStrings,
    text: String,
    logprobs: Vec<StepLogprobs>,
    stop: Option<Stop>,
}

impl<'a> Live<'a> {
    fn new(
        number: usize,
        tokenizer: Option<&'a Tokenizer>,
        request: &Request,
        cache: Option<Held<'a>>,
    ) -> Self {
        Self {
            number,
            cache,
            history: None,
            ids: Vec::new(),
            stream: tokenizer.map(TextStream::new),
            stop_strings: StopStrings::new(&request.stop_strings),
            text: String::new(),
            logprobs: Vec::new(),
            stop: None,
        }
    }

    fn is_going(&self) -> bool {
        self.stop.is_none()
    }

    /// Chooses the next token by `logits`, and tells of it.
    fn step(
        &mut self,
        logits: &[f32],
        prompt: &[u32],
        request: &Request,
        bounds: Bounds,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        self.stop = bounds.reached(self.ids.len());
        if self.stop.is_some() {
            return Ok(());
        }
        let draw = self.draw(request, 0);
        let id = request.sampling.choose(logits.to_vec(), prompt, &self.ids, draw);
        if let Some(top) = request.top_logprobs {
            let (logprob, top) = sampling::logprobs(logits, id, top);
            self.logprobs.push(StepLogprobs { id, logprob, top });
        }
        self.take(id, request, bounds, on_step)
    }

    /// What decides the next choice, behind `num_unknown` more tokens than are known.
    fn draw(&self, request: &Request, num_unknown: usize) -> f64 {
        uniform(request.seed, self.number as u64, (self.ids.len() + num_unknown) as u64)
    }

    /// Takes the next token, whose log-probabilities are there, and tells of it.
    fn take(
        &mut self,
        id: u32,
        request: &Request,
        bounds: Bounds,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        self.ids.push(id);
        let is_eos = request.eos.contains(&id);
        let mut shown = String::new();
        if let Some(stream) = &mut self.stream {
            match self.stop_strings.push(&stream.push(id)?) {
                Passed::Text(text) => shown = text,
                Passed::Stopped(text) => {
                    shown = text;
                    self.stop = Some(Stop::StopString);
                }
            }
        }
        if is_eos {
            self.stop = self.stop.or(Some(Stop::Eos));
        }
        self.stop = self.stop.or_else(|| bounds.reached(self.ids.len()));
        self.text.push_str(&shown);
        let logprobs = request.top_logprobs.and(self.logprobs.last());
        on_step(Step { sequence: self.number, id: Some(id), text: &shown, logprobs })?;
        if self.stop.is_some() { self.end(on_step) } else { Ok(()) }
    }

    /// Shows what was held back, and lets go of the cache.
    fn end(&mut self, on_step: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        self.cache = None;
        let Some(stream) = self.stream.as_mut().filter(|_| self.stop != Some(Stop::StopString))
        else {
            return Ok(());
        };
        let mut shown = match self.stop_strings.push(&stream.finish()?) {
            Passed::Text(text) => text,
            Passed::Stopped(text) => {
                self.stop = Some(Stop::StopString);
                text
            }
        };
        shown.push_str(&self.stop_strings.finish());
        self.text.push_str(&shown);
        if shown.is_empty() {
            return Ok(());
        }
        on_step(Step { sequence: self.number, id: None, text: &shown, logprobs: None })
    }

    fn into_generated(self) -> Generated {
        Generated {
            ids: self.ids,
            text: self.text,
            stop: self.stop.unwrap_or(Stop::Length),
            logprobs: self.logprobs,
        }
    }
}
