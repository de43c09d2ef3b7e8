//! How fast a model runs, beside what its device's memory allows.
//!
//! At batch 1 a step reads all weights and the cache once and computes next to nothing, so the bytes
//! over the bandwidth are the least time that it can take.

use std::time::{Duration, Instant};

use crate::anatomy::{self, EMBEDDING, HEAD};
use crate::cache::{self, KvCache};
use crate::card::{Choosing, Flight};
use crate::config::DecoderConfig;
use crate::device::{Meter, Target};
use crate::error::{Error, Result};
use crate::footprint::Footprint;
use crate::generate::TOGETHER;
use crate::model::{Model, Sequence};
use crate::progress::{Unit, Watch};
use crate::sampling::{self, Sampling};

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Lengths of prompts, in tokens.
    pub prompts: Vec<usize>,
    /// Tokens before those that are decoded.
    pub contexts: Vec<usize>,
    /// Sequences that are decoded side by side, at the shortest context.
    pub batches: Vec<usize>,
    /// Steps of each decoding.
    pub num_steps: usize,
    /// How often each is measured; the median counts.
    pub repeats: usize,
}

impl Settings {
    /// Refuses what cannot be measured with a model of so many positions.
    pub fn check(&self, positions: usize) -> Result<()> {
        for (option, value) in [("--steps", self.num_steps), ("--repeats", self.repeats)] {
            if value == 0 {
                let found = value.to_string();
                return Err(Error::OptionValue { option, found, expected: "1 or more" });
            }
        }
        if self.num_steps >= positions {
            let (option, found) = ("--steps", self.num_steps);
            return Err(Error::NoRoomFor { option, found, available: positions });
        }
        Ok(())
    }

    /// The positions of each of the caches that there are at once, when they take most, with a model of so
    /// many positions that these can be measured with it.
    #[must_use]
    pub fn caches(&self, positions: usize) -> Vec<usize> {
        let prompts = at_most(&self.prompts, positions).into_iter().map(|n| vec![n]);
        // A context, and a copy of it for each sequence behind it.
        let decodings = self.decodings(positions).into_iter();
        let decodings = decodings.map(|(n, batch)| vec![n + self.num_steps; batch + 1]);
        let cost = |caches: &Vec<usize>| {
            caches.iter().map(|&n| cache::rounded(n, positions)).sum::<usize>()
        };
        prompts.chain(decodings).max_by_key(cost).unwrap_or_default()
    }

    /// Contexts, and how many sequences go on behind each.
    fn decodings(&self, positions: usize) -> Vec<(usize, usize)> {
        let contexts = at_most(&self.contexts, positions - self.num_steps);
        let shortest = contexts.iter().copied().min().unwrap_or(1);
        let mut decodings: Vec<(usize, usize)> = contexts.into_iter().map(|n| (n, 1)).collect();
        decodings.extend(self.batches.iter().filter(|&&b| b > 1).map(|&b| (shortest, b)));
        decodings
    }
}

/// What a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Reading a prompt.
    Prefill,
    /// Making new tokens one after the other.
    Decode,
}

impl What {
    /// The word for it in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// A measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was measured.
    pub what: What,
    /// The tokens of each sequence that went through the model.
    pub num_tokens: usize,
    /// The tokens before them.
    pub context: usize,
    /// The sequences side by side.
    pub batch: usize,
    /// The time of it.
    pub time: Duration,
    /// The bytes that its steps had to read at least; `None` for prompts, which are bound by arithmetic.
    pub read_bytes: Option<u64>,
    /// The operations of a prompt, two a multiplication and addition; `None` for steps.
    pub flops: Option<f64>,
    /// The energy of the device, in J, where it is known.
    pub joules: Option<f64>,
}

impl Row {
    /// Tokens a second, of all sequences together.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        (self.num_tokens * self.batch) as f64 / self.time.as_secs_f64()
    }

    /// The share that this is of what a memory of `bytes_per_second` allows.
    #[must_use]
    pub fn read_bandwidth_fraction(&self, bytes_per_second: f64) -> Option<f64> {
        let read = self.read_bytes? as f64;
        Some(read / bytes_per_second / self.time.as_secs_f64())
    }

    /// Operations a second.
    #[must_use]
    pub fn flops_per_second(&self) -> Option<f64> {
        Some(self.flops? / self.time.as_secs_f64())
    }

    /// The energy of a token of a sequence, in J.
    #[must_use]
    pub fn joules_per_token(&self) -> Option<f64> {
        Some(self.joules? / (self.num_tokens * self.batch) as f64)
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The measurements.
    pub rows: Vec<Row>,
    /// Whether the logits behind prompts were finite, as those of a sound model are.
    pub is_finite: bool,
    /// The bytes that were in use on the device at most ([`Target::used_bytes`]), where they are known.
    pub peak_bytes: Option<u64>,
}

/// Measures `model`, which runs on `target` and takes `footprint` there; lengths that it has no positions for
/// are cut.
pub fn bench(
    model: &Model,
    footprint: &Footprint,
    settings: &Settings,
    target: &Target,
    watch: &Watch,
) -> Result<Measured> {
    let meter = target.meter();
    let joules = || meter.as_ref().and_then(Meter::joules);
    let mut peak_bytes = None;
    let positions = model.config().max_position_embeddings;
    settings.check(positions)?;
    let prompts = at_most(&settings.prompts, positions);
    let decodings = settings.decodings(positions);
    let total: usize = prompts.iter().sum::<usize>() * settings.repeats
        + decodings.iter().map(|(_, batch)| batch * settings.num_steps).sum::<usize>()
            * settings.repeats;
    watch.begin("measuring", total as u64, Unit::Tokens);
    // The first tokens also pay for what is made once.
    let (_, mut is_finite) = filled(model, 1, 0, watch)?;
    let mut rows = Vec::new();
    for n in prompts {
        let mut told = settings.repeats;
        let (time, joules) = measured(settings.repeats, joules, || {
            let begin = Instant::now();
            let (_cache, finite) = filled(model, n, 0, watch)?;
            let time = begin.elapsed();
            peak_bytes = peak_bytes.max(target.used_bytes());
            is_finite &= finite;
            // Those that are repeated for the meter are not in the total.
            watch.done(if told > 0 { n as u64 } else { 0 });
            told = told.saturating_sub(1);
            Ok(time)
        })?;
        rows.push(Row {
            what: What::Prefill,
            num_tokens: n,
            context: 0,
            batch: 1,
            time,
            read_bytes: None,
            flops: Some(flops(model.config(), n)),
            joules,
        });
    }
    for (context, batch) in decodings {
        let (cache, finite) = filled(model, context, settings.num_steps, watch)?;
        is_finite &= finite;
        let mut told = settings.repeats;
        let (time, joules) = measured(settings.repeats, joules, || {
            let (time, _caches) = decode(model, &cache, batch, settings.num_steps, watch)?;
            peak_bytes = peak_bytes.max(target.used_bytes());
            watch.done(if told > 0 { (batch * settings.num_steps) as u64 } else { 0 });
            told = told.saturating_sub(1);
            Ok(time)
        })?;
        let config = model.config();
        let cached = (1..=settings.num_steps)
            .map(|step| footprint.position_bytes * positions_read(config, context + step) as u64);
        let num_reads = settings.num_steps * batch.div_ceil(TOGETHER);
        let weights = model.step_bytes() * num_reads as u64;
        rows.push(Row {
            what: What::Decode,
            num_tokens: settings.num_steps,
            context,
            batch,
            time,
            read_bytes: Some(weights + batch as u64 * cached.sum::<u64>()),
            flops: None,
            joules,
        });
    }
    Ok(Measured { rows, is_finite, peak_bytes })
}

/// The operations of a prompt of `n` tokens, as far as the logits behind the last of them: two for each number
/// of the layers' matrices a token, and for each element of a head, key and value that a query sees four.
fn flops(config: &DecoderConfig, n: usize) -> f64 {
    let numbers = |is_wanted: &dyn Fn(&str) -> bool| -> usize {
        let matrices = anatomy::expected(config).into_iter();
        let matrices = matrices.filter(|tensor| tensor.shape.len() == 2 && is_wanted(&tensor.name));
        matrices.map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    };
    let layers = 2 * n * numbers(&|name| name != EMBEDDING && name != HEAD);
    let head = 2 * config.vocab_size * config.hidden_size;
    let seen: usize = (1..=n).map(|n| positions_read(config, n)).sum();
    let attention = 4 * seen * config.num_attention_heads * config.head_dim;
    (layers + head + attention) as f64
}

/// The positions whose keys and values the last of `n` tokens sees, of all layers together.
fn positions_read(config: &DecoderConfig, n: usize) -> usize {
    config.sliding_windows.iter().map(|window| window.map_or(n, |window| window.min(n))).sum()
}

/// The lengths, cut to what there is room for, each once; 0 is none.
fn at_most(lengths: &[usize], room: usize) -> Vec<usize> {
    let mut cut: Vec<usize> = lengths.iter().map(|&n| n.min(room)).filter(|&n| n > 0).collect();
    cut.dedup();
    cut
}

/// Runs a prompt of `n` tokens, as far as the logits behind it, with room for `more`; says whether these
/// are finite.
fn filled(model: &Model, n: usize, more: usize, watch: &Watch) -> Result<(KvCache, bool)> {
    let mut cache = model.cache(n + more)?;
    let tokens: Vec<u32> = (0..n).map(|i| token(model, i)).collect();
    let mut logits = Vec::new();
    for (number, piece) in tokens.chunks(model.piece()).enumerate() {
        watch.check()?;
        if (number + 1) * model.piece() < n {
            model.feed(piece, &mut cache)?;
        } else {
            // Numbers that arrive here say that the device is done.
            logits = model.prompt_logits(piece, &mut cache)?;
        }
    }
    Ok((cache, logits.iter().all(|logit| logit.is_finite())))
}

/// The time of `num_steps` steps of `batch` sequences behind what `cache` holds, each with the best token of the
/// one before, as `generate` takes them, and their caches.
fn decode(
    model: &Model,
    cache: &KvCache,
    batch: usize,
    num_steps: usize,
    watch: &Watch,
) -> Result<(Duration, Vec<KvCache>)> {
    let mut caches = (0..batch).map(|_| model.fork(cache)).collect::<Result<Vec<_>>>()?;
    let tokens: Vec<u32> = (0..batch).map(|b| token(model, b)).collect();
    let begin = Instant::now();
    for (caches, tokens) in caches.chunks_mut(TOGETHER).zip(tokens.chunks(TOGETHER)) {
        match model.flight() {
            Some(flight) => in_flight(model, flight, caches, tokens, num_steps, watch)?,
            None => one_by_one(model, caches, tokens, num_steps, watch)?,
        }
    }
    Ok((begin.elapsed(), caches))
}

/// Steps on a card, each asked for before the one before is done.
fn in_flight(
    model: &Model,
    mut flight: Flight,
    caches: &mut [KvCache],
    tokens: &[u32],
    num_steps: usize,
    watch: &Watch,
) -> Result<()> {
    let greedy = Sampling::default();
    let choose = || Choosing { sampling: &greedy, draw: 0.0, history: None };
    let mut choosing: Vec<Choosing> = tokens.iter().map(|_| choose()).collect();
    let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
    model.start(&mut flight, Some(tokens), &mut caches, &mut choosing)?;
    for step in 0..num_steps {
        watch.check()?;
        if step + 1 < num_steps {
            model.start(&mut flight, None, &mut caches, &mut choosing)?;
        }
        // Logits that are not finite, which a note tells of, have no best token.
        flight.finish()?;
    }
    Ok(())
}

/// Steps whose tokens are chosen here.
fn one_by_one(
    model: &Model,
    caches: &mut [KvCache],
    tokens: &[u32],
    num_steps: usize,
    watch: &Watch,
) -> Result<()> {
    let mut tokens: Vec<[u32; 1]> = tokens.iter().map(|&token| [token]).collect();
    for _ in 0..num_steps {
        watch.check()?;
        let sequences = caches.iter_mut().zip(&tokens);
        let mut sequences: Vec<Sequence> =
            sequences.map(|(cache, tokens)| Sequence { tokens, cache }).collect();
        let logits = model.step(&mut sequences)?;
        let best = logits.chunks(model.config().vocab_size).map(sampling::best);
        tokens = best.map(|best| [best]).collect();
    }
    Ok(())
}

/// Tokens that do not repeat themselves: which they are makes no difference.
fn token(model: &Model, i: usize) -> u32 {
    ((i * 7919 + 13) % model.config().vocab_size) as u32
}

/// The median of `n` times that `measure` takes, and the energy of one of them, for which it is repeated until the
/// meter has moved on.
fn measured(
    n: usize,
    joules: impl Fn() -> Option<f64>,
    mut measure: impl FnMut() -> Result<Duration>,
) -> Result<(Duration, Option<f64>)> {
    /// A meter moves on every 20 to 100 ms.
    const LEAST: Duration = Duration::from_secs(1);
    let (begin, before) = (Instant::now(), joules());
    let mut times = (0..n.max(1)).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    let mut num_runs = times.len();
    while before.is_some() && begin.elapsed() < LEAST {
        measure()?;
        num_runs += 1;
    }
    let energy = joules().zip(before).map(|(after, before)| (after - before) / num_runs as f64);
    times.sort_unstable();
    Ok((times[times.len() / 2], energy))
}

#[cfg(test)]
mod tests {
    use checkpoint::json::Object;

    use super::*;

    #[test]
    fn a_prompts_operations_are_those_of_its_products() {
        let config = r#"{ "model_type": "mistral", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 64, "sliding_window": 3 }"#;
        let config = Object::parse(config).unwrap();
        let config = DecoderConfig::read(&config, std::path::Path::new("config.json")).unwrap();
        let layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96;
        // Of five queries those see 1, 2, 3, 3 and 3 keys.
        let attention = 4 * 2 * (1 + 2 + 3 + 3 + 3) * 64;
        let expected = 2 * 5 * 2 * layer + 2 * 100 * 64 + attention;
        assert!((flops(&config, 5) - f64::from(expected)).abs() < 0.5);
    }

    #[test]
    fn without_a_meter_nothing_is_repeated() {
        let mut num_runs = 0_u32;
        let (time, joules) = measured(
            3,
            || None,
            || {
                num_runs += 1;
                Ok(Duration::from_millis(10 * u64::from(num_runs)))
            },
        )
        .unwrap();
        assert_eq!((time, joules, num_runs), (Duration::from_millis(20), None, 3));
    }

    #[test]
    fn what_is_short_is_repeated_until_the_meter_has_moved_on() {
        let num_runs = std::cell::Cell::new(0_u32);
        // Two joules a run.
        let joules = || Some(7.0 + 2.0 * f64::from(num_runs.get()));
        let begin = Instant::now();
        let (_, joules) = measured(1, joules, || {
            num_runs.set(num_runs.get() + 1);
            std::thread::sleep(Duration::from_millis(30));
            Ok(Duration::from_millis(30))
        })
        .unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(1) && num_runs.get() > 1);
        assert!((joules.unwrap() - 2.0).abs() < 1e-9);
    }
}
