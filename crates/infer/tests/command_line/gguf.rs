//! GGUF files and quantised matrices on the command line.

use std::path::Path;

use testkit::gguf::{TinyGguf, Value};
use testkit::{Dtype, TinyModel, weights};

use crate::infer::{infer, program, said, tiny};

fn written(dir: &Path, model: &TinyGguf) -> String {
    let path = dir.join("tiny.gguf");
    model.write(&path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_has_its_own_tokenizer_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let extra_keys = vec![("tokenizer.ggml.eos_token_id", Value::U32(2))];
    let tokens = TinyGguf { has_tokens: true, vocab_size: 259, extra_keys, ..TinyGguf::default() };
    let file = written(dir.path(), &tokens);
    let found = infer(&["tokens", &file, "ab", "--json"]).done().json();
    // BOS, then the bytes of "▁ab".
    let ids = [1, 0xe2 + 3, 0x96 + 3, 0x81 + 3, u32::from(b'a') + 3, u32::from(b'b') + 3];
    assert_eq!(found["ids"], serde_json::json!(ids));
    let bias = ["--logit-bias", "2=1000000"];
    let said = infer(&["generate", &file, "ab", "--json", bias[0], bias[1]]).done().json();
    assert_eq!((&said["ids"], &said["stop"]), (&serde_json::json!([2]), &"eos".into()));
}

#[test]
fn without_a_tokenizer_tokens_come_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), &TinyGguf::default());
    infer(&["logits", &file, "ab"]).refused(&["tiny.gguf has no tokenizer", "hint: --ids"]);
    let found = infer(&["logits", &file, "--ids", "3,4", "--top", "2", "--json"]).done().json();
    assert_eq!(found["top"].as_array().unwrap().len(), 2);
}

#[test]
fn nor_need_they_one_that_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let extra_keys = vec![("tokenizer.ggml.model", Value::text("rwkv"))];
    let file = written(dir.path(), &TinyGguf { extra_keys, ..TinyGguf::default() });
    infer(&["logits", &file, "ab"]).refused(&["tiny.gguf cannot be translated", "rwkv"]);
    for command in ["logits", "generate", "score", "tokens"] {
        let said = infer(&[command, &file, "--ids", "3,4"]).done();
        assert!(said.stderr.contains("note: tokens have numbers only"), "{said:#?}");
        let quiet = infer(&[command, &file, "--ids", "3,4", "--quiet"]);
        assert!(command == "tokens" || quiet.done().stderr.is_empty());
    }
}

#[test]
fn quantising_says_what_becomes_of_rows_that_do_not_fit() {
    let logits = |more: &[&str]| {
        let mut args = vec!["logits", "MODEL", "--ids", "1,2,3", "--top", "1"];
        let model = tiny();
        args[1] = &model;
        args.extend(more);
        infer(&args).done()
    };
    let exact = logits(&[]);
    let q8_0 = logits(&["--quantize", "q8_0"]);
    assert_eq!(q8_0.stderr, "");
    let id = |stdout: &str| stdout.split_whitespace().next().unwrap().to_owned();
    assert_eq!(id(&q8_0.stdout), id(&exact.stdout));
    // Rows of 128 and 320 elements.
    let q4_k = logits(&["--quantize", "q4_k"]);
    let note = "226 of 226 matrices are quantised to q8_0: their rows are no whole blocks of 256";
    assert!(q4_k.stderr.contains(note), "{q4_k:#?}");
    assert_eq!(q4_k.stdout, q8_0.stdout);
}

#[test]
fn what_is_not_finite_is_not_quantised() {
    let model = TinyModel { dtype: Dtype::F32, hidden_size: 32, ..TinyModel::default() };
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    let mut tensors = model.tensors();
    let name = "model.layers.2.mlp.up_proj.weight";
    let (_, broken) = tensors.iter_mut().find(|(found, _)| found == name).unwrap();
    broken.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    weights::write(dir.path(), &tensors, None);
    let mut program = program();
    program.args(["logits", dir.path().to_str().unwrap(), "--ids", "3,4", "--quantize", "q8_0"]);
    let said = said(&program.env("RUST_BACKTRACE", "1").output().unwrap());
    let expected = format!("`{name}` cannot be quantised: not all of its numbers are finite");
    let said = said.refused(&[&expected]);
    assert_eq!(said.stderr.lines().count(), 2, "{said:#?}");
}
