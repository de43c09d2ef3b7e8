//! What the command line means: texts, tokens, and what is asked of generation.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use infer::generate::Request;
use infer::generation_config::GenerationConfig;
use infer::sampling::Sampling;
use infer::{Error, Result};

use crate::cli::{IdsArgs, LengthArgs, SamplingArgs};
use crate::terminal::Terminal;

/// New tokens of `generate` where nothing says how many.
pub(crate) const DEFAULT_MAX_NEW_TOKENS: usize = 256;

/// A text, or tokens.
pub(crate) enum Input {
    Text(String),
    Ids(Vec<u32>),
}

impl Input {
    /// The argument, `--ids`, or stdin.
    pub(crate) fn prompt(
        text: Option<&String>,
        ids: &IdsArgs,
        terminal: &Terminal,
    ) -> Result<Self> {
        match (text, &ids.ids) {
            (_, Some(ids)) => read_ids(ids, terminal).map(Self::Ids),
            (Some(text), None) => Ok(Self::Text(text.clone())),
            (None, None) => {
                let mut text = read(Path::new("-"), terminal)?;
                if text.ends_with('\n') {
                    text.pop();
                }
                Ok(Self::Text(text))
            }
        }
    }

    /// A file as it is, or `--ids`.
    pub(crate) fn file(path: Option<&PathBuf>, ids: &IdsArgs, terminal: &Terminal) -> Result<Self> {
        match (path, &ids.ids) {
            (Some(path), _) => read(path, terminal).map(Self::Text),
            (None, Some(ids)) => read_ids(ids, terminal).map(Self::Ids),
            (None, None) => Self::prompt(None, ids, terminal),
        }
    }

    /// Whether nothing was given.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Ids(ids) => ids.is_empty(),
        }
    }

    /// The tokens, with `encode` for a text.
    pub(crate) fn ids(self, encode: impl FnOnce(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
        match self {
            Self::Text(text) => encode(&text),
            Self::Ids(ids) => Ok(ids),
        }
    }
}

/// The text of a file; `-` is stdin.
fn read(path: &Path, terminal: &Terminal) -> Result<String> {
    let is_stdin = path.as_os_str() == "-";
    let read = terminal.wait_for(|| {
        if is_stdin { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) }
    })?;
    let path = if is_stdin { PathBuf::from("standard input") } else { path.to_owned() };
    read.map_err(|source| Error::Io { path, doing: "read", source })
}

/// `1,2,3`, or `@FILE` with numbers between commas, blanks and brackets.
fn read_ids(text: &str, terminal: &Terminal) -> Result<Vec<u32>> {
    let text = match text.strip_prefix('@') {
        Some(path) => read(Path::new(path), terminal)?,
        None => text.to_owned(),
    };
    let is_between = |c: char| c.is_whitespace() || [',', '[', ']'].contains(&c);
    let words = text.split(is_between).filter(|word| !word.is_empty());
    let id = |word: &str| {
        word.parse().map_err(|_| Error::OptionValue {
            option: "--ids",
            found: word.to_owned(),
            expected: "tokens by number, as in 1,2,3, or @FILE",
        })
    };
    words.map(id).collect()
}

/// What is asked of generation.
pub(crate) struct Asked<'a> {
    pub(crate) sampling: &'a SamplingArgs,
    pub(crate) length: &'a LengthArgs,
    pub(crate) num: usize,
    pub(crate) top_logprobs: Option<usize>,
}

impl Asked<'_> {
    /// The request behind a prompt of `prompt_tokens`; `max_new_tokens` holds where neither flags nor
    /// `defaults` say how many.
    pub(crate) fn request(
        &self,
        defaults: &GenerationConfig,
        prompt_tokens: usize,
        max_new_tokens: usize,
    ) -> Result<Request> {
        Ok(Request {
            sampling: sampling(self.sampling, defaults),
            seed: self.sampling.seed.unwrap_or_else(another_seed),
            max_new_tokens: self::max_new_tokens(self.length, defaults, prompt_tokens)?
                .unwrap_or(max_new_tokens),
            eos: defaults.eos.clone(),
            stop_strings: match self.length.stop.as_slice() {
                [] => defaults.stop_strings.clone(),
                given => given.to_vec(),
            },
            num_sequences: self.num,
            top_logprobs: self.top_logprobs,
        })
    }
}

/// Flags over the model's defaults. A flag that only matters to draws turns drawing on.
pub(crate) fn sampling(args: &SamplingArgs, defaults: &GenerationConfig) -> Sampling {
    let asks_for_draws = args.temperature.is_some()
        || args.top_k.is_some()
        || args.top_p.is_some()
        || args.min_p.is_some()
        || args.typical_p.is_some();
    let base = &defaults.sampling;
    let temperature = if defaults.do_sample || asks_for_draws { base.temperature } else { 0.0 };
    Sampling {
        temperature: args.temperature.unwrap_or(temperature),
        top_k: args.top_k.unwrap_or(base.top_k),
        top_p: args.top_p.unwrap_or(base.top_p),
        min_p: args.min_p.unwrap_or(base.min_p),
        typical_p: args.typical_p.unwrap_or(base.typical_p),
        repetition_penalty: args.repetition_penalty.unwrap_or(base.repetition_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(0.0),
        frequency_penalty: args.frequency_penalty.unwrap_or(0.0),
        logit_bias: args.logit_bias.clone(),
        suppress_tokens: base.suppress_tokens.clone(),
    }
}

/// What asks for draws where the best token is taken, in a note.
pub(crate) fn undrawn(sampling: &Sampling, seed: Option<u64>, num: usize) -> Vec<String> {
    let asked = match (seed, num) {
        _ if sampling.temperature > 0.0 => return Vec::new(),
        (_, num) if num > 1 => "all sequences are the same",
        (Some(_), _) => "--seed changes nothing",
        (None, _) => return Vec::new(),
    };
    vec![format!("{asked}: the best token is taken, and none is drawn; --temperature T draws")]
}

/// transformers' two meanings: new tokens, or all of them; the former wins.
fn max_new_tokens(
    args: &LengthArgs,
    defaults: &GenerationConfig,
    prompt_tokens: usize,
) -> Result<Option<usize>> {
    if let Some(max_new_tokens) = args.max_new_tokens {
        return Ok(Some(max_new_tokens));
    }
    if let Some(max_length) = args.max_length {
        let left = max_length.checked_sub(prompt_tokens).filter(|&left| left > 0);
        return left.map(Some).ok_or(Error::NoRoom { prompt: prompt_tokens, max_length });
    }
    // A default that leaves no room was not made for this prompt.
    let left = defaults.max_length.and_then(|length| length.checked_sub(prompt_tokens));
    let left = left.filter(|&left| left > 0);
    Ok(defaults.max_new_tokens.or(left))
}

fn another_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // 32 bits: a number that can be copied, and that JSON's readers hold.
    u64::from(now.subsec_nanos() ^ now.as_secs() as u32 ^ std::process::id() << 16)
}
