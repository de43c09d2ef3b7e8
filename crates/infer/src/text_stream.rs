//! New tokens as text while they come, never half a character.
//!
//! All that a stream has given is what decoding all its tokens at once gives. A token cannot be
//! decoded alone: its leading space depends on what stands before it, and a character may be spread
//! over several tokens. So the last tokens that gave text are decoded together with each new one.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// What stands where bytes are no character, or not yet.
const NO_CHARACTER: char = '\u{fffd}';

/// How many such may become one character, when its last byte comes.
const MAX_PENDING: usize = 3;

/// The text of tokens that come one at a time.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens: those that the next one's text depends on.
    window: Vec<u32>,
    /// How much of the window's text was given, in bytes.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// The text of tokens that a text begins with.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, window: Vec::new(), given: 0 }
    }

    /// What `id` adds to the text; nothing while it ends inside a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        let pending = text.chars().rev().take(MAX_PENDING).take_while(|&c| c == NO_CHARACTER);
        let whole = text.len() - pending.map(char::len_utf8).sum::<usize>();
        let added = self.give(&text, whole);
        if whole == text.len() {
            // A clean end: the next token needs the last that gives text by itself, no more.
            let alone = self.tokenizer.decode(&[id])?;
            if !alone.is_empty() && self.window.len() > 1 {
                self.window = vec![id];
                self.given = alone.len();
            }
        }
        Ok(added)
    }

    /// What is left when no token follows: the bytes of a broken character as U+FFFD.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        let whole = text.len();
        Ok(self.give(&text, whole))
    }

    fn give(&mut self, text: &str, end: usize) -> String {
        let added = text.get(self.given.min(end)..end).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        added
    }
}
