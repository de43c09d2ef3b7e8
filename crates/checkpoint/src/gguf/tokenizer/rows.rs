//! The rows of an embedding, which get their tokens one by one.

use serde_json::Value;

use super::SPACE;
use super::error::TokenizerError;
use super::tokenizer_files::content;
use super::vocabulary::{Token, TokenType, Vocabulary, padding_text};

/// What is known of each row.
pub(super) struct Rows(pub(super) Vec<Option<Token>>);

impl Rows {
    pub(super) fn new(num_rows: usize) -> Self {
        Self(vec![None; num_rows])
    }

    pub(super) fn put(&mut self, id: u64, token: Token) -> Result<(), TokenizerError> {
        let num_tokens = self.0.len();
        let past_end = |what| TokenizerError::IdPastEnd { what, id, num_tokens };
        match self.0.get_mut(id as usize) {
            None => Err(past_end(format!("the token {:?}", token.text))),
            Some(row) => {
                *row = Some(token);
                Ok(())
            }
        }
    }

    /// Puts the tokens of a vocabulary, none of which may have another's id.
    pub(super) fn put_all(&mut self, vocab: &[(String, u64)]) -> Result<(), TokenizerError> {
        for (text, id) in vocab {
            if let Some(first) = self.get(*id) {
                let (first, second) = (first.text.clone(), text.clone());
                return Err(TokenizerError::IdTwice { id: *id as usize, first, second });
            }
            let kind = TokenType::Normal;
            self.put(*id, Token { text: text.clone(), kind, score: 0.0 })?;
        }
        Ok(())
    }

    /// Puts a token that is found before the text is cut: invisible if it is `special`.
    pub(super) fn put_added(
        &mut self,
        id: u64,
        text: &str,
        special: bool,
    ) -> Result<(), TokenizerError> {
        let mut token = Token { text: text.to_owned(), kind: TokenType::Control, score: -1000.0 };
        let old = self.get(id);
        if let Some(old) = old.filter(|old| old.text != text) {
            let (first, second) = (old.text.clone(), text.to_owned());
            return Err(TokenizerError::IdTwice { id: id as usize, first, second });
        }
        if !special && !looks_special(text) {
            token.kind = TokenType::UserDefined;
            // llama.cpp looks for these in the text as it was given.
            token.text = text.replace(SPACE, " ");
        }
        self.put(id, token)
    }

    /// Puts the tokens of `added_tokens_decoder` that no other file has: transformers adds them too.
    pub(super) fn put_missing(&mut self, decoder: &Value) -> Result<(), TokenizerError> {
        for (id, token) in decoder.as_object().into_iter().flatten() {
            let (Ok(id), Some(text)) = (id.parse(), content(token)) else { continue };
            if self.get(id).is_none() {
                self.put_added(id, text, token["special"] == true)?;
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, id: u64) -> Option<&Token> {
        self.0.get(id as usize)?.as_ref()
    }

    pub(super) fn finish(self) -> Result<Vocabulary, TokenizerError> {
        let rows = self.0.into_iter().enumerate();
        let tokens = rows.map(|(id, row)| {
            row.unwrap_or_else(|| Token {
                text: padding_text(id),
                kind: TokenType::Unused,
                score: -10000.0,
            })
        });
        Vocabulary::new(tokens.collect())
    }
}

/// Tokens that some published files forget to mark as special; llama.cpp's converter knows them.
fn looks_special(text: &str) -> bool {
    let between = |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Whether `text` is of the form `<0x0A>`.
pub(super) fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}
