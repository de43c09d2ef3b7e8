//! A folder whose tokenizer is `SentencePiece`'s own file, as one with a `tokenizer.json`.

use std::path::Path;

use super::from_metadata::{TokenizerFolder, from_metadata};
use super::to_metadata::to_metadata;
use super::tokenizer_files::{SENTENCE_PIECE, TOKENIZER, TokenizerFiles};
use crate::error::Result;
use crate::gguf::metadata::Metadata;

/// The files that `tokenizer.model` in `dir` stands for; `None` where there is a `tokenizer.json`, or no
/// `tokenizer.model`.
///
/// The way goes through a GGUF file's keys, which hold all that both forms know. `num_rows` is the number
/// of rows of the embedding.
pub fn from_sentencepiece(dir: &Path, num_rows: usize) -> Result<Option<TokenizerFolder>> {
    let files = TokenizerFiles::read(dir)?;
    if files.texts.contains_key(TOKENIZER) || files.sentencepiece.is_none() {
        return Ok(None);
    }
    let mut metadata = Metadata::new(&dir.join(SENTENCE_PIECE));
    let mut notes = to_metadata(&files, num_rows, &mut metadata)?;
    let mut folder = from_metadata(&metadata, num_rows)?;
    notes.append(&mut folder.notes);
    Ok(Some(TokenizerFolder { notes, ..folder }))
}
