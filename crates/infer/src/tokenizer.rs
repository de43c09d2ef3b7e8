//! Text to tokens and back, by a model's `tokenizer.json`, or what a GGUF file has for one.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file in a model's folder.
const FILE: &str = "tokenizer.json";

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    notes: Vec<String>,
}

/// A text as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, those that the tokenizer adds included.
    pub ids: Vec<u32>,
    /// Where each token's text ends, in bytes of the text; tokens that were added end where the one
    /// before them does.
    pub ends: Vec<usize>,
}

impl Tokenizer {
    /// Reads the tokenizer of the model in `dir`, which has `vocab_size` tokens.
    pub fn open(dir: &Path, vocab_size: usize) -> Result<Self> {
        let path = dir.join(FILE);
        if path.symlink_metadata().is_err() {
            return Err(Error::NoTokenizer { model: dir.to_owned() });
        }
        let text = std::fs::read(&path).map_err(|source| Error::Io {
            path: path.clone(),
            doing: "read",
            source,
        })?;
        Self::parse(&text, path, vocab_size)
    }

    /// The tokenizer that `text`, the content of a `tokenizer.json`, describes; errors call it `path`.
    pub fn parse(text: &[u8], path: PathBuf, vocab_size: usize) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(text)
            .map_err(|e| Error::Tokenizer { path: path.clone(), reason: e.to_string() })?;
        // Some files carry the settings of a batch in training; transformers drops them too.
        inner.with_padding(None);
        let cut = inner.with_truncation(None);
        cut.map_err(|e| Error::Tokenizer { path: path.clone(), reason: e.to_string() })?;
        refuse_foreign(&inner, path, vocab_size)?;
        let mut tokenizer = Self { inner, bos: None, notes: Vec::new() };
        tokenizer.bos = tokenizer.added_first()?;
        Ok(tokenizer)
    }

    /// The same with what a user should hear of the files that it was made of.
    #[must_use]
    pub fn noted(mut self, notes: &[String]) -> Self {
        self.notes = notes.to_vec();
        self
    }

    /// What a user should hear of its files.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tokens of `text`, with those that the tokenizer adds (BOS).
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        let encoding = self.inner.encode(text, true).map_err(failed)?;
        let mut end = 0;
        let ends = encoding.get_offsets().iter().map(|offsets| {
            end = end.max(offsets.1);
            end
        });
        Ok(Encoded { ends: ends.collect(), ids: encoding.get_ids().to_vec() })
    }

    /// The tokens of a `text` that a chat template made: BOS stands before it once, whether the
    /// template wrote it or not, and nothing else is added.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false).map_err(failed)?;
        let ids = encoding.get_ids();
        let missing = self.bos.filter(|bos| ids.first() != Some(bos));
        Ok(missing.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The text of `ids`, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(failed)
    }

    /// A token as the vocabulary has it; `None` where the model has more tokens than the tokenizer.
    #[must_use]
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token that is put before each text (BOS), if one is.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn added_first(&self) -> Result<Option<u32>> {
        let encoding = self.inner.encode("a", true).map_err(failed)?;
        let is_added = encoding.get_special_tokens_mask().first() == Some(&1);
        Ok(encoding.get_ids().first().copied().filter(|_| is_added))
    }
}

/// Refuses a tokenizer whose vocabulary is larger than the model's.
///
/// Added tokens may lie past it, as long as none is used: some were never trained.
fn refuse_foreign(inner: &tokenizers::Tokenizer, path: PathBuf, vocab_size: usize) -> Result<()> {
    let vocabulary = inner.get_vocab(false);
    let added = inner.get_added_vocabulary().get_vocab();
    let foreign = vocabulary
        .into_iter()
        .filter(|(token, id)| *id as usize >= vocab_size && !added.contains_key(token))
        .min_by_key(|(_, id)| *id);
    match foreign {
        Some((token, id)) => Err(Error::TokenizerVocabulary { path, token, id, vocab_size }),
        None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn failed(error: tokenizers::Error) -> Error {
    Error::Encode { reason: error.to_string() }
}
