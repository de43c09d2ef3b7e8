//! A GGUF file's tokenizer as the files of a Hugging Face folder.

use serde_json::{Map, Value, json};

use super::chat_template::ChatTemplates;
use super::error::TokenizerError;
use super::merges::{self, Merge};
use super::pre_tokenizer::PreTokenizer;
use super::special_tokens::{Defaults, SpecialTokens};
use super::vocabulary::{SCORES_KEY, TokenType, Vocabulary};
use super::{ADD_PREFIX_KEY, MODEL_KEY, PRE_KEY, REMOVE_SPACES_KEY, SPACE};
use crate::error::{Error, Result};
use crate::gguf::metadata::Metadata;

/// A tokenizer as files, and what is worth knowing of it.
#[derive(Debug, Default)]
pub struct TokenizerFolder {
    /// Names and contents.
    pub files: Vec<(&'static str, String)>,
    /// What was left out, and what may surprise; a sentence each, without full stop.
    pub notes: Vec<String>,
}

/// Makes the files of a Hugging Face folder from the tokenizer in `metadata`.
///
/// `num_rows` is the number of rows of the embedding, each of which must have its token. The files
/// are `tokenizer.json`, `tokenizer_config.json` (with the chat template), `special_tokens_map.json`
/// and `generation_config.json`. A file without a tokenizer gives none, and a note that says so.
pub fn from_metadata(metadata: &Metadata, num_rows: usize) -> Result<TokenizerFolder> {
    let failed = |source| Error::Tokenizer { path: metadata.path().to_owned(), source };
    let missing = |key| failed(TokenizerError::KeyMissing { key });
    let has_keys = metadata.keys().any(|key| key.starts_with("tokenizer.ggml."));
    let model = metadata.str(MODEL_KEY)?.or_else(|| (!has_keys).then_some("none"));
    match model.ok_or_else(|| missing(MODEL_KEY))? {
        "llama" => sentence_pieces(metadata, num_rows),
        "gpt2" => {
            let name = metadata.str(PRE_KEY)?.ok_or_else(|| missing(PRE_KEY))?;
            byte_level(metadata, num_rows, PreTokenizer::named(name).map_err(failed)?)
        }
        "none" | "no_vocab" => Ok(TokenizerFolder {
            files: Vec::new(),
            notes: vec!["the GGUF file has no tokenizer, so the folder has none".to_owned()],
        }),
        found => Err(failed(TokenizerError::Model {
            found: found.to_owned(),
            known: "llama, gpt2 and none",
        })),
    }
}

/// The model `gpt2`: bytes, written as letters, are merged within words.
fn byte_level(
    metadata: &Metadata,
    num_rows: usize,
    pre_tokenizer: &PreTokenizer,
) -> Result<TokenizerFolder> {
    let mut vocabulary = Vocabulary::of_metadata(metadata, num_rows)?;
    let defaults = Defaults { roles: &[], add_bos: pre_tokenizer.add_bos };
    let special = SpecialTokens::of_metadata(metadata, &defaults, &mut vocabulary)?;
    let merges = merges::of_metadata(metadata, &vocabulary)?.ok_or_else(|| {
        let source = TokenizerError::KeyMissing { key: merges::MERGES_KEY };
        Error::Tokenizer { path: metadata.path().to_owned(), source }
    })?;
    // What is said of spaces and the regex is not heeded here, but it is how these are published.
    let bytes = |trim_offsets: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": trim_offsets,
            "use_regex": true,
        })
    };
    let post_processor = match template(&special, &vocabulary) {
        Value::Null => bytes(false),
        template => json!({ "type": "Sequence", "processors": [bytes(false), template] }),
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&vocabulary),
        "normalizer": if pre_tokenizer.nfc { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer.form(),
        "post_processor": post_processor,
        "decoder": bytes(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre_tokenizer.ignore_merges,
            "vocab": ids(&vocabulary),
            "merges": list(merges),
        },
    });
    folder(metadata, &tokenizer, &vocabulary, &special, Vec::new())
}

/// The model `llama`: text with `▁` for spaces is merged by scores, and what is left are bytes.
fn sentence_pieces(metadata: &Metadata, num_rows: usize) -> Result<TokenizerFolder> {
    let failed = |source| Error::Tokenizer { path: metadata.path().to_owned(), source };
    let mut vocabulary = Vocabulary::of_metadata(metadata, num_rows)?;
    let defaults = Defaults { roles: &[("bos", 1), ("eos", 2), ("unk", 0)], add_bos: true };
    let special = SpecialTokens::of_metadata(metadata, &defaults, &mut vocabulary)?;
    let has_scores = metadata.array(SCORES_KEY)?.is_some();
    let merges = if has_scores && merges::scores_say_something(&vocabulary) {
        merges::of_scores(&vocabulary)
    } else if let Some(merges) = merges::of_metadata(metadata, &vocabulary)? {
        merges
    } else if has_scores {
        let what = format!(
            "`{SCORES_KEY}` has one value for all tokens, which does not say in which order they \
             are merged"
        );
        return Err(failed(TokenizerError::NotTranslated { what }));
    } else {
        return Err(failed(TokenizerError::KeyMissing { key: SCORES_KEY }));
    };
    let mut notes = Vec::new();
    if metadata.bool(REMOVE_SPACES_KEY)? == Some(true) {
        notes.push(format!(
            "`{REMOVE_SPACES_KEY}` is set; llama.cpp does not heed it for the model `llama`, and \
             nor does tokenizer.json"
        ));
    }
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let unspaces = json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " });
    let (normalizer, decoders) = if metadata.bool(ADD_PREFIX_KEY)?.unwrap_or(true) {
        (
            json!({
                "type": "Sequence",
                "normalizers": [{ "type": "Prepend", "prepend": SPACE }, spaces],
            }),
            json!([
                unspaces,
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ]),
        )
    } else {
        (spaces, json!([unspaces, { "type": "ByteFallback" }, { "type": "Fuse" }]))
    };
    let unknown = special.role("unk").map(|id| vocabulary.tokens[id].text.clone());
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": template(&special, &vocabulary),
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": ids(&vocabulary),
            "merges": list(merges),
        },
    });
    folder(metadata, &tokenizer, &vocabulary, &special, notes)
}

/// The files around `tokenizer`, which is the content of `tokenizer.json`.
fn folder(
    metadata: &Metadata,
    tokenizer: &Value,
    vocabulary: &Vocabulary,
    special: &SpecialTokens,
    notes: Vec<String>,
) -> Result<TokenizerFolder> {
    let mut config = json!({
        "add_bos_token": special.add_bos,
        "add_eos_token": special.add_eos,
        "added_tokens_decoder": added_tokens_decoder(vocabulary),
        "clean_up_tokenization_spaces": false,
        "model_max_length": model_max_length(metadata)?,
        // Any other class makes transformers 5 put its own normalizer in place of tokenizer.json's.
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let mut names = Map::new();
    for &(role, id) in &special.roles {
        names.insert(format!("{role}_token"), json!(vocabulary.tokens[id].text));
    }
    for (key, text) in &names {
        config[key] = text.clone();
    }
    if let Some(templates) = ChatTemplates::of_metadata(metadata)?.config() {
        config["chat_template"] = templates;
    }
    if let Value::Object(entries) = &mut config {
        entries.sort_keys();
    }
    let mut files = vec![
        ("tokenizer.json", text(tokenizer)),
        ("tokenizer_config.json", text(&config)),
        ("special_tokens_map.json", text(&Value::Object(names))),
    ];
    let generation = generation_config(special);
    if !generation.is_empty() {
        files.push(("generation_config.json", text(&Value::Object(generation))));
    }
    Ok(TokenizerFolder { files, notes })
}

/// As much text as the model was made for; Hugging Face's number for "no end" if nothing says.
fn model_max_length(metadata: &Metadata) -> Result<Value> {
    let architecture = metadata.str("general.architecture")?.unwrap_or_default();
    let length = metadata.u64(&format!("{architecture}.context_length"))?;
    Ok(length.map_or(json!(1e30), Value::from))
}

/// What `generate` must know: where to begin, and where to end.
fn generation_config(special: &SpecialTokens) -> Map<String, Value> {
    let mut config = Map::new();
    for role in ["bos", "eos", "pad"] {
        let Some(id) = special.role(role) else { continue };
        let id = if role == "eos" && !special.other_stops.is_empty() {
            let mut stops = vec![id];
            stops.extend(&special.other_stops);
            json!(stops)
        } else {
            json!(id)
        };
        config.insert(format!("{role}_token_id"), id);
    }
    config
}

/// What puts BOS and EOS around a text, or `null` where neither is wanted.
fn template(special: &SpecialTokens, vocabulary: &Vocabulary) -> Value {
    let wanted = |role, add: bool| special.role(role).filter(|_| add);
    let (bos, eos) = (wanted("bos", special.add_bos), wanted("eos", special.add_eos));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let name = |id: usize| vocabulary.tokens[id].text.as_str();
    let around = |sequence: &str, type_id: usize| {
        let token = |id| json!({ "SpecialToken": { "id": name(id), "type_id": type_id } });
        let mut parts: Vec<Value> = bos.map(token).into_iter().collect();
        parts.push(json!({ "Sequence": { "id": sequence, "type_id": type_id } }));
        parts.extend(eos.map(token));
        parts
    };
    let mut tokens = Map::new();
    for id in [bos, eos].into_iter().flatten() {
        let token = json!({ "id": name(id), "ids": [id], "tokens": [name(id)] });
        tokens.insert(name(id).to_owned(), token);
    }
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}

/// The ids of all tokens that have a text.
fn ids(vocabulary: &Vocabulary) -> Map<String, Value> {
    let tokens = vocabulary.tokens.iter().enumerate();
    let tokens = tokens.filter(|&(id, _)| !vocabulary.is_padding(id));
    tokens.map(|(id, token)| (token.text.clone(), json!(id))).collect()
}

/// Merges as strings, or as pairs (which older readers do not know) where a token has a space.
fn list(merges: Vec<Merge>) -> Value {
    if merges.iter().any(|(left, right)| left.contains(' ') || right.contains(' ')) {
        return json!(merges);
    }
    merges.into_iter().map(|(left, right)| Value::from(format!("{left} {right}"))).collect()
}

fn added_tokens(vocabulary: &Vocabulary) -> Vec<Value> {
    let with_id = |(id, mut token): (usize, Map<String, Value>)| {
        token.shift_insert(0, "id".to_owned(), json!(id));
        Value::Object(token)
    };
    added(vocabulary).map(with_id).collect()
}

fn added_tokens_decoder(vocabulary: &Vocabulary) -> Map<String, Value> {
    added(vocabulary).map(|(id, token)| (id.to_string(), Value::Object(token))).collect()
}

fn added(vocabulary: &Vocabulary) -> impl Iterator<Item = (usize, Map<String, Value>)> {
    let tokens = vocabulary.tokens.iter().enumerate();
    tokens.filter(|(_, token)| token.kind.is_added()).map(|(id, token)| {
        let mut entry = Map::new();
        entry.insert("content".to_owned(), json!(token.text));
        for flag in ["single_word", "lstrip", "rstrip", "normalized"] {
            entry.insert(flag.to_owned(), json!(false));
        }
        entry.insert("special".to_owned(), json!(token.kind != TokenType::UserDefined));
        (id, entry)
    })
}

fn text(value: &Value) -> String {
    format!("{value:#}\n")
}
