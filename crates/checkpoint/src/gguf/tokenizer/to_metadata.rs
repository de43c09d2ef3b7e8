//! The tokenizer of a Hugging Face folder as keys of a GGUF file, as llama.cpp reads them.

use serde_json::Value;

use super::error::TokenizerError;
use super::merges;
use super::pre_tokenizer::PreTokenizer;
use super::rows::{Rows, is_byte};
use super::sentencepiece::SentencePiece;
use super::special_tokens::SpecialTokens;
use super::tokenizer_files::{
    ADDED_TOKENS, Configs, SENTENCE_PIECE, TOKENIZER, TOKENIZER_CONFIG, TokenizerFiles, content,
};
use super::tokenizer_json::{Spaces, TokenizerJson};
use super::vocabulary::{Token, TokenType, Vocabulary};
use super::{ADD_PREFIX_KEY, MODEL_KEY, PRE_KEY, SPACE};
use crate::error::Result;
use crate::gguf::metadata::Metadata;

/// Sets the keys of `metadata` that make the tokenizer in `files`, and returns what is worth knowing.
///
/// All keys that begin with `tokenizer.` are dropped first. `num_rows` is the number of rows of the
/// embedding; rows without a token get one of the type "unused". A folder without a tokenizer gives
/// the model `none`. A note is a sentence without full stop.
pub fn to_metadata(
    files: &TokenizerFiles,
    num_rows: usize,
    metadata: &mut Metadata,
) -> Result<Vec<String>> {
    let configs = Configs::of(files)?;
    metadata.remove(|key| key.starts_with("tokenizer."));
    let mut notes = Vec::new();
    let (vocabulary, around) = match files.texts.get(TOKENIZER) {
        Some(text) => {
            let tokenizer = TokenizerJson::parse(&files.path(TOKENIZER), text)?;
            note_flags(&tokenizer, &mut notes);
            let vocabulary = if tokenizer.is_byte_level() {
                byte_level(&tokenizer, &configs, num_rows, metadata, &mut notes)
                    .map_err(|source| files.failed(TOKENIZER, source))?
            } else {
                sentence_pieces(files, &tokenizer, &configs, num_rows, metadata, &mut notes)?
            };
            let around = tokenizer.around().map(|(first, last)| {
                let id = |text: Option<&str>| text.and_then(|text| vocabulary.id(text));
                (id(first), id(last))
            });
            (vocabulary, around)
        }
        None if files.sentencepiece.is_some() => {
            (sentence_pieces_alone(files, &configs, num_rows, metadata, &mut notes)?, None)
        }
        None => {
            if let Some(other) = &files.other_form {
                let what = format!(
                    "it is no form of tokenizer that is read; \
                     AutoTokenizer.from_pretrained(…).save_pretrained(…) writes {TOKENIZER}"
                );
                return Err(files.failed(other, TokenizerError::NotTranslated { what }));
            }
            metadata.set(MODEL_KEY, "none");
            notes.push("the folder has no tokenizer, so the GGUF file has none".to_owned());
            return Ok(notes);
        }
    };
    let special = SpecialTokens::of_folder(files, &configs, &vocabulary, around, &mut notes)?;
    special.write(metadata);
    configs.chat_templates(files)?.write(metadata);
    Ok(notes)
}

/// What GGUF has no place for.
fn note_flags(tokenizer: &TokenizerJson, notes: &mut Vec<String>) {
    let flagged = tokenizer.added_tokens.iter();
    let flagged = flagged.filter(|token| token.single_word || token.lstrip || token.rstrip);
    let texts: Vec<_> = flagged.map(|token| format!("{:?}", token.content)).collect();
    if let Some(first) = texts.first() {
        let others = match texts.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notes.push(format!(
            "GGUF does not say that the token {first}{others} takes the spaces beside it along, or \
             is found as a word only"
        ));
    }
}

/// The model `gpt2`.
fn byte_level(
    tokenizer: &TokenizerJson,
    configs: &Configs,
    num_rows: usize,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<Vocabulary, TokenizerError> {
    let mut rows = Rows::new(num_rows);
    rows.put_all(&tokenizer.model.vocab)?;
    for token in &tokenizer.added_tokens {
        rows.put_added(token.id, &token.content, token.special)?;
    }
    rows.put_missing(&configs.tokenizer["added_tokens_decoder"])?;
    let vocabulary = rows.finish()?;
    let merges = &tokenizer.model.merges;

    let nfc = tokenizer.is_nfc()?;
    let ignore_merges = tokenizer.model.ignore_merges;
    let names = PreTokenizer::of_form(&tokenizer.pre_tokenizer)?;
    let likeness = |entry: &&PreTokenizer| (entry.ignore_merges == ignore_merges, entry.nfc == nfc);
    // Of equally like ones the first, so that the order of the table decides.
    let best = names.into_iter().rev().max_by_key(|&entry| likeness(&entry));
    let best = best.expect("a form that is known has a name");
    if best.ignore_merges != ignore_merges
        && let Some(text) = merges::unreachable(merges, &vocabulary)
    {
        let what = format!(
            "`ignore_merges` is {ignore_merges}, but {} for llama.cpp's pre-tokenizer `{}`; \
             it would cut {text:?} in another way",
            best.ignore_merges, best.name
        );
        return Err(TokenizerError::NotTranslated { what });
    }
    if nfc {
        notes.push("llama.cpp does not compose characters (NFC) as the tokenizer does".to_owned());
    }
    if let Some(what) = best.llama_cpp_differs_on {
        notes.push(format!("llama.cpp cuts text in another way than the tokenizer at {what}"));
    }
    metadata.set(MODEL_KEY, "gpt2");
    metadata.set(PRE_KEY, best.name);
    vocabulary.write(false, metadata);
    // A space within a token is written as bytes are, or it would seem to part two.
    let line = |(left, right): &(String, String)| {
        format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))
    };
    let lines: Vec<String> = merges.iter().map(line).collect();
    metadata.set(merges::MERGES_KEY, &lines);
    Ok(vocabulary)
}

/// The model `llama`, from a `tokenizer.json` and, for the scores, a `tokenizer.model`.
fn sentence_pieces(
    files: &TokenizerFiles,
    tokenizer: &TokenizerJson,
    configs: &Configs,
    num_rows: usize,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<Vocabulary> {
    let failed = |source| files.failed(TOKENIZER, source);
    let spaces = tokenizer.spaces().map_err(failed)?;
    let mut vocabulary = tokens_of_json(tokenizer, configs, num_rows).map_err(failed)?;
    if !tokenizer.model.byte_fallback {
        let what = "its model neither is byte-level nor falls back to bytes".to_owned();
        return Err(failed(TokenizerError::NotTranslated { what }));
    }
    let pieces = files.sentencepiece.as_deref().map(SentencePiece::parse).transpose();
    let pieces = pieces.map_err(|source| files.failed(SENTENCE_PIECE, source))?;
    let scored = pieces.is_some_and(|model| score_by_pieces(&model, &mut vocabulary));
    if !scored {
        if files.sentencepiece.is_some() {
            notes.push(format!(
                "{SENTENCE_PIECE} has other tokens than {TOKENIZER}; scores follow the merges"
            ));
        }
        let looser = merges::score(&tokenizer.model.merges, &mut vocabulary);
        if looser > 0 {
            notes.push(format!(
                "llama.cpp may build {looser} tokens in ways that are no merges in {TOKENIZER}"
            ));
        }
    }
    note_spaces(&spaces, &vocabulary, notes);
    let late = tokenizer.added_tokens.iter().find(|token| token.normalized);
    if let Some(token) = late.filter(|_| spaces.prefix) {
        notes.push(format!(
            "llama.cpp puts a space behind the token {:?}, the tokenizer does not",
            token.content
        ));
    }
    write_sentence_pieces(&vocabulary, spaces.prefix, metadata);
    Ok(vocabulary)
}

fn tokens_of_json(
    tokenizer: &TokenizerJson,
    configs: &Configs,
    num_rows: usize,
) -> Result<Vocabulary, TokenizerError> {
    let mut rows = Rows::new(num_rows);
    rows.put_all(&tokenizer.model.vocab)?;
    for row in rows.0.iter_mut().flatten() {
        if is_byte(&row.text) {
            row.kind = TokenType::Byte;
        }
    }
    for token in &tokenizer.added_tokens {
        rows.put_added(token.id, &token.content, token.special)?;
    }
    rows.put_missing(&configs.tokenizer["added_tokens_decoder"])?;
    for row in rows.0.iter_mut().flatten() {
        if Some(&row.text) == tokenizer.model.unk_token.as_ref() {
            row.kind = TokenType::Unknown;
        }
    }
    rows.finish()
}

/// Gives the tokens the scores of `model`, unless its pieces are other tokens.
fn score_by_pieces(model: &SentencePiece, vocabulary: &mut Vocabulary) -> bool {
    let tokens = &mut vocabulary.tokens;
    let is_same =
        |(token, piece): (&Token, &Token)| token.kind.is_added() || token.text == piece.text;
    let rest_is_added = tokens
        .iter()
        .skip(model.pieces.len())
        .all(|token| token.kind.is_added() || token.kind == TokenType::Unused);
    if model.pieces.len() > tokens.len()
        || !rest_is_added
        || !tokens.iter().zip(&model.pieces).all(is_same)
    {
        return false;
    }
    let text = tokens.iter_mut().zip(&model.pieces).filter(|(token, _)| !token.kind.is_added());
    for (token, piece) in text {
        token.score = piece.score;
        if piece.kind == TokenType::Unused {
            token.kind = TokenType::Unused;
        }
    }
    true
}

/// The model `llama` from a `tokenizer.model` that stands alone.
fn sentence_pieces_alone(
    files: &TokenizerFiles,
    configs: &Configs,
    num_rows: usize,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<Vocabulary> {
    let failed = |source| files.failed(SENTENCE_PIECE, source);
    let bytes = files.sentencepiece.as_deref().unwrap_or_default();
    let model = SentencePiece::parse(bytes).map_err(failed)?;
    if !["", "identity"].contains(&model.normalization.as_str()) {
        let form = model.normalization;
        return Err(failed(TokenizerError::Normalizer { form }));
    }
    let mut rows = Rows::new(num_rows);
    for (id, mut piece) in model.pieces.into_iter().enumerate() {
        if piece.kind == TokenType::UserDefined {
            piece.text = piece.text.replace(SPACE, " ");
        }
        rows.put(id as u64, piece).map_err(failed)?;
    }
    if let Value::Object(added) = files.json(ADDED_TOKENS)? {
        for (text, id) in &added {
            if let Some(id) = id.as_u64() {
                rows.put_added(id, text, false).map_err(|e| files.failed(ADDED_TOKENS, e))?;
            }
        }
    }
    if let Some(added) = configs.tokenizer["added_tokens_decoder"].as_object() {
        for (id, token) in added {
            let (Ok(id), Some(text)) = (id.parse(), content(token)) else { continue };
            if rows.get(id).is_none_or(|old| old.kind != TokenType::Unknown) {
                rows.put_added(id, text, token["special"] == true)
                    .map_err(|e| files.failed(TOKENIZER_CONFIG, e))?;
            }
        }
    }
    let vocabulary = rows.finish().map_err(failed)?;
    notes.push(format!("{TOKENIZER} is missing; the tokenizer is that of {SENTENCE_PIECE}"));
    write_sentence_pieces(&vocabulary, model.add_dummy_prefix, metadata);
    Ok(vocabulary)
}

fn note_spaces(spaces: &Spaces, vocabulary: &Vocabulary, notes: &mut Vec<String>) {
    if spaces.prefix_once {
        notes.push(
            "llama.cpp puts a space behind every special token, the tokenizer before the text only"
                .to_owned(),
        );
    }
    let crosses = |token: &Token| {
        token.kind == TokenType::Normal && token.text.chars().skip(1).any(|c| SPACE.contains(c))
    };
    if spaces.split && vocabulary.tokens.iter().any(crosses) {
        notes.push(
            "llama.cpp builds tokens across spaces, where the tokenizer cuts the text first"
                .to_owned(),
        );
    }
}

fn write_sentence_pieces(vocabulary: &Vocabulary, prefix: bool, metadata: &mut Metadata) {
    metadata.set(MODEL_KEY, "llama");
    metadata.set(PRE_KEY, "default");
    metadata.set(ADD_PREFIX_KEY, &prefix);
    vocabulary.write(true, metadata);
}
