//! `infer generate`.

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Family, TinyModel};

use crate::infer::{Said, data, infer, tiny};

#[track_caller]
fn generate(args: &[&str]) -> Said {
    infer(&[&["generate", &tiny()], args].concat()).done()
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let Some(path) = data("tiny-mistral-32l.reference.json") else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for prompt in reference["prompts"].as_array().unwrap() {
        let text = prompt["text"].as_str().unwrap();
        let n = prompt["greedy_ids"].as_array().unwrap().len().to_string();
        let said = generate(&[text, "--max-new-tokens", &n, "--json"]);
        let object = said.json();
        assert_eq!(object["ids"], prompt["greedy_ids"], "{text}");
        assert_eq!(object["text"], prompt["greedy_text"], "{text}");
        assert_eq!(object["prompt_tokens"], prompt["ids"].as_array().unwrap().len());
        for key in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
            assert!(object[key].as_f64().unwrap() > 0.0, "{object}");
        }
    }
}

#[test]
fn what_is_streamed_is_the_text() {
    for more in [vec![], vec!["--stop", " unto me"], vec!["--temperature", "1.5", "--seed", "5"]] {
        let args = [vec!["In the beginning", "--max-new-tokens", "30"], more].concat();
        let streamed = generate(&args);
        let object = generate(&[args, vec!["--json"]].concat()).json();
        assert_eq!(streamed.stdout, format!("{}\n", object["text"].as_str().unwrap()));
        assert!(streamed.stderr.contains("first token"), "{}", streamed.stderr);
    }
}

#[test]
fn a_sequence_ends_where_it_should() {
    let object = |args: &[&str]| generate(&[args, &["--json"]].concat()).json();
    let length = object(&["In the beginning", "--max-new-tokens", "3"]);
    assert_eq!((&length["ids"], &length["stop"]), (&json!([393, 384, 683]), &json!("length")));
    // Six tokens of the prompt are counted here.
    let all = object(&["In the beginning", "--max-length", "8"]);
    assert_eq!((&all["ids"], &all["stop"]), (&json!([393, 384]), &json!("length")));
    let both = object(&["In the beginning", "--max-length", "8", "--max-new-tokens", "3"]);
    assert_eq!(both["ids"], length["ids"]);
    let stopped = object(&["In the beginning", "--stop", "LORD. A", "--stop", "nowhere"]);
    assert_eq!((&stopped["text"], &stopped["stop"]), (&json!("of the "), &json!("stop_string")));
    let eos = object(&["In the beginning", "--logit-bias", "2=100"]);
    assert_eq!((&eos["ids"], &eos["text"], &eos["stop"]), (&json!([2]), &json!(""), &json!("eos")));
    assert_eq!(object(&["In", "--max-new-tokens", "0"])["ids"], json!([]));
}

#[test]
fn a_full_context_ends_a_sequence_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let extra_config = vec![("max_position_embeddings", 8.into()), ("eos_token_id", 39.into())];
    TinyModel { extra_config, ..TinyModel::of(Family::Llama) }.write(dir.path());
    std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    let model = dir.path().to_str().unwrap();
    let args = ["generate", model, "--ids", "3,4,5", "--logit-bias", "39=-1000", "--json"];
    let said = infer(&args).done();
    let object = said.json();
    assert_eq!((object["ids"].as_array().unwrap().len(), &object["stop"]), (5, &json!("length")));
    assert!(said.stderr.contains("the context is full: the model has 8 positions"), "{said:?}");
    let said = infer(&["generate", model, "--ids", "3,4,5,6,7,8,9,10", "--json"]).done();
    assert_eq!(said.json()["ids"], json!([]));
}

#[test]
fn a_seed_gives_the_same_tokens_alone_and_beside_others() {
    let draw = |more: &[&str]| {
        let args = ["In the", "--temperature", "1.3", "--max-new-tokens", "25", "--json"];
        generate(&[&args, more].concat()).json()
    };
    let alone = draw(&["--seed", "7"]);
    assert_eq!(draw(&["--seed", "7"])["ids"], alone["ids"]);
    assert_ne!(draw(&["--seed", "8"])["ids"], alone["ids"]);
    let four = draw(&["--seed", "7", "--num", "4"]);
    let sequences = four["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), 4);
    assert_eq!(sequences[0]["ids"], alone["ids"]);
    assert_eq!(four["ids"], alone["ids"]);
    let two = draw(&["--seed", "7", "--num", "2"]);
    assert_eq!(two["sequences"][1], sequences[1]);
    assert_ne!(sequences[1]["ids"], sequences[0]["ids"]);
    let ten = draw(&["--seed", "7", "--num", "10"]);
    assert_eq!(ten["sequences"].as_array().unwrap()[..4], sequences[..]);
    // Without a seed it is another text each time, and the seed is told.
    let any = draw(&[]);
    let again = draw(&["--seed", &any["seed"].to_string()]);
    assert_eq!(again["ids"], any["ids"]);
}

/// The tiny model with another `generation_config.json`.
fn tiny_with(generation_config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = dir.path().join("generation_config.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, generation_config.to_string()).unwrap();
    dir
}

#[test]
fn the_models_settings_are_heeded_or_named() {
    let said = |generation_config: Value, args: &[&str]| {
        let dir = tiny_with(&generation_config);
        let model = dir.path().to_str().unwrap();
        let fixed = ["generate", model, "In the beginning", "--max-new-tokens", "12", "--json"];
        infer(&[&fixed, args].concat())
    };
    let plain = said(json!({}), &[]).done();
    assert_eq!(plain.json()["ids"][0], 393);
    assert!(!plain.stderr.contains("note:"), "{plain:?}");
    let suppressed = said(json!({ "suppress_tokens": [393, 1_000_000] }), &[]).done().json();
    assert!(!suppressed["ids"].as_array().unwrap().contains(&json!(393)), "{suppressed}");
    for stop_strings in [json!("LORD"), json!(["nowhere", "LORD"])] {
        let stopped = said(json!({ "stop_strings": stop_strings }), &[]).done().json();
        assert_eq!(
            (&stopped["text"], &stopped["stop"]),
            (&json!("of the "), &json!("stop_string"))
        );
    }
    let other = said(json!({ "stop_strings": "LORD" }), &["--stop", "nowhere"]).done().json();
    assert_eq!(other["ids"], plain.json()["ids"]);
    let unheeded = json!({ "num_beams": 4, "no_repeat_ngram_size": 3, "bad_words_ids": [[5, 6]],
        "min_new_tokens": 7, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "top_h": 0.4 });
    let named = said(unheeded, &[]).done();
    let note = "generation_config.json: bad_words_ids, epsilon_cutoff, eta_cutoff, min_new_tokens, \
                no_repeat_ngram_size, num_beams, top_h\n";
    assert!(
        named.stderr.contains("note: not heeded of ") && named.stderr.contains(note),
        "{named:?}"
    );
    let nothing = json!({ "num_beams": 1, "no_repeat_ngram_size": 0, "bad_words_ids": [],
        "min_new_tokens": null, "epsilon_cutoff": 0.0, "eta_cutoff": 0, "top_h": null });
    let quiet = said(nothing, &[]).done();
    assert!(!quiet.stderr.contains("note:"), "{quiet:?}");
    for (key, value, expected) in [
        ("top_p", json!(2), "is 2, expected from 0 to 1"),
        ("temperature", json!(-1.0), "is -1.0, expected 0 or more"),
        ("typical_p", json!(0), "is 0, expected above 0 and up to 1"),
        ("repetition_penalty", json!("x"), "is \"x\", expected above 0"),
        ("suppress_tokens", json!([-1]), "is [-1], expected a list of tokens"),
        ("stop_strings", json!([1]), "is [1], expected a text, or a list of texts"),
    ] {
        let key_in = format!("`{key}` in ");
        said(json!({ key: value }), &[]).refused(&[&key_in, "generation_config.json", expected]);
    }
}

#[test]
fn the_models_defaults_hold_where_no_flag_says_otherwise() {
    let defaults = json!({ "do_sample": true, "temperature": 0.9, "top_p": 0.8,
        "eos_token_id": [2, 384], "max_new_tokens": 12 });
    let dir = tiny_with(&defaults);
    let object = |args: &[&str]| {
        let model = dir.path().to_str().unwrap();
        infer(&[&["generate", model, "In the", "--json"], args].concat()).done().json()
    };
    // Token 384 is " the".
    let greedy = object(&["--temperature", "0"]);
    assert_eq!(greedy["ids"].as_array().unwrap().last(), Some(&json!(384)));
    assert_eq!(greedy["stop"], "eos");
    let bias = ["--logit-bias", "384=-100", "--logit-bias", "2=-100"];
    let drawn = object(&[&bias[..], &["--seed", "3"]].concat());
    assert_eq!(drawn["ids"].as_array().unwrap().len(), 12);
    let said = ["--temperature", "0.9", "--top-p", "0.8", "--top-k", "50", "--seed", "3"];
    assert_eq!(object(&[&bias[..], &said].concat())["ids"], drawn["ids"]);
    assert_ne!(object(&bias)["ids"], drawn["ids"]);
}

#[test]
fn what_asks_for_draws_where_there_are_none_is_said() {
    let said =
        |more: &[&str]| generate(&[&["In the", "--max-new-tokens", "1"], more].concat()).stderr;
    let seed = "note: --seed changes nothing: the best token is taken";
    let num = "note: all sequences are the same: the best token is taken";
    assert!(said(&["--seed", "1"]).contains(seed));
    assert!(said(&["--num", "2"]).contains(num));
    assert!(said(&["--num", "2", "--seed", "1"]).contains(num));
    for quiet in
        [&[][..], &["--seed", "1", "--temperature", "1"], &["--num", "2", "--top-p", "0.9"]]
    {
        assert!(!said(quiet).contains("note:"), "{quiet:?}");
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let args = ["In the beginning", "--max-new-tokens", "2", "--top-logprobs", "3"];
    let object = generate(&[&args[..], &["--json"]].concat()).json();
    let steps = object["logprobs"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    // 0.91433 is the probability that `logits` shows.
    let logprob = steps[0]["logprob"].as_f64().unwrap();
    assert!((logprob.exp() - 0.91433).abs() < 1e-4, "{object}");
    assert_eq!(steps[0]["top"][0], json!([393, logprob]));
    assert_eq!(steps[0]["top"].as_array().unwrap().len(), 3);
    let lines = generate(&args).stdout;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    // Neither bias nor temperature touches them.
    let biased = [&args[..], &["--logit-bias", "412=50", "--temperature", "2", "--json"]].concat();
    let object = generate(&biased).json();
    assert_eq!(
        (&object["ids"][0], &object["logprobs"][0]["top"][0]),
        (&json!(412), &json!([393, logprob]))
    );
}

#[test]
fn a_model_without_a_tokenizer_takes_and_gives_ids() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel { side_files: false, ..TinyModel::of(Family::Qwen3) }.write(dir.path());
    let model = dir.path().to_str().unwrap();
    let args = ["generate", model, "--ids", "3,4", "--max-new-tokens", "3"];
    let said = infer(&args).done();
    let object = infer(&[&args[..], &["--json"]].concat()).done().json();
    let ids: Vec<String> =
        object["ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(said.stdout.split_whitespace().collect::<Vec<_>>(), ids);
    assert_eq!(object["text"], "");
    let two = infer(&[&args[..], &["--num", "2"]].concat()).done().stdout;
    let (ids, stop) = (ids.join(" "), object["stop"].as_str().unwrap());
    assert_eq!(two, format!("--- 1 ({stop})\n{ids}\n--- 2 ({stop})\n{ids}\n"));
    let lines = infer(&[&args[..], &["--top-logprobs", "2"]].concat()).done().stdout;
    let first: Vec<&str> = lines.lines().next().unwrap().split_whitespace().collect();
    // The token, once more with its log-probability, and the best ones: here it is the best.
    assert_eq!((first[0], first[1], first[3], first[4]), (first[4], first[4], "|", first[1]));
    let two = infer(&[&args[..], &["--top-logprobs", "2", "--num", "2"]].concat()).done().stdout;
    assert_eq!(two, format!("--- 1 ({stop})\n{lines}--- 2 ({stop})\n{lines}"));
}
