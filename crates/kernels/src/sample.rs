//! The choice of the next tokens where the logits are, on the card (`kernels/sample.cu`).
//!
//! It is that of `infer`'s `sampling`, which has transformers' order: biases, repetition penalty, presence
//! and frequency penalties, suppressed tokens, temperature, top-k, top-p, min-p, typical. All settings
//! run on the card, for any logits that are finite, up to the vocabulary that [`Sampler::new`] takes. From
//! the same number between 0 and 1 follows the same token, unless that number, or a bound of top-p or
//! typical, is within some 10⁻⁹ of where one token ends and the next begins: sums are not made in the same
//! order, nor are exponentials the same to the last bit. Typical compares distances from the entropy in
//! 32 bits. Tokens that are less probable than the best one
//! by e⁻³³ are never drawn. Greedy choices are the same always.
//!
//! What is not here: log-probabilities of other tokens than the one that is chosen.

use std::mem::offset_of;
use std::sync::Arc;

use crate::decode::{Cache, Decoder, MAX_BATCH, RawSequence};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Kernel, Launch, Module, Plain, View};
use crate::upload::{Event, Pinned};

static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sample.fatbin"));

/// As in `kernels/sample.cu`.
const THREADS: u32 = 1024;
const BLOCKS: usize = 8;
const IN_PROMPT: u32 = 1 << 31;
const SUPPRESSED: u32 = 1 << 30;

/// Choices that may be asked for before the first is waited for.
const MAX_WAITING: usize = 4;

/// How a token is chosen: the fields of `infer`'s `Sampling`, with the same meanings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What logits are divided by; 0 takes the best token.
    pub temperature: f64,
    /// How many of the best tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The best tokens are kept until their probabilities sum to this; 1 keeps all.
    pub top_p: f64,
    /// Tokens less probable than this, times the best one's probability, are left out; 0 keeps all.
    pub min_p: f64,
    /// Tokens whose information is nearest to the entropy are kept up to this mass; 1 keeps all.
    pub typical_p: f64,
    /// What positive logits of tokens that have occurred are divided by, and negative ones multiplied.
    pub repetition_penalty: f64,
    /// What is taken from the logits of tokens that have been generated.
    pub presence_penalty: f64,
    /// The same, times how often.
    pub frequency_penalty: f64,
}

impl Default for Settings {
    /// The best token.
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
        }
    }
}

impl Settings {
    /// Whether what has occurred matters, so that a [`History`] is needed.
    #[must_use]
    pub fn needs_history(&self) -> bool {
        let repeats = (self.repetition_penalty as f32).total_cmp(&1.0).is_ne();
        repeats || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// What has occurred in a sequence, what is added to its logits, and what it never has: on the card, where
/// tokens are counted as they are chosen.
#[derive(Debug)]
pub struct History {
    vocab_size: usize,
    /// A number a token, as in `kernels/sample.cu`.
    marks: Buffer,
    biases: Option<Buffer>,
    num_biases: usize,
}

/// `Bias` of `kernels/sample.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawBias {
    id: u32,
    bias: f32,
}

#[expect(unsafe_code, reason = "structs go to the card as bytes")]
// SAFETY: two numbers, without padding.
unsafe impl Plain for RawBias {}

impl History {
    /// The history of a sequence of the tokens `prompt` and, generated behind them, `new`.
    ///
    /// `logit_bias` is added by token, and tokens `suppressed` are never chosen; those that are not in
    /// the vocabulary change nothing. Not all may be suppressed.
    pub fn new(
        gpu: &Arc<Gpu>,
        vocab_size: usize,
        [prompt, new]: [&[u32]; 2],
        logit_bias: &[(u32, f64)],
        suppressed: &[u32],
    ) -> Result<Self> {
        let marks = marks(vocab_size, [prompt, new], suppressed);
        let mut biases: Vec<RawBias> = logit_bias
            .iter()
            .filter(|(id, _)| (*id as usize) < vocab_size)
            .map(|&(id, bias)| RawBias { id, bias: bias as f32 })
            .collect();
        // Equal ones stay in their order, in which they are added.
        biases.sort_by_key(|bias| bias.id);
        Ok(Self {
            vocab_size,
            marks: gpu.upload(&marks)?,
            biases: (!biases.is_empty()).then(|| gpu.upload(&biases)).transpose()?,
            num_biases: biases.len(),
        })
    }
}

fn marks(vocab_size: usize, [prompt, new]: [&[u32]; 2], suppressed: &[u32]) -> Vec<u32> {
    let mut marks = vec![0; vocab_size];
    for (ids, bit) in [(prompt, IN_PROMPT), (suppressed, SUPPRESSED)] {
        for &id in ids {
            if let Some(mark) = marks.get_mut(id as usize) {
                *mark |= bit;
            }
        }
    }
    for &id in new {
        if let Some(mark) = marks.get_mut(id as usize) {
            *mark += 1;
        }
    }
    assert!(marks.iter().any(|mark| mark & SUPPRESSED == 0), "all tokens are suppressed");
    marks
}

/// A row of logits, and what is to be chosen there.
#[derive(Debug)]
pub struct Row<'a> {
    /// How.
    pub settings: Settings,
    /// From 0 (included) to 1: it decides.
    pub draw: f64,
    /// The sequence's; what is chosen is counted there. `None`: nothing has occurred, and tokens are as
    /// they are.
    pub history: Option<&'a mut History>,
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The token; 0 where the row is not finite, and nothing is counted then.
    pub token: u32,
    /// Whether all logits of the row were finite.
    pub is_finite: bool,
    /// The token's log-probability, in nats, by the logits as they were, if it was asked for.
    pub logprob: Option<f64>,
}

/// `Row` of `kernels/sample.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawRow {
    marks: u64,
    biases: u64,
    temperature: f64,
    draw: f64,
    top_p: f64,
    typical_p: f64,
    presence: f64,
    frequency: f64,
    top_k: u32,
    lowest: u32,
    num_biases: u32,
    repetition: f32,
}

/// `Choice` of `kernels/sample.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawChoice {
    token: u32,
    is_finite: u32,
    logprob: f64,
}

/// `SampleParams` of `kernels/sample.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Params {
    logits: u64,
    choices: u64,
    tokens: u64,
    vocab: i32,
    slice: i32,
    unit: f64,
    has_logprob: i32,
    unused: i32,
    rows: [RawRow; MAX_BATCH],
}

// The kernel's own layout: `kernels/sample.cu` asserts the same.
const _: () = assert!(size_of::<RawRow>() == 80 && size_of::<RawChoice>() == 16);
const _: () = assert!(offset_of!(Params, rows) == 48 && size_of::<Params>() == 688);

impl RawRow {
    fn of(row: &Row<'_>, vocab_size: usize) -> Self {
        let Row { settings, draw, ref history } = *row;
        let Settings { temperature, top_p, typical_p, repetition_penalty, .. } = settings;
        assert!(temperature >= 0.0 && temperature.is_finite(), "a temperature of {temperature}");
        assert!((0.0..1.0).contains(&draw), "a draw of {draw}");
        assert!(repetition_penalty as f32 > 0.0, "a repetition penalty of {repetition_penalty}");
        assert!(typical_p > 0.0, "a typical_p of {typical_p}");
        assert!(history.is_some() || !settings.needs_history(), "penalties need a history");
        let history = history.as_deref();
        let vocab = history.map_or(vocab_size, |history| history.vocab_size);
        assert_eq!(vocab, vocab_size, "a history of another vocabulary");
        Self {
            marks: history.map_or(0, |history| history.marks.address()),
            biases: history.and_then(|it| it.biases.as_ref()).map_or(0, Buffer::address),
            temperature,
            draw,
            top_p,
            typical_p,
            presence: settings.presence_penalty,
            frequency: settings.frequency_penalty,
            top_k: settings.top_k.min(vocab_size) as u32,
            lowest: lowest(settings.min_p),
            num_biases: history.map_or(0, |history| history.num_biases) as u32,
            repetition: repetition_penalty as f32,
        }
    }
}

/// The bits of the lowest number of 32 bits that is at least ln(`min_p`): in the order of numbers from 0
/// down, as bits of the sign and the number are, the last that is kept.
fn lowest(min_p: f64) -> u32 {
    if min_p <= 0.0 {
        return u32::MAX;
    }
    let exact = min_p.ln();
    let near = exact as f32;
    let lowest = if f64::from(near) < exact { near.next_up() } else { near };
    // 0 of either sign.
    if lowest >= 0.0 { (-0.0_f32).to_bits() } else { lowest.to_bits() }
}

/// Chooses tokens on a card.
#[derive(Debug)]
pub struct Sampler {
    gpu: Arc<Gpu>,
    module: Module,
    kernel: Kernel,
    vocab_size: usize,
    /// The tokens that were chosen last.
    tokens: Buffer,
    /// Where the card writes choices, (`MAX_WAITING`, `MAX_BATCH`), and when it is done.
    choices: Pinned,
    done: [Event; MAX_WAITING],
    /// Choices that were asked for, and those that were waited for.
    asked: usize,
    given: usize,
    /// Of those in between: rows, and whether log-probabilities were asked for.
    sizes: [(usize, bool); MAX_WAITING],
}

impl Sampler {
    /// For rows of `vocab_size` logits; [`Error::LargeVocabulary`] where they do not fit, which on an H100
    /// is above 370,000.
    pub fn new(gpu: &Arc<Gpu>, vocab_size: usize) -> Result<Self> {
        assert!(vocab_size > 0, "there are no tokens");
        let module = gpu.module(FATBIN)?;
        let kernel = module.kernel("sample")?;
        let most = module.allow_shared(kernel)? / 4 * BLOCKS;
        if vocab_size > most {
            return Err(Error::LargeVocabulary { vocab_size, most });
        }
        let choices = Pinned::new(gpu, MAX_WAITING * MAX_BATCH * size_of::<RawChoice>())?;
        let mut done = Vec::new();
        for _ in 0..MAX_WAITING {
            done.push(Event::prompt(gpu)?);
        }
        Ok(Self {
            tokens: gpu.zeros(MAX_BATCH * 4)?,
            choices,
            done: done.try_into().expect("as many as there are"),
            gpu: Arc::clone(gpu),
            module,
            kernel,
            vocab_size,
            asked: 0,
            given: 0,
            sizes: [(0, false); MAX_WAITING],
        })
    }

    /// Chooses the next token of each of one to eight rows of `logits`, (rows, `vocab_size`), and waits for
    /// it.
    pub fn choose(
        &mut self,
        logits: View<'_>,
        rows: &mut [Row<'_>],
        has_logprob: bool,
    ) -> Result<Vec<Choice>> {
        assert_eq!(self.asked, self.given, "choices are waiting");
        self.start(logits, rows, has_logprob)?;
        self.finish()
    }

    /// As [`Sampler::choose`], and does not wait: [`Sampler::finish`] does. Up to four may be asked for
    /// before the first is waited for.
    pub fn start(
        &mut self,
        logits: View<'_>,
        rows: &mut [Row<'_>],
        has_logprob: bool,
    ) -> Result<()> {
        assert!((1..=MAX_BATCH).contains(&rows.len()), "{} rows", rows.len());
        assert!(self.asked - self.given < MAX_WAITING, "too many choices are waiting");
        let place = self.asked % MAX_WAITING;
        let unused = RawRow::of(
            &Row { settings: Settings::default(), draw: 0.0, history: None },
            self.vocab_size,
        );
        let mut params = Params {
            logits: logits.of_bytes(rows.len() * self.vocab_size * 4),
            choices: self.place(place) as u64,
            tokens: self.tokens.address(),
            vocab: self.vocab_size as i32,
            slice: self.vocab_size.div_ceil(BLOCKS) as i32,
            unit: unit(self.vocab_size),
            has_logprob: has_logprob.into(),
            unused: 0,
            rows: [unused; MAX_BATCH],
        };
        for (raw, row) in params.rows.iter_mut().zip(&*rows) {
            *raw = RawRow::of(row, self.vocab_size);
        }
        let launch = Launch {
            blocks: [(rows.len() * BLOCKS) as u32, 1, 1],
            threads: THREADS,
            shared_bytes: self.vocab_size.div_ceil(BLOCKS) as u32 * 4,
            is_cooperative: false,
        };
        #[expect(unsafe_code, reason = "kernels are launched by address")]
        // SAFETY: the parameters are the kernel's; what they point to is as large as it must be, and buffers
        // wait for the stream when they are let go of, as the pinned memory does.
        unsafe {
            self.module.launch(self.kernel, launch, &mut params)?;
        }
        self.done[place].record(self.gpu.stream())?;
        self.sizes[place] = (rows.len(), has_logprob);
        self.asked += 1;
        Ok(())
    }

    /// Waits for the first of the choices that were asked for and not waited for.
    pub fn finish(&mut self) -> Result<Vec<Choice>> {
        assert!(self.given < self.asked, "no choice was asked for");
        let place = self.given % MAX_WAITING;
        self.given += 1;
        self.gpu.enter()?;
        self.done[place].wait()?;
        let (num_rows, has_logprob) = self.sizes[place];
        let choice = |row: usize| {
            #[expect(unsafe_code, reason = "the card wrote it")]
            // SAFETY: the memory has room for as many, and the card is done with this place until it is asked
            // for again, which takes `&mut self`.
            let raw = unsafe { self.place(place).add(row).read_volatile() };
            let logprob = has_logprob.then_some(raw.logprob);
            Choice { token: raw.token, is_finite: raw.is_finite != 0, logprob }
        };
        Ok((0..num_rows).map(choice).collect())
    }

    /// The tokens that are chosen last, a `u32` a row, where [`Decoder::step_with`] reads them.
    #[must_use]
    pub fn tokens(&self) -> View<'_> {
        self.tokens.at(0)
    }

    /// Where the choices of a place lie.
    #[expect(clippy::cast_ptr_alignment, reason = "pinned memory begins where a page does")]
    fn place(&self, place: usize) -> *mut RawChoice {
        self.choices.start.cast::<RawChoice>().wrapping_add(place * MAX_BATCH)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // The card may still write to the pinned memory. Nothing can be done where this fails.
        let _ = self.gpu.synchronize();
    }
}

/// The weight of the best token, as a whole number: those of all tokens sum to 2⁶² at most.
fn unit(vocab_size: usize) -> f64 {
    let bits = vocab_size.next_power_of_two().trailing_zeros();
    (1_u64 << (62 - bits)) as f64
}

impl Decoder {
    /// The logits of the last step's sequences, (batch, `vocab_size`), on the card.
    #[must_use]
    pub fn logits_on_card(&self) -> View<'_> {
        self.logits.at(0)
    }

    /// As [`Decoder::step`], with tokens that are on the card, a `u32` a sequence, and maybe not chosen yet:
    /// nothing waits for them here. They must be in the vocabulary.
    pub fn step_with(&mut self, tokens: View<'_>, caches: &mut [&mut Cache]) -> Result<()> {
        let mut sequences: Vec<(u32, &mut Cache)> =
            caches.iter_mut().map(|cache| (0, &mut **cache)).collect();
        self.write_sequences(&mut sequences)?;
        let to = self.sequences.at(offset_of!(RawSequence, token));
        tokens.copy_rows(to, (4, size_of::<RawSequence>()), 4, sequences.len())?;
        self.run(&mut sequences, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_that_min_p_keeps_is_the_last_that_is_not_below_its_logarithm() {
        for min_p in [1e-300, 1e-9, 0.05, 0.1, 0.5, 0.999, 1.0 - 1e-12, 1.0] {
            let lowest = f32::from_bits(lowest(min_p));
            assert!(f64::from(lowest) >= min_p.ln(), "{min_p}");
            assert!(f64::from(lowest.next_down()) < min_p.ln(), "{min_p}");
        }
        assert_eq!(lowest(0.0), u32::MAX);
    }

    #[test]
    fn weights_of_equal_tokens_sum_to_less_than_63_bits_hold() {
        for vocab_size in [1, 2, 3, 32_000, 32_768, 152_064, 262_144] {
            let sum = unit(vocab_size) * vocab_size as f64;
            assert!(sum <= 2_f64.powi(62) && sum > 2_f64.powi(61) / 2.0, "{vocab_size}");
        }
    }

    #[test]
    fn marks_count_what_is_new_and_tell_it_from_the_prompt() {
        let found = marks(6, [&[1, 1, 4], &[4, 2, 4]], &[3, 9]);
        assert_eq!(found, [0, IN_PROMPT, 1, SUPPRESSED, IN_PROMPT | 2, 0]);
    }
}
