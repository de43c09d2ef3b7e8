//! `tokenizer.json` as far as a GGUF file can say it.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::SPACE;
use super::error::TokenizerError;
use super::merges::{self, Merge};
use crate::error::{Error, Result};
use crate::json::Entries;

/// What stands in a `tokenizer.json`, whose model is BPE.
#[derive(Debug)]
pub(super) struct TokenizerJson {
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Bpe,
}

/// A token that is found before the text is cut into words.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are those of tokenizer.json")]
pub(super) struct AddedToken {
    pub(super) id: u64,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    /// It is found in what the normalizer leaves, not in the text as it was given.
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// The model.
#[derive(Debug)]
pub(super) struct Bpe {
    pub(super) vocab: Vec<(String, u64)>,
    pub(super) merges: Vec<Merge>,
    pub(super) unk_token: Option<String>,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Box<RawValue>,
}

#[derive(Deserialize)]
struct WireKind {
    // Files of the library's first versions do not say what they are.
    #[serde(default = "bpe", rename = "type")]
    kind: String,
}

fn bpe() -> String {
    "BPE".to_owned()
}

#[derive(Deserialize)]
struct WireBpe {
    vocab: Entries<u64>,
    merges: Vec<WireMerge>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireMerge {
    Pair(String, String),
    Line(String),
}

impl TokenizerJson {
    /// Reads `text`, the content of the file at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let broken = |source| Error::Json { path: path.to_owned(), source };
        let failed = |what| {
            let source = TokenizerError::NotTranslated { what };
            Error::Tokenizer { path: path.to_owned(), source }
        };
        let wire: Wire = serde_json::from_str(text).map_err(broken)?;
        let WireKind { kind } = serde_json::from_str(wire.model.get()).map_err(broken)?;
        if kind != "BPE" {
            let source = TokenizerError::Model { found: kind, known: "BPE" };
            return Err(Error::Tokenizer { path: path.to_owned(), source });
        }
        let model: WireBpe = serde_json::from_str(wire.model.get()).map_err(broken)?;
        let affixes = [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ];
        for (key, affix) in affixes {
            if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
                return Err(failed(format!("its model has a `{key}`, which llama.cpp has not")));
            }
        }
        if model.dropout.is_some_and(|dropout| dropout > 0.0) {
            return Err(failed("its model has a `dropout`, which llama.cpp has not".to_owned()));
        }
        let mut merges = Vec::with_capacity(model.merges.len());
        for merge in model.merges {
            merges.push(match merge {
                WireMerge::Pair(left, right) => (left, right),
                WireMerge::Line(line) => match line.split_once(' ') {
                    Some((left, right)) => (left.to_owned(), right.to_owned()),
                    None => return Err(failed(format!("the merge {line:?} has no space"))),
                },
            });
        }
        let texts: HashSet<&str> = model.vocab.0.iter().map(|(text, _)| text.as_str()).collect();
        merges::check(&merges, |text| texts.contains(text))
            .map_err(|source| Error::Tokenizer { path: path.to_owned(), source })?;
        Ok(Self {
            added_tokens: wire.added_tokens,
            normalizer: wire.normalizer,
            pre_tokenizer: wire.pre_tokenizer,
            post_processor: wire.post_processor,
            decoder: wire.decoder,
            model: Bpe {
                vocab: model.vocab.0,
                merges,
                unk_token: model.unk_token,
                byte_fallback: model.byte_fallback,
                ignore_merges: model.ignore_merges,
            },
        })
    }

    /// Whether bytes are written as letters, so that no text is without tokens.
    pub(super) fn is_byte_level(&self) -> bool {
        parts(&self.pre_tokenizer, "pretokenizers")
            .chain(parts(&self.decoder, "decoders"))
            .any(|part| is_type(part, "ByteLevel"))
    }

    /// Whether the normalizer of a byte-level model does nothing (`false`) or NFC (`true`).
    pub(super) fn is_nfc(&self) -> Result<bool, TokenizerError> {
        let mut nfc = false;
        for part in parts(&self.normalizer, "normalizers") {
            if !is_type(part, "NFC") {
                return Err(self.normalizer_unknown());
            }
            nfc = true;
        }
        Ok(nfc)
    }

    /// What becomes of spaces in a model that writes them as `▁`.
    pub(super) fn spaces(&self) -> Result<Spaces, TokenizerError> {
        let mut spaces = Spaces { prefix: false, prefix_once: false, split: false };
        let mut replaced = false;
        for part in parts(&self.normalizer, "normalizers") {
            if is_type(part, "Prepend") && part["prepend"] == SPACE && !replaced {
                spaces.prefix = true;
            } else if is_type(part, "Replace")
                && part["pattern"]["String"] == " "
                && part["content"] == SPACE
            {
                replaced = true;
            } else {
                return Err(self.normalizer_unknown());
            }
        }
        if replaced {
            // Where there are no spaces left, a cut at spaces cuts nothing.
            let cuts_spaces =
                |part: &Value| is_type(part, "Split") && part["pattern"]["String"] == " ";
            if parts(&self.pre_tokenizer, "pretokenizers").all(cuts_spaces) {
                return Ok(spaces);
            }
            return Err(self.pre_tokenizer_unknown());
        }
        let mut steps = parts(&self.pre_tokenizer, "pretokenizers");
        match (steps.next(), steps.next()) {
            (Some(step), None)
                if is_type(step, "Metaspace") && step["replacement"] == SPACE && !spaces.prefix =>
            {
                let scheme = step["prepend_scheme"].as_str().unwrap_or_else(|| {
                    // How files before the key came up say it.
                    if step["add_prefix_space"] == false { "never" } else { "always" }
                });
                spaces.prefix = scheme != "never";
                spaces.prefix_once = scheme == "first";
                spaces.split = step["split"].as_bool().unwrap_or(true);
                Ok(spaces)
            }
            _ => Err(self.pre_tokenizer_unknown()),
        }
    }

    fn normalizer_unknown(&self) -> TokenizerError {
        TokenizerError::Normalizer { form: self.normalizer.to_string() }
    }

    fn pre_tokenizer_unknown(&self) -> TokenizerError {
        TokenizerError::PreTokenizerForm { form: self.pre_tokenizer.to_string() }
    }

    /// The texts of the tokens that the post-processor puts before and behind a text.
    ///
    /// `None` if there is no post-processor that says anything of it.
    pub(super) fn around(&self) -> Option<(Option<&str>, Option<&str>)> {
        let mut found = None;
        for part in parts(&self.post_processor, "processors") {
            match part["type"].as_str() {
                Some("ByteLevel") => found = found.or(Some((None, None))),
                Some("TemplateProcessing") => {
                    let single = part["single"].as_array()?;
                    let first =
                        single.first().and_then(|piece| piece["SpecialToken"]["id"].as_str());
                    let last = single.last().and_then(|piece| piece["SpecialToken"]["id"].as_str());
                    found = Some((first, last));
                }
                _ => {}
            }
        }
        found
    }
}

/// What becomes of spaces.
#[derive(Debug, PartialEq)]
pub(super) struct Spaces {
    /// A space is put before a text.
    pub(super) prefix: bool,
    /// It is put before the first piece of text only, not behind each special token.
    pub(super) prefix_once: bool,
    /// The text is cut into words at spaces.
    pub(super) split: bool,
}

fn is_type(part: &Value, name: &str) -> bool {
    part.get("type").and_then(Value::as_str) == Some(name)
}

/// The parts of `value`: those under `key` of a sequence, itself if it is none, nothing of `null`.
fn parts<'a>(value: &'a Value, key: &str) -> Box<dyn Iterator<Item = &'a Value> + 'a> {
    let key = key.to_owned();
    match value {
        Value::Null => Box::new(std::iter::empty()),
        _ if is_type(value, "Sequence") => {
            let list = value.get(&key).and_then(Value::as_array).map(Vec::as_slice);
            Box::new(list.unwrap_or_default().iter().flat_map(move |part| parts(part, &key)))
        }
        _ => Box::new(std::iter::once(value)),
    }
}
