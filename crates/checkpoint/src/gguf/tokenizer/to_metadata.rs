//! The tokenizer of a Hugging Face folder as keys of a GGUF file, as llama.cpp reads them.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chat_template::ChatTemplates;
use super::error::TokenizerError;
use super::merges;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::SentencePiece;
use super::special_tokens::{OTHER_STOPS, ROLES, SpecialTokens};
use super::tokenizer_json::{Spaces, TokenizerJson};
use super::vocabulary::{Token, TokenType, Vocabulary, padding_text};
use super::{ADD_PREFIX_KEY, MODEL_KEY, PRE_KEY, SPACE};
use crate::error::{Error, Result};
use crate::gguf::metadata::Metadata;

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const SENTENCE_PIECE: &str = "tokenizer.model";
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// All that is read as text.
const TEXTS: &[&str] = &[
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    GENERATION_CONFIG,
    CONFIG,
    ADDED_TOKENS,
    CHAT_TEMPLATE,
];

/// Tokenizers in other forms, which are not read.
const OTHER_FORMS: &[&str] = &["vocab.json", "tekken.json", "vocab.txt", "spiece.model"];

/// The tokenizer files of a folder, as far as they are there.
#[derive(Debug, Default)]
pub struct TokenizerFiles {
    /// The folder, which errors name.
    pub dir: PathBuf,
    /// Contents by name.
    pub texts: BTreeMap<String, String>,
    /// `tokenizer.model`.
    pub sentencepiece: Option<Vec<u8>>,
    /// A file with a tokenizer in a form that is not read.
    pub other_form: Option<String>,
}

impl TokenizerFiles {
    /// Reads what `dir` has.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut files = Self { dir: dir.to_owned(), ..Self::default() };
        for &name in TEXTS {
            if let Some(text) = read_if_there(&dir.join(name), fs::read_to_string)? {
                files.texts.insert(name.to_owned(), text);
            }
        }
        for entry in dir.join(MORE_TEMPLATES).read_dir().into_iter().flatten() {
            let path = entry.map_err(|e| Error::io(dir, "listed", e))?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                if name.ends_with(".jinja") {
                    let text = fs::read_to_string(&path);
                    let text = text.map_err(|e| Error::io(&path, "read", e))?;
                    files.texts.insert(format!("{MORE_TEMPLATES}/{name}"), text);
                }
            }
        }
        files.sentencepiece = read_if_there(&dir.join(SENTENCE_PIECE), fs::read)?;
        let is_there = |name: &&&str| dir.join(name).exists();
        files.other_form = OTHER_FORMS.iter().find(is_there).map(|&name| name.to_owned());
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn json(&self, name: &str) -> Result<Value> {
        let Some(text) = self.texts.get(name) else { return Ok(Value::Null) };
        serde_json::from_str(text).map_err(|source| Error::Json { path: self.path(name), source })
    }

    fn failed(&self, name: &str, source: TokenizerError) -> Error {
        Error::Tokenizer { path: self.path(name), source }
    }
}

fn read_if_there<T>(
    path: &Path,
    read: impl FnOnce(PathBuf) -> std::io::Result<T>,
) -> Result<Option<T>> {
    match read(path.to_owned()) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "read", e)),
    }
}

/// The JSON files beside `tokenizer.json`; `null` where they are missing.
struct Configs {
    tokenizer: Value,
    special_tokens: Value,
    generation: Value,
    model: Value,
}

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
    let mut configs = Configs {
        tokenizer: files.json(TOKENIZER_CONFIG)?,
        special_tokens: files.json(SPECIAL_TOKENS_MAP)?,
        generation: files.json(GENERATION_CONFIG)?,
        model: files.json(CONFIG)?,
    };
    // The text model of one that sees or hears.
    if let Some(text) = configs.model.get("text_config").filter(|text| text.is_object()) {
        configs.model = text.clone();
    }
    metadata.remove(|key| key.starts_with("tokenizer."));
    let mut notes = Vec::new();
    let (vocabulary, around) = match files.texts.get(TOKENIZER) {
        Some(text) => {
            let tokenizer = TokenizerJson::parse(&files.path(TOKENIZER), text)?;
            note_flags(&tokenizer, &mut notes);
            let vocabulary = if tokenizer.is_byte_level() {
                byte_level(&tokenizer, num_rows, metadata, &mut notes)
                    .map_err(|source| files.failed(TOKENIZER, source))?
            } else {
                sentence_pieces(files, &tokenizer, num_rows, metadata, &mut notes)?
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
    let special = special_tokens(files, &configs, &vocabulary, around, &mut notes)?;
    special.write(metadata);
    chat_templates(files, &configs)?.write(metadata);
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

/// Rows of the embedding that get their tokens one by one.
struct Rows(Vec<Option<Token>>);

impl Rows {
    fn new(num_rows: usize) -> Self {
        Self(vec![None; num_rows])
    }

    fn put(&mut self, id: u64, token: Token) -> Result<(), TokenizerError> {
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
    fn put_all(&mut self, vocab: &[(String, u64)]) -> Result<(), TokenizerError> {
        for (text, id) in vocab {
            if let Some(first) = self.0.get(*id as usize).and_then(Option::as_ref) {
                let (first, second) = (first.text.clone(), text.clone());
                return Err(TokenizerError::IdTwice { id: *id as usize, first, second });
            }
            let token_type = TokenType::Normal;
            self.put(*id, Token { text: text.clone(), token_type, score: 0.0 })?;
        }
        Ok(())
    }

    /// Puts a token that is found before the text is cut: invisible if it is `special`.
    fn put_added(&mut self, id: u64, text: &str, special: bool) -> Result<(), TokenizerError> {
        let mut token =
            Token { text: text.to_owned(), token_type: TokenType::Control, score: -1000.0 };
        if let Some(old) = self.0.get(id as usize).and_then(Option::as_ref) {
            if old.text != text {
                let (first, second) = (old.text.clone(), text.to_owned());
                return Err(TokenizerError::IdTwice { id: id as usize, first, second });
            }
        }
        if !special && !looks_special(text) {
            token.token_type = TokenType::UserDefined;
            // llama.cpp looks for these in the text as it was given.
            token.text = text.replace(SPACE, " ");
        }
        self.put(id, token)
    }

    fn finish(self) -> Result<Vocabulary, TokenizerError> {
        let rows = self.0.into_iter().enumerate();
        let tokens = rows.map(|(id, row)| {
            row.unwrap_or_else(|| Token {
                text: padding_text(id),
                token_type: TokenType::Unused,
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

/// The model `gpt2`.
fn byte_level(
    tokenizer: &TokenizerJson,
    num_rows: usize,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<Vocabulary, TokenizerError> {
    let mut rows = Rows::new(num_rows);
    rows.put_all(&tokenizer.model.vocab)?;
    for token in &tokenizer.added_tokens {
        rows.put_added(token.id, &token.content, token.special)?;
    }
    let vocabulary = rows.finish()?;
    let merges = &tokenizer.model.merges;
    merges::check(merges, &vocabulary)?;

    let nfc = tokenizer.is_nfc()?;
    let ignore_merges = tokenizer.model.ignore_merges;
    let names = PreTokenizer::of_form(&tokenizer.pre_tokenizer)?;
    let likeness = |entry: &&PreTokenizer| (entry.ignore_merges == ignore_merges, entry.nfc == nfc);
    // Of equally like ones the first, so that the order of the table decides.
    let best = names.into_iter().rev().max_by_key(|&entry| likeness(&entry));
    let best = best.expect("a form that is known has a name");
    if best.ignore_merges != ignore_merges {
        if let Some(text) = merges::unreachable(merges, &vocabulary) {
            let what = format!(
                "`ignore_merges` is {ignore_merges}, but {} for llama.cpp's pre-tokenizer `{}`; \
                 it would cut {text:?} in another way",
                best.ignore_merges, best.name
            );
            return Err(TokenizerError::NotTranslated { what });
        }
    }
    if nfc {
        notes.push("llama.cpp does not compose characters (NFC) as the tokenizer does".to_owned());
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
    num_rows: usize,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<Vocabulary> {
    let failed = |source| files.failed(TOKENIZER, source);
    let spaces = tokenizer.spaces().map_err(failed)?;
    let mut vocabulary = tokens_of_json(tokenizer, num_rows).map_err(failed)?;
    merges::check(&tokenizer.model.merges, &vocabulary).map_err(failed)?;
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
    write_sentence_pieces(&vocabulary, spaces.prefix, metadata);
    Ok(vocabulary)
}

fn tokens_of_json(
    tokenizer: &TokenizerJson,
    num_rows: usize,
) -> Result<Vocabulary, TokenizerError> {
    let mut rows = Rows::new(num_rows);
    rows.put_all(&tokenizer.model.vocab)?;
    for row in rows.0.iter_mut().flatten() {
        if is_byte(&row.text) {
            row.token_type = TokenType::Byte;
        }
    }
    for token in &tokenizer.added_tokens {
        rows.put_added(token.id, &token.content, token.special)?;
    }
    for row in rows.0.iter_mut().flatten() {
        if Some(&row.text) == tokenizer.model.unk_token.as_ref() {
            row.token_type = TokenType::Unknown;
        }
    }
    rows.finish()
}

/// Whether `text` is of the form `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Gives the tokens the scores of `model`, unless its pieces are other tokens.
fn score_by_pieces(model: &SentencePiece, vocabulary: &mut Vocabulary) -> bool {
    let tokens = &mut vocabulary.tokens;
    let is_same =
        |(token, piece): (&Token, &Token)| token.token_type.is_added() || token.text == piece.text;
    let rest_is_added = tokens
        .iter()
        .skip(model.pieces.len())
        .all(|token| token.token_type.is_added() || token.token_type == TokenType::Unused);
    if model.pieces.len() > tokens.len()
        || !rest_is_added
        || !tokens.iter().zip(&model.pieces).all(is_same)
    {
        return false;
    }
    for (token, piece) in tokens.iter_mut().zip(&model.pieces) {
        token.score = piece.score;
        if piece.token_type == TokenType::Unused {
            token.token_type = TokenType::Unused;
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
        if piece.token_type == TokenType::UserDefined {
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
            let is_unknown = rows.0.get(id as usize).and_then(Option::as_ref);
            let is_unknown = is_unknown.is_some_and(|old| old.token_type == TokenType::Unknown);
            if !is_unknown {
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
        token.token_type == TokenType::Normal
            && token.text.chars().skip(1).any(|c| SPACE.contains(c))
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

/// The text of a token that a config names, as a string or as an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Who plays which part; `around` are the tokens that the post-processor puts around a text.
fn special_tokens(
    files: &TokenizerFiles,
    configs: &Configs,
    vocabulary: &Vocabulary,
    around: Option<(Option<usize>, Option<usize>)>,
    notes: &mut Vec<String>,
) -> Result<SpecialTokens> {
    let num_tokens = vocabulary.tokens.len();
    let mut special = SpecialTokens::default();
    for (role, _) in ROLES {
        let key = format!("{role}_token");
        let text = content(&configs.tokenizer[&key]).or(content(&configs.special_tokens[&key]));
        let id = text.and_then(|text| vocabulary.id(text));
        let id = match id {
            Some(id) => Some(id),
            None => [(&configs.generation, GENERATION_CONFIG), (&configs.model, CONFIG)]
                .into_iter()
                .find_map(|(config, name)| {
                    Some((stops(&config[format!("{key}_id")]).next()?, name))
                })
                .map(|(id, name)| {
                    let what = format!("`{key}_id`");
                    let past_end = TokenizerError::IdPastEnd { what, id, num_tokens };
                    let fits = (id as usize) < num_tokens;
                    if fits { Ok(id as usize) } else { Err(files.failed(name, past_end)) }
                })
                .transpose()?,
        };
        special.roles.extend(id.map(|id| (role, id)));
    }
    let eos = special.role("eos");
    for id in stops(&configs.generation["eos_token_id"]).map(|id| id as usize) {
        if id < num_tokens && Some(id) != eos && !special.other_stops.contains(&id) {
            special.other_stops.push(id);
        }
    }
    if special.other_stops.len() > OTHER_STOPS.len() {
        for id in special.other_stops.drain(OTHER_STOPS.len()..) {
            let text = &vocabulary.tokens[id].text;
            notes.push(format!("GGUF has no key for one more token that ends a text, {text:?}"));
        }
    }
    let (first, last) = around.unwrap_or_default();
    let class = configs.tokenizer["tokenizer_class"].as_str().unwrap_or_default();
    // The classes of Llama's tokenizers put BOS before a text unless they are told not to.
    let by_class = around.is_none() && class.starts_with("Llama");
    let said = |key: &str| configs.tokenizer[key].as_bool();
    special.add_bos = special
        .role("bos")
        .is_some_and(|bos| said("add_bos_token").unwrap_or(first == Some(bos) || by_class));
    special.add_eos =
        special.role("eos").is_some_and(|eos| said("add_eos_token").unwrap_or(last == Some(eos)));
    for (what, id, role, added) in
        [("before", first, "bos", special.add_bos), ("behind", last, "eos", special.add_eos)]
    {
        if let Some(id) = id.filter(|&id| special.role(role) != Some(id) || !added) {
            let text = &vocabulary.tokens[id].text;
            notes.push(format!(
                "the post-processor puts {text:?} {what} a text, tokenizer_config.json does not say so; \
                 llama.cpp will not"
            ));
        }
    }
    Ok(special)
}

/// One id or several; what is no id is none.
fn stops(value: &Value) -> impl Iterator<Item = u64> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_u64)
}

/// Templates in files of their own take precedence, as in transformers.
fn chat_templates(files: &TokenizerFiles, configs: &Configs) -> Result<ChatTemplates> {
    let value = &configs.tokenizer["chat_template"];
    let mut templates = ChatTemplates::of_config(value).ok_or_else(|| Error::Key {
        path: files.path(TOKENIZER_CONFIG),
        key: "chat_template".to_owned(),
        expected: "a template, or a list of names and templates",
        found: value.to_string(),
    })?;
    for (name, text) in &files.texts {
        let name = name.strip_prefix(MORE_TEMPLATES).and_then(|name| name.strip_suffix(".jinja"));
        if let Some(name) = name {
            templates.set(name.trim_start_matches('/'), text.clone());
        }
    }
    if let Some(text) = files.texts.get(CHAT_TEMPLATE) {
        templates.set_default(text.clone());
    }
    Ok(templates)
}
