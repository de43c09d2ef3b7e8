//! `tokenizer.model`: the pieces of a `SentencePiece` model, read from its protocol buffer.
//!
//! The fields' numbers are those of `sentencepiece_model.proto`. What is not asked for is skipped.

use super::error::TokenizerError;
use super::vocabulary::{Token, TokenType};

/// What a `tokenizer.model` says that a GGUF file can say too.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// The pieces in the order of their ids.
    pub(super) pieces: Vec<Token>,
    /// A space is put before the text.
    pub(super) add_dummy_prefix: bool,
    /// What is done to the text before anything else; `identity` is nothing.
    pub(super) normalization: String,
}

/// `TrainerSpec.ModelType` BPE.
const BPE: u64 = 2;

impl SentencePiece {
    /// Reads the bytes of a `tokenizer.model`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut model = Self {
            pieces: Vec::new(),
            add_dummy_prefix: true,
            normalization: "identity".to_owned(),
        };
        let mut model_type = 1; // Unigram, where nothing is said
        let mut message = Message(bytes);
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Wire::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
                (2, Wire::Bytes(trainer)) => {
                    let mut message = Message(trainer);
                    while let Some((field, value)) = message.next()? {
                        if let (3, Wire::Varint(number)) = (field, value) {
                            model_type = number;
                        }
                    }
                }
                (3, Wire::Bytes(normalizer)) => {
                    let mut message = Message(normalizer);
                    while let Some((field, value)) = message.next()? {
                        match (field, value) {
                            (1, Wire::Bytes(name)) => {
                                model.normalization = String::from_utf8_lossy(name).into_owned();
                            }
                            (3, Wire::Varint(number)) => model.add_dummy_prefix = number != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(broken("it has no pieces"));
        }
        if model_type != BPE {
            return Err(TokenizerError::NotTranslated {
                what: "its SentencePiece model is no BPE; llama.cpp would cut text in another way"
                    .to_owned(),
            });
        }
        Ok(model)
    }
}

fn read_piece(bytes: &[u8]) -> Result<Token, TokenizerError> {
    let mut piece = Token { text: String::new(), kind: TokenType::Normal, score: 0.0 };
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Wire::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| broken("a piece is not UTF-8"))?;
                text.clone_into(&mut piece.text);
            }
            (2, Wire::Four(bytes)) => piece.score = f32::from_le_bytes(bytes),
            (3, Wire::Varint(number)) => {
                piece.kind = match number {
                    1 => TokenType::Normal,
                    2 => TokenType::Unknown,
                    3 => TokenType::Control,
                    4 => TokenType::UserDefined,
                    5 => TokenType::Unused,
                    6 => TokenType::Byte,
                    _ => return Err(broken("a piece has an unknown type")),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// The fields of a message that are still to be read.
struct Message<'a>(&'a [u8]);

/// A field's value as it is stored.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    Eight,
}

impl<'a> Message<'a> {
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, TokenizerError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Eight
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Four(self.take(4)?.try_into().expect("four bytes were taken")),
            _ => return Err(broken("a field is of an unknown kind")),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(broken("a number has too many bytes"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], TokenizerError> {
        let length = usize::try_from(length).ok().filter(|&length| length <= self.0.len());
        let (taken, rest) = self.0.split_at(length.ok_or_else(|| broken("it ends early"))?);
        self.0 = rest;
        Ok(taken)
    }
}

fn broken(what: &str) -> TokenizerError {
    TokenizerError::SentencePiece { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(bytes: &[u8], expected: &str) {
        let error = SentencePiece::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_no_sentencepiece_model_is_refused() {
        check_refused(b"", "no pieces");
        check_refused(b"\x0a\x05\x0a\x01", "ends early");
        check_refused(b"\x0b", "unknown kind");
        check_refused(&[0xff; 12], "too many bytes");
        check_refused(b"\x0a\x03\x0a\x01\xff", "not UTF-8");
        check_refused(b"\x0a\x05\x0a\x01a\x18\x09", "unknown type");
    }

    #[test]
    fn unigram_models_are_refused() {
        check_refused(b"\x0a\x03\x0a\x01a\x12\x02\x18\x01", "no BPE");
    }

    #[test]
    fn pieces_are_read_with_scores_and_types() {
        // A piece "a" of score -1.5 and type 6, BPE, no dummy prefix.
        let bytes =
            b"\x0a\x0a\x0a\x01a\x15\x00\x00\xc0\xbf\x18\x06\x12\x02\x18\x02\x1a\x02\x18\x00";
        let model = SentencePiece::parse(bytes).unwrap();
        let expected = Token { text: "a".to_owned(), kind: TokenType::Byte, score: -1.5 };
        assert_eq!(model.pieces, [expected]);
        assert!(!model.add_dummy_prefix);
    }
}
