//! New tokens as text while they come, never half a character.
//!
//! All that a stream has given is what decoding all its tokens at once gives. A token cannot be
//! decoded alone: its leading space depends on what stands before it, and a character may be spread
//! over several tokens. So the last tokens that gave text are decoded together with each new one.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// What stands where bytes are no character, or not yet.
const NO_CHARACTER: char = '\u{fffd}';

/// Tokens without a whole character between them after which none is awaited any more.
const MAX_BROKEN: usize = 16;

/// The text of tokens that come one at a time.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last tokens: those that gave the last whole characters, and what came since.
    window: Vec<u32>,
    /// How many of the window's tokens gave whole characters.
    num_whole: usize,
    /// How much of the window's text was given, in bytes.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// The text of tokens that a text begins with.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, window: Vec::new(), num_whole: 0, given: 0 }
    }

    /// What `id` adds to the text; nothing while it ends inside a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        // Where bytes are tokens, one that is awaited spoils all that stand together with it.
        let whole = text.trim_end_matches(NO_CHARACTER).len();
        let added = self.give(&text, whole);
        if whole == text.len() {
            self.slide()?;
        } else if self.window.len() - self.num_whole > MAX_BROKEN {
            return self.give_up().map(|broken| added + &broken);
        }
        Ok(added)
    }

    /// What tokens that are no text by now are: nothing that follows makes them one.
    fn give_up(&mut self) -> Result<String> {
        self.window.drain(..self.num_whole);
        let text = self.tokenizer.decode(&self.window)?;
        self.num_whole = self.window.len();
        self.given = text.len();
        Ok(text[text.trim_end_matches(NO_CHARACTER).len()..].to_owned())
    }

    /// What is left when no token follows: the bytes of a broken character as U+FFFD.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        let whole = text.len();
        Ok(self.give(&text, whole))
    }

    /// Forgets the tokens before those that gave the last characters.
    fn slide(&mut self) -> Result<()> {
        let last = self.tokenizer.decode(&self.window[self.num_whole..])?;
        // Special tokens give no text: what follows them depends on what was before.
        if !last.is_empty() {
            self.window.drain(..self.num_whole);
            self.given = last.len();
        }
        self.num_whole = self.window.len();
        Ok(())
    }

    fn give(&mut self, text: &str, end: usize) -> String {
        // Bytes after a whole character may break it in hindsight; what was given stays.
        let from = (self.given.min(end)..=end).find(|&at| text.is_char_boundary(at));
        let added = from.and_then(|from| text.get(from..end)).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        added
    }
}
