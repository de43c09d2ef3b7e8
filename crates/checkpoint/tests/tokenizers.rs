//! Tokenizers, from GGUF to a folder and back, against files that other code made.
//!
//! `fixtures/tokenizers/make.py` trained both and wrote each as a folder and as a GGUF file.
//! `scripts/check_tokenizers.py` compares ids on real ones.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::error::Error as _;
use std::path::{Path, PathBuf};

use checkpoint::gguf::tokenizer::{TokenizerFiles, TokenizerFolder, from_metadata, to_metadata};
use checkpoint::gguf::{Header, Metadata};
use checkpoint::{Error, Result};
use serde_json::{Value, json};

const BYTES_ROWS: usize = 304;
const PIECES_ROWS: usize = 400;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

fn metadata(name: &str) -> Metadata {
    Header::read(&fixture(name)).unwrap().metadata
}

fn folder_json(folder: &TokenizerFolder, name: &str) -> Value {
    let (_, text) = folder.files.iter().find(|(other, _)| *other == name).unwrap();
    serde_json::from_str(text).unwrap()
}

fn fixture_json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Merges as pairs, however they are written.
fn merges(tokenizer: &Value) -> Vec<(String, String)> {
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
    let pair = |merge: &Value| match merge {
        Value::String(line) => {
            let (left, right) = line.split_once(' ').unwrap();
            (left.to_owned(), right.to_owned())
        }
        pair => serde_json::from_value(pair.clone()).unwrap(),
    };
    merges.map(pair).collect()
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Everything under `tokenizer.` in a form that can be compared.
fn keys(metadata: &Metadata) -> Vec<(String, String)> {
    let keys = metadata.keys().filter(|key| key.starts_with("tokenizer."));
    let mut keys: Vec<_> = keys
        .map(|key| {
            let value = metadata.get(key).unwrap();
            let list = value.as_array().map(|array| array.iter().collect::<Vec<_>>());
            let text = list.map_or(format!("{value:?}"), |list| format!("{list:?}"));
            // The best score of all is 0, of either sign.
            (key.to_owned(), text.replace("F32(-0.0)", "F32(0.0)"))
        })
        .collect();
    keys.sort();
    keys
}

fn translated(files: &TokenizerFiles, num_rows: usize) -> Result<(Metadata, Vec<String>)> {
    let mut metadata = Metadata::new(Path::new("new.gguf"));
    let notes = to_metadata(files, num_rows, &mut metadata)?;
    Ok((metadata, notes))
}

#[test]
fn a_byte_level_tokenizer_becomes_the_folder_that_it_was() {
    let folder = from_metadata(&metadata("bytes.gguf"), BYTES_ROWS).unwrap();
    assert_eq!(folder.notes, Vec::<String>::new());
    let (found, expected) =
        (folder_json(&folder, "tokenizer.json"), fixture_json("bytes/tokenizer.json"));
    for key in ["added_tokens", "normalizer", "pre_tokenizer", "decoder"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    assert_eq!(merges(&found), merges(&expected));
    let mut vocab = expected["model"]["vocab"].clone();
    vocab["<think>"] = json!(300);
    assert_eq!(found["model"]["vocab"], vocab, "padding has no text");

    let config = folder_json(&folder, "tokenizer_config.json");
    let expected = fixture_json("bytes/tokenizer_config.json");
    for key in ["bos_token", "pad_token", "unk_token", "chat_template", "tokenizer_class"] {
        assert_eq!(config[key], expected[key], "{key}");
    }
    assert_eq!(config["eos_token"], "<|im_end|>");
    assert_eq!(config["added_tokens_decoder"]["300"]["special"], false);
    assert_eq!(
        folder_json(&folder, "generation_config.json"),
        json!({ "bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 2 })
    );
}

#[test]
fn a_byte_level_folder_becomes_the_keys_that_the_gguf_package_wrote() {
    let files = TokenizerFiles::read(&fixture("bytes")).unwrap();
    let (found, notes) = translated(&files, BYTES_ROWS).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(keys(&found), keys(&metadata("bytes.gguf")));
}

#[test]
fn pieces_become_the_folder_that_transformers_makes_of_them() {
    let folder = from_metadata(&metadata("pieces.gguf"), PIECES_ROWS).unwrap();
    let (found, expected) =
        (folder_json(&folder, "tokenizer.json"), fixture_json("pieces/tokenizer.json"));
    for key in ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    for key in ["vocab", "unk_token", "fuse_unk", "byte_fallback"] {
        assert_eq!(found["model"][key], expected["model"][key], "{key}");
    }
    // Merges into one token have one rank to SentencePiece; transformers orders them by length.
    let (found, expected) = (merges(&found), merges(&expected));
    let joined = |merges: &[(String, String)]| {
        let mut joined: Vec<_> = merges.iter().map(|(l, r)| format!("{l}{r}")).collect();
        joined.dedup();
        joined
    };
    assert_eq!(joined(&found), joined(&expected));
    let sorted = |mut merges: Vec<(String, String)>| {
        merges.sort();
        merges
    };
    assert_eq!(sorted(found), sorted(expected));
}

/// The keys of `pieces.gguf`, with the scores that tokens of no text get from llama.cpp's converter.
fn pieces_keys() -> Vec<(String, String)> {
    let mut expected = metadata("pieces.gguf");
    let key = "tokenizer.ggml.scores";
    let scores = expected.array(key).unwrap().unwrap();
    let mut scores: Vec<f32> = scores.iter().map(|value| value.as_f64().unwrap() as f32).collect();
    scores[..3].fill(-1000.0);
    expected.set(key, &scores);
    keys(&expected)
}

#[test]
fn a_folder_of_pieces_becomes_the_keys_that_the_gguf_package_wrote() {
    let mut files = TokenizerFiles::read(&fixture("pieces")).unwrap();
    assert!(files.sentencepiece.is_some());
    let (found, notes) = translated(&files, PIECES_ROWS).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(keys(&found), pieces_keys());

    // Without tokenizer.model the scores follow the merges, which are in the order of its scores.
    files.sentencepiece = None;
    let (found, notes) = translated(&files, PIECES_ROWS).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(keys(&found), pieces_keys());
}

#[test]
fn a_sentencepiece_model_alone_is_enough() {
    let mut files = TokenizerFiles::read(&fixture("pieces")).unwrap();
    files.texts.remove("tokenizer.json");
    let (found, notes) = translated(&files, PIECES_ROWS).unwrap();
    assert!(notes[0].contains("tokenizer.json is missing"), "{notes:?}");
    let expected = metadata("pieces.gguf");
    for key in
        ["tokens", "scores", "token_type", "add_space_prefix", "bos_token_id", "eos_token_id"]
    {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(found.get(&key), expected.get(&key), "{key}");
    }
}

#[track_caller]
fn check_there_and_back(name: &str, num_rows: usize) {
    let first = from_metadata(&metadata(name), num_rows).unwrap();
    let files = TokenizerFiles {
        texts: first.files.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect(),
        ..TokenizerFiles::default()
    };
    let (there, _) = translated(&files, num_rows).unwrap();
    assert_eq!(from_metadata(&there, num_rows).unwrap().files, first.files);
}

#[test]
fn folders_go_there_and_back() {
    check_there_and_back("bytes.gguf", BYTES_ROWS);
    check_there_and_back("pieces.gguf", PIECES_ROWS);
}

#[test]
fn a_text_may_end_with_eos() {
    let mut metadata = metadata("pieces.gguf");
    metadata.set("tokenizer.ggml.add_eos_token", &true);
    metadata.set("tokenizer.ggml.add_space_prefix", &false);
    let folder = from_metadata(&metadata, PIECES_ROWS).unwrap();
    let tokenizer = folder_json(&folder, "tokenizer.json");
    let single = tokenizer["post_processor"]["single"].as_array().unwrap();
    assert_eq!(single[0]["SpecialToken"]["id"], "<s>");
    assert_eq!(single[2]["SpecialToken"]["id"], "</s>");
    assert_eq!(tokenizer["normalizer"]["type"], "Replace");

    let mut files = TokenizerFiles::default();
    files.texts.insert("tokenizer.json".to_owned(), tokenizer.to_string());
    let (back, notes) = translated(&files, PIECES_ROWS).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    for (key, expected) in [("bos_token_id", 1), ("eos_token_id", 2)] {
        assert_eq!(back.u64(&format!("tokenizer.ggml.{key}")).unwrap(), Some(expected), "{key}");
    }
    assert_eq!(back.bool("tokenizer.ggml.add_eos_token").unwrap(), Some(true));
    assert_eq!(back.bool("tokenizer.ggml.add_space_prefix").unwrap(), Some(false));
}

#[test]
fn merges_stand_in_for_scores_that_say_nothing() {
    let mut metadata = metadata("pieces.gguf");
    let expected = from_metadata(&metadata, PIECES_ROWS).unwrap().files;
    let merges = merges(&serde_json::from_str(&expected[0].1).unwrap());
    let lines: Vec<String> = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
    metadata.set("tokenizer.ggml.merges", &lines);
    metadata.set("tokenizer.ggml.scores", &vec![-1000_f32; PIECES_ROWS]);
    assert_eq!(from_metadata(&metadata, PIECES_ROWS).unwrap().files, expected);
}

#[test]
fn a_piece_that_is_found_first_is_written_with_its_spaces() {
    let mut files = TokenizerFiles::read(&fixture("pieces")).unwrap();
    let mut tokenizer = fixture_json("pieces/tokenizer.json");
    let text = tokenizer["model"]["merges"][1].as_array().unwrap().clone();
    let text = text.iter().map(|part| part.as_str().unwrap()).collect::<String>();
    let id = tokenizer["model"]["vocab"][&text].clone();
    let added = json!({ "id": id, "content": text, "special": false });
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    files.texts.insert("tokenizer.json".to_owned(), tokenizer.to_string());
    let (metadata, _) = translated(&files, PIECES_ROWS).unwrap();
    let id = usize::try_from(id.as_u64().unwrap()).unwrap();
    let value = |key: &str| metadata.array(key).unwrap().unwrap().iter().nth(id).unwrap();
    assert_eq!(text, "▁th");
    assert_eq!(value("tokenizer.ggml.tokens").as_str(), Some(" th"));
    assert_eq!(value("tokenizer.ggml.token_type").as_u64(), Some(4));
}

#[test]
fn tokens_that_only_the_config_names_are_kept() {
    let mut files = TokenizerFiles::read(&fixture("bytes")).unwrap();
    let mut config = fixture_json("bytes/tokenizer_config.json");
    config["added_tokens_decoder"] = json!({ "302": { "content": "<late>", "special": true } });
    files.texts.insert("tokenizer_config.json".to_owned(), config.to_string());
    let (metadata, _) = translated(&files, BYTES_ROWS).unwrap();
    let tokens = metadata.array("tokenizer.ggml.tokens").unwrap().unwrap();
    let tail: Vec<_> = tokens.iter().skip(300).map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tail, ["<think>", "[PAD301]", "<late>", "[PAD303]"]);
}

#[test]
fn no_tokenizer_is_a_note_on_both_ways() {
    let (none, notes) = translated(&TokenizerFiles::default(), 10).unwrap();
    assert!(notes[0].contains("no tokenizer"), "{notes:?}");
    assert_eq!(none.str("tokenizer.ggml.model").unwrap(), Some("none"));
    let folder = from_metadata(&none, 10).unwrap();
    assert!(folder.files.is_empty());
    assert!(folder.notes[0].contains("no tokenizer"), "{:?}", folder.notes);
}

#[track_caller]
fn check_gguf_refused(name: &str, edit: fn(&mut Metadata), expected: &str) {
    let mut metadata = metadata(name);
    let num_rows = if name == "bytes.gguf" { BYTES_ROWS } else { PIECES_ROWS };
    edit(&mut metadata);
    let error = with_causes(&from_metadata(&metadata, num_rows).unwrap_err());
    assert!(error.contains(expected), "{error}");
    assert!(error.contains(name), "{error}");
}

#[test]
fn gguf_files_that_cannot_be_translated_are_refused() {
    let check = check_gguf_refused;
    check("bytes.gguf", |m| m.set("tokenizer.ggml.model", "bert"), "its model is `bert`");
    check("bytes.gguf", |m| m.set("tokenizer.ggml.pre", "kimi-k2"), "pre-tokenizer is `kimi-k2`");
    check(
        "bytes.gguf",
        |m| m.remove(|key| key == "tokenizer.ggml.pre"),
        "lacks the key `tokenizer.ggml.pre`",
    );
    check(
        "bytes.gguf",
        |m| m.remove(|key| key == "tokenizer.ggml.merges"),
        "lacks the key `tokenizer.ggml.merges`",
    );
    check(
        "bytes.gguf",
        |m| m.set("tokenizer.ggml.merges", &vec!["t h".to_owned(), "th q".to_owned()]),
        "merge 1 is \"th q\", and \"thq\" is no token",
    );
    check(
        "bytes.gguf",
        |m| m.set("tokenizer.ggml.merges", &vec!["th".to_owned()]),
        "expected pairs of tokens",
    );
    check("bytes.gguf", |m| m.set("tokenizer.ggml.add_bos_token", "yes"), "expected a bool");
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.scores", &vec![-1000_f32; PIECES_ROWS]),
        "has one value for all tokens",
    );
    check(
        "pieces.gguf",
        |m| m.remove(|key| key == "tokenizer.ggml.scores"),
        "lacks the key `tokenizer.ggml.scores`",
    );
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.scores", &vec![f32::NAN; PIECES_ROWS]),
        "expected an array of numbers",
    );
    check(
        "pieces.gguf",
        |m| {
            m.remove(|key| key == "tokenizer.ggml.bos_token_id");
            m.set("tokenizer.ggml.token_type", &vec![1; PIECES_ROWS]);
        },
        "lacks the key `tokenizer.ggml.bos_token_id`",
    );
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused() {
    let error = from_metadata(&metadata("bytes.gguf"), 300).unwrap_err();
    assert_eq!(
        error.source().unwrap().to_string(),
        "it has 304 tokens, but the embedding has 300 rows"
    );
    let check = check_gguf_refused;
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.token_type", &vec![1; 399]),
        "`tokenizer.ggml.token_type` has 399 values, but there are 400 tokens",
    );
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.scores", &vec![1.0_f32; 401]),
        "`tokenizer.ggml.scores` has 401 values, but there are 400 tokens",
    );
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.token_type", &vec![7; PIECES_ROWS]),
        "token 0 has the type 7",
    );
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.eos_token_id", &400_u32),
        "`tokenizer.ggml.eos_token_id` has the id 400, but there are 400 tokens",
    );
    check(
        "pieces.gguf",
        |m| m.set("tokenizer.ggml.tokens", &vec!["a".to_owned(); PIECES_ROWS]),
        "the token \"a\" has the ids 0 and 1",
    );
    check(
        "pieces.gguf",
        |m| m.remove(|key| key == "tokenizer.ggml.tokens"),
        "lacks the key `tokenizer.ggml.tokens`",
    );
}

#[track_caller]
fn check_folder_refused(name: &str, edit: fn(&mut Value), expected: &str) {
    let mut files = TokenizerFiles::read(&fixture(name)).unwrap();
    let mut tokenizer = fixture_json(&format!("{name}/tokenizer.json"));
    edit(&mut tokenizer);
    files.texts.insert("tokenizer.json".to_owned(), tokenizer.to_string());
    let num_rows = if name == "bytes" { BYTES_ROWS } else { PIECES_ROWS };
    let error = with_causes(&translated(&files, num_rows).unwrap_err());
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn folders_that_llama_cpp_has_no_words_for_are_refused() {
    let check = check_folder_refused;
    check("bytes", |t| t["model"]["type"] = json!("Unigram"), "its model is `Unigram`");
    check(
        "bytes",
        |t| t["pre_tokenizer"]["pretokenizers"][0]["type"] = json!("Whitespace"),
        "no name for its pre_tokenizer {\"type\":\"Sequence\"",
    );
    check("bytes", |t| t["normalizer"] = json!({ "type": "Lowercase" }), "its normalizer does");
    check("bytes", |t| t["model"]["end_of_word_suffix"] = json!("</w>"), "`end_of_word_suffix`");
    check("bytes", |t| t["model"]["dropout"] = json!(0.1), "`dropout`");
    check("bytes", |t| t["model"]["merges"] = json!(["th"]), "the merge \"th\" has no space");
    check("bytes", |t| t["model"]["merges"] = json!(["q q"]), "merge 0 is \"q q\"");
    check("bytes", |t| t["model"] = json!("BPE"), "is not a JSON object");
    check("bytes", |t| t["model"]["vocab"]["z"] = json!(304), "the token \"z\" has the id 304");
    check("bytes", |t| t["model"]["vocab"]["zz"] = json!(7), "the id 7 is both");
    check("bytes", |t| t["added_tokens"][3]["id"] = json!(299), "the id 299 is both");
    check(
        "bytes",
        |t| {
            t["model"]["ignore_merges"] = json!(true);
            t["model"]["merges"].as_array_mut().unwrap().truncate(1);
        },
        "`ignore_merges` is true, but false",
    );
    check("pieces", |t| t["normalizer"] = json!({ "type": "NFKC" }), "its normalizer does");
    check("pieces", |t| t["normalizer"] = Value::Null, "no name for its pre_tokenizer null");
    check("pieces", |t| t["model"]["byte_fallback"] = json!(false), "neither is byte-level");
}

#[test]
fn other_broken_files_of_a_folder_are_refused() {
    let mut files = TokenizerFiles::read(&fixture("pieces")).unwrap();
    files.sentencepiece = Some(b"<html>".to_vec());
    let error = with_causes(&translated(&files, PIECES_ROWS).unwrap_err());
    assert!(error.contains("no SentencePiece model"), "{error}");
    files.sentencepiece = None;

    let config = "tokenizer_config.json".to_owned();
    files.texts.insert(config.clone(), r#"{"chat_template": 3}"#.to_owned());
    let error = with_causes(&translated(&files, PIECES_ROWS).unwrap_err());
    assert!(error.contains("`chat_template`"), "{error}");

    files.texts.insert(config, "{".to_owned());
    assert!(matches!(translated(&files, PIECES_ROWS), Err(Error::Json { .. })));

    let files = TokenizerFiles { other_form: Some("vocab.json".to_owned()), ..Default::default() };
    let error = with_causes(&translated(&files, PIECES_ROWS).unwrap_err());
    assert!(error.contains("vocab.json"), "{error}");
}

/// `pieces` with its tokenizer.json edited, and what is said of it.
#[track_caller]
fn check_noted(edit: fn(&mut Value), expected: &str) -> Metadata {
    let mut files = TokenizerFiles::read(&fixture("pieces")).unwrap();
    let mut tokenizer = fixture_json("pieces/tokenizer.json");
    edit(&mut tokenizer);
    files.texts.insert("tokenizer.json".to_owned(), tokenizer.to_string());
    let (metadata, notes) = translated(&files, PIECES_ROWS).unwrap();
    assert!(notes.iter().any(|note| note.contains(expected)), "{notes:?}");
    metadata
}

#[test]
fn what_llama_cpp_does_otherwise_is_noted() {
    let metaspace = |t: &mut Value| {
        t["normalizer"] = Value::Null;
        t["pre_tokenizer"] = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false,
        });
    };
    let metadata = check_noted(metaspace, "behind every special token");
    assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix").unwrap(), Some(true));
    check_noted(|t| t["added_tokens"][2]["rstrip"] = json!(true), "the token \"</s>\"");
    check_noted(|t| t["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("</s>"), "</s>");
    let other_vocabulary = |t: &mut Value| {
        let vocab = t["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("e").unwrap();
        vocab.insert("ẽ".to_owned(), id);
        let merges = t["model"]["merges"].as_array_mut().unwrap();
        merges.retain(|merge| !merge.to_string().contains('e'));
    };
    check_noted(other_vocabulary, "has other tokens than tokenizer.json");
}

#[test]
fn templates_in_files_of_their_own_come_first() {
    let mut files = TokenizerFiles::read(&fixture("bytes")).unwrap();
    files.texts.insert("chat_template.jinja".to_owned(), "new".to_owned());
    files.texts.insert("additional_chat_templates/tool-use.jinja".to_owned(), "tools".to_owned());
    let (metadata, _) = translated(&files, BYTES_ROWS).unwrap();
    assert_eq!(metadata.str("tokenizer.chat_template").unwrap(), Some("new"));
    assert_eq!(metadata.str("tokenizer.chat_template.tool_use").unwrap(), Some("tools"));
}
