//! `infer logits` and `infer tokens`.

use std::path::Path;

use serde_json::{Value, json};
use testkit::TinyModel;

use crate::infer::{data, infer, infer_with_stdin, tiny};

#[test]
fn the_best_tokens_are_those_of_transformers() {
    let Some(path) = data("tiny-mistral-32l.reference.json") else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for prompt in reference["prompts"].as_array().unwrap() {
        let text = prompt["text"].as_str().unwrap();
        let said = infer(&["logits", &tiny(), text, "--top", "10", "--json"]).done();
        let top = &said.json()["top"];
        let expected = prompt["last_logits_top10"].as_array().unwrap();
        assert_eq!(top.as_array().unwrap().len(), 10);
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(top[i][0], expected[0], "{text}");
            let difference = top[i][1].as_f64().unwrap() - expected[1].as_f64().unwrap();
            assert!(difference.abs() <= 1e-3, "{text}: {difference}");
        }
        let tokens = infer(&["tokens", &tiny(), text, "--json"]).done().json();
        assert_eq!(tokens["ids"], prompt["ids"], "{text}");
    }
}

#[test]
fn a_prompt_comes_as_an_argument_as_ids_from_a_file_or_from_stdin() {
    let expected = infer(&["logits", &tiny(), "In the beginning", "--json"]).done().stdout;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ids.txt");
    std::fs::write(&file, "[1, 1035, 384,\n 446, 1565, 1270]\n").unwrap();
    let at = format!("@{}", file.display());
    for ids in ["1,1035,384,446,1565,1270", &at] {
        assert_eq!(infer(&["logits", &tiny(), "--ids", ids, "--json"]).done().stdout, expected);
    }
    let said = infer_with_stdin(&["logits", &tiny(), "--json"], "In the beginning\n");
    assert_eq!(said.done().stdout, expected);
}

#[test]
fn people_get_lines() {
    let said = infer(&["logits", &tiny(), "In the beginning", "--top", "2"]).done();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("    393   13.339") && lines[0].ends_with("▁of"), "{lines:?}");
    let said = infer(&["tokens", &tiny(), "In\né"]).done();
    assert_eq!(
        said.stdout,
        "      1  <s>\n   1035  ▁In\n    259  \\n\n    198  <0xC3>\n    172  <0xA9>\n"
    );
    let said = infer(&["tokens", &tiny(), "--ids", "1,2,2047", "--json"]).done();
    assert_eq!(
        said.json()["pieces"].as_array().unwrap()[..2],
        json!(["<s>", "</s>"]).as_array().unwrap()[..]
    );
}

#[test]
fn a_tiny_model_answers_at_once() {
    let begin = std::time::Instant::now();
    infer(&["logits", &tiny(), "In the beginning"]).done();
    // 0.04 s on a machine at rest; this is for one that builds and tests beside it.
    assert!(begin.elapsed().as_secs_f64() < 3.0);
}

/// A recipe, a plan for its base, and one in place of the recipe's: the same model three times.
#[test]
fn plans_are_run_without_building_them() {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/tiny-solar.toml");
    let said = |args: &[&str]| infer(&[&["logits", "--ids", "1,1035,384"], args].concat());
    let expected = said(&[recipe, "--json"]).done().stdout;
    assert_eq!(said(&[&tiny(), "--layers", "dus(8)", "--json"]).done().stdout, expected);
    assert_ne!(said(&[recipe, "--layers", "0..n", "--json"]).done().stdout, expected);
    assert_eq!(
        said(&[recipe, "--layers", "0..n", "--json"]).done().stdout,
        said(&[&tiny(), "--json"]).done().stdout
    );
    said(&[&tiny(), "--layers", "dus(17)"]).refused(&["dus(17) would lose layers", "^^"]);
    said(&[&tiny(), "--layers", "0..2{foo: zero}"]).refused(&["foo"]);
    said(&[&tiny(), "--layers", "mix(0.5*1, 0.5*2)"]).refused(&["mix"]);
}

/// A recipe of `configs/` names its base by hub id; what lies on this disk stands in its place.
#[test]
fn a_recipe_is_run_on_another_base() {
    let solar = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/solar-10.7b.toml");
    let ids = ["--ids", "1,1035,384", "--json"];
    let run = |command: &str, args: &[&str]| infer(&[&[command], args, &ids].concat());
    let dir = tempfile::tempdir().unwrap();
    let on_tiny = dir.path().join("tiny.toml");
    let text = std::fs::read_to_string(solar).unwrap();
    std::fs::write(&on_tiny, text.replace("mistralai/Mistral-7B-v0.1", &tiny())).unwrap();
    let expected = run("logits", &[on_tiny.to_str().unwrap()]).done().stdout;
    assert_eq!(run("logits", &[solar, "--base", &tiny()]).done().stdout, expected);
    run("logits", &[solar]).refused(&["mistralai/Mistral-7B-v0.1"]);
    run("tokens", &[solar, "--base", &tiny()]).done();
    infer(&["inspect", solar, "--base", &tiny()]).done();
    let both = ["compare", &tiny(), solar, "--base", &tiny(), "--ids", "1,1035,384"];
    infer(&both).done();
    infer(&["score", &tiny(), solar, "--base", &tiny(), "--ids", "1,1035,384"]).done();

    let recipe = dir.path().join("two.toml");
    let text = "layers = 'x:0..24 + y:8..32'\n[models]\nx = 'owner/x'\ny = 'owner/y'\n";
    std::fs::write(&recipe, text).unwrap();
    let (x, y) = (format!("x={}", tiny()), format!("y={}", tiny()));
    let two = [recipe.to_str().unwrap(), "--model", &x, "--model", &y];
    let expected = run("logits", &[&tiny(), "--layers", "dus(8)"]).done().stdout;
    assert_eq!(run("logits", &two).done().stdout, expected);
    run("logits", &two[..3]).refused(&["owner/y"]);
    run("logits", &[two[0], "--base", &tiny()]).refused(&["base", "models"]);

    for stray in [["--base", &tiny()], ["--model", &x]] {
        let expected = format!("{} is {}, expected a recipe (.toml)", stray[0], stray[1]);
        for command in ["logits", "tokens"] {
            run(command, &[&tiny(), stray[0], stray[1]]).refused(&[&expected]);
        }
    }
    run("logits", &[solar, "--model", "x"]).refused(&["expected NAME=MODEL"]);
}

/// `tokenizer.model` alone gives the tokens that the `tokenizer.json` made of it gives.
#[test]
fn a_sentencepiece_model_is_a_tokenizer() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../checkpoint/tests/fixtures/tokenizers/pieces");
    let rows = 400;
    let folder = |names: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        TinyModel { vocab_size: rows, side_files: false, ..TinyModel::default() }.write(dir.path());
        for name in names {
            std::fs::copy(fixture.join(name), dir.path().join(name)).unwrap();
        }
        dir
    };
    let alone = folder(&["tokenizer.model"]);
    let missing = "note: tokenizer.json is missing; the tokenizer is that of tokenizer.model";
    let open =
        "note: BOS is put before a text, which `add_bos_token` of tokenizer_config.json leaves";
    let said = infer(&["tokens", alone.path().to_str().unwrap(), "In the", "--json"]).done();
    assert_eq!(said.json()["pieces"][0], "<s>");
    assert!(said.stderr.contains(missing) && said.stderr.contains(open), "{said:#?}");
    for (add_bos, first) in [(true, "<s>"), (false, "▁In")] {
        let config = json!({ "add_bos_token": add_bos, "bos_token": "<s>", "eos_token": "</s>" });
        std::fs::write(alone.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let said = infer(&["tokens", alone.path().to_str().unwrap(), "In the", "--json"]).done();
        assert!(said.json()["pieces"][0].as_str().unwrap().starts_with(&first[..3]), "{said:#?}");
        assert!(said.stderr.contains(missing) && !said.stderr.contains(open), "{said:#?}");
    }
    std::fs::remove_file(alone.path().join("tokenizer_config.json")).unwrap();
    let json = folder(&["tokenizer.json", "tokenizer_config.json"]);
    for text in ["In the beginning", " two  spaces ", "é 한국어 🙂\n\ttab"] {
        let tokens = |dir: &Path| infer(&["tokens", dir.to_str().unwrap(), text, "--json"]).done();
        let (found, expected) = (tokens(alone.path()).json(), tokens(json.path()).json());
        assert!(!expected["ids"].as_array().unwrap().is_empty());
        assert_eq!(found["ids"], expected["ids"], "{text}");
    }
}
