//! The tokens of a model, in the order of their ids.

use std::collections::HashMap;

use super::error::TokenizerError;
use crate::error::{Error, Result};
use crate::gguf::metadata::{Metadata, shown};
use crate::gguf::value::Array;

/// What a token is, with its number in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// What stands for text that has no token.
    Unknown = 2,
    /// Invisible: the beginning of a text, its end, and the like.
    Control = 3,
    /// Text that is found before all else is.
    UserDefined = 4,
    /// A row of the embedding without text.
    Unused = 5,
    /// A byte, written `<0x0A>`.
    Byte = 6,
}

impl TokenType {
    fn from_id(id: i64) -> Option<Self> {
        Some(match id {
            // llama.cpp takes 0, "undefined", for text.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether the token is found in the text before it is cut into words.
    pub(super) fn is_added(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) kind: TokenType,
    /// The higher, the earlier it is merged; of use to `llama` only.
    pub(super) score: f32,
}

/// Tokens by id, whose texts are distinct.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<Token>,
    ids: HashMap<String, usize>,
}

pub(super) const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES_KEY: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES_KEY: &str = "tokenizer.ggml.scores";

/// What a row of the embedding without a token is called.
pub(super) fn padding_text(id: usize) -> String {
    format!("[PAD{id}]")
}

impl Vocabulary {
    /// `tokens`, unless two have the same text.
    pub(super) fn new(tokens: Vec<Token>) -> Result<Self, TokenizerError> {
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token.text.clone(), id) {
                let token = token.text.clone();
                return Err(TokenizerError::TokenTwice { token, first, second: id });
            }
        }
        Ok(Self { tokens, ids })
    }

    /// The tokens of a GGUF file, of which the embedding has `num_rows`.
    pub(super) fn of_metadata(metadata: &Metadata, num_rows: usize) -> Result<Self> {
        let failed = |source| Error::Tokenizer { path: metadata.path().to_owned(), source };
        let texts = metadata
            .array(TOKENS_KEY)?
            .ok_or_else(|| failed(TokenizerError::KeyMissing { key: TOKENS_KEY }))?;
        let num_tokens = texts.len();
        if num_tokens != num_rows {
            return Err(failed(TokenizerError::Rows { num_tokens, num_rows }));
        }
        let types = metadata.array(TYPES_KEY)?;
        let scores = metadata.array(SCORES_KEY)?;
        for (key, array) in [(TYPES_KEY, types), (SCORES_KEY, scores)] {
            if let Some(found) = array.map(|array| array.len()).filter(|&len| len != num_tokens) {
                return Err(failed(TokenizerError::Length { key, found, num_tokens }));
            }
        }
        let mut tokens = Vec::with_capacity(num_tokens);
        for (id, value) in texts.iter().enumerate() {
            let text = value
                .as_str()
                .ok_or_else(|| metadata.wrong(TOKENS_KEY, "strings of UTF-8", &shown(value)))?;
            // llama.cpp gives tokens without text this name, or several would be one.
            let text = if text.is_empty() { format!("[EMPTY_{id}]") } else { text.to_owned() };
            tokens.push(Token { text, kind: TokenType::Normal, score: 0.0 });
        }
        for (id, value) in types.iter().flat_map(Array::iter).enumerate() {
            let found = value.as_i64().and_then(TokenType::from_id);
            tokens[id].kind = found
                .ok_or_else(|| failed(TokenizerError::TokenType { id, found: shown(value) }))?;
        }
        for (id, value) in scores.iter().flat_map(Array::iter).enumerate() {
            let score = value.as_f64().filter(|score| !score.is_nan());
            tokens[id].score = score
                .ok_or_else(|| metadata.wrong(SCORES_KEY, "an array of numbers", &shown(value)))?
                as f32;
        }
        Self::new(tokens).map_err(failed)
    }

    /// The id of the token that reads `text`.
    pub(super) fn id(&self, text: &str) -> Option<usize> {
        self.ids.get(text).copied()
    }

    /// Whether the token `id` is there only because the embedding has a row for it.
    pub(super) fn is_padding(&self, id: usize) -> bool {
        let token = &self.tokens[id];
        token.kind == TokenType::Unused && token.text == padding_text(id)
    }

    /// Whether the token `id` is made of smaller ones, and not found as a whole.
    pub(super) fn is_text(&self, id: usize) -> bool {
        matches!(self.tokens[id].kind, TokenType::Normal | TokenType::Unused)
            && !self.is_padding(id)
    }

    /// Writes the tokens; scores only where `with_scores`.
    pub(super) fn write(&self, with_scores: bool, metadata: &mut Metadata) {
        let texts: Vec<String> = self.tokens.iter().map(|token| token.text.clone()).collect();
        metadata.set(TOKENS_KEY, &texts);
        if with_scores {
            let scores: Vec<f32> = self.tokens.iter().map(|token| token.score).collect();
            metadata.set(SCORES_KEY, &scores);
        }
        let types: Vec<i32> = self.tokens.iter().map(|token| token.kind as i32).collect();
        metadata.set(TYPES_KEY, &types);
    }
}
