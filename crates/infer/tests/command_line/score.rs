//! `infer score`.

use serde_json::Value;
use testkit::{Family, TinyModel};

use crate::infer::{data, infer, infer_with_stdin, tiny};

fn ids(passage: &Value) -> String {
    let ids: Vec<String> =
        passage["ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
    ids.join(",")
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {object}"))
}

#[test]
fn sums_are_those_of_transformers() {
    let Some(path) = data("tiny-mistral-32l.reference.json") else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (name, passage) in reference["passages"].as_object().unwrap() {
        let object = infer(&["score", &tiny(), "--ids", &ids(passage), "--json"]).done().json();
        assert_eq!(object["num_tokens"], 511);
        let sum = number(&object, "sum_logprob");
        assert!((sum - number(passage, "sum_logprob")).abs() <= 1e-2, "{name}: {sum}");
        let nats = number(&object, "nats_per_token");
        assert!((nats + sum / 511.0).abs() < 1e-12);
        assert!((number(&object, "perplexity") - nats.exp()).abs() < 1e-9);
        assert!(object["bits_per_byte"].is_null());
    }
}

/// The standard error of the mean, from the differences of all pairs of log-probabilities, each of
/// which `logits` gives behind its own prompt.
#[test]
fn the_standard_error_is_that_of_the_mean_of_independent_numbers() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::of(Family::Llama).write(dir.path());
    let model = dir.path().to_str().unwrap();
    let ids = ["3", "17", "4", "38", "9", "22", "5", "30"];
    let object = infer(&["score", model, "--ids", &ids.join(","), "--json"]).done().json();
    let mut logprobs = Vec::new();
    for n in 1..ids.len() {
        let args = ["logits", model, "--ids", &ids[..n].join(","), "--top", "40", "--json"];
        let top: Vec<(u32, f64)> =
            serde_json::from_value(infer(&args).done().json()["top"].clone()).unwrap();
        let sum: f64 = top.iter().map(|(_, logit)| logit.exp()).sum();
        let next: u32 = ids[n].parse().unwrap();
        let (_, logit) = top.iter().find(|(id, _)| *id == next).unwrap();
        logprobs.push(logit - sum.ln());
    }
    let n = logprobs.len() as f64;
    let squares = logprobs.iter().flat_map(|x| logprobs.iter().map(move |y| (x - y) * (x - y)));
    let variance = squares.sum::<f64>() / (2.0 * n * (n - 1.0));
    let expected = (variance / n).sqrt();
    let found = number(&object, "standard_error");
    assert!((found - expected).abs() < 1e-6 && found > 1e-3, "{found}, {expected}");
    assert!((number(&object, "sum_logprob") - logprobs.iter().sum::<f64>()).abs() < 1e-4);
}

#[test]
fn a_long_text_strides_and_each_token_counts_once() {
    let Some(path) = data("tiny-heldout-kjv.txt") else { return };
    let path = path.to_str().unwrap();
    let score = |more: &[&str]| {
        let args = ["score", &tiny(), "--text", path, "--max-tokens", "1200", "--json"];
        let said = infer(&[&args, more].concat()).done();
        (said.json(), said.stderr)
    };
    let (long, notes) = score(&[]);
    assert_eq!((&long["num_tokens"], &long["num_windows"]), (&1199.into(), &2.into()));
    assert!(notes.contains("2 windows; each begins with BOS (token 1)"), "{notes}");
    let (short, _) = score(&["--window", "300", "--stride", "100"]);
    assert_eq!((&short["num_tokens"], &short["num_windows"]), (&1199.into(), &10.into()));
    // Windows of 300 see most of what a sliding window of 256 lets through.
    let difference = number(&long, "nats_per_token") - number(&short, "nats_per_token");
    assert!(difference.abs() < 0.05, "{difference}");
    // Bits per byte, nats per token and the bytes of the text agree.
    let bytes = -number(&long, "sum_logprob") / 2_f64.ln() / number(&long, "bits_per_byte");
    assert!((bytes - bytes.round()).abs() < 1e-6 && (3000.0..6000.0).contains(&bytes), "{bytes}");
}

#[test]
fn chunks_are_llama_cpps() {
    let Some(path) = data("tiny-heldout-kjv.txt") else { return };
    let path = path.to_str().unwrap();
    let args = ["score", &tiny(), "--text", path, "--max-tokens", "1300", "--chunks", "--json"];
    let object = infer(&args).done().json();
    // Two chunks of 512; 255 tokens of each.
    assert_eq!((&object["num_tokens"], &object["num_windows"]), (&510.into(), &2.into()));
    // The first chunk's second half is that of one window over the same tokens, which begin with BOS.
    let whole = |n: &str| {
        let args = ["score", &tiny(), "--text", path, "--max-tokens", n, "--json"];
        number(&infer(&args).done().json(), "sum_logprob")
    };
    let args = [
        "score",
        &tiny(),
        "--text",
        path,
        "--max-tokens",
        "512",
        "--chunks",
        "--window",
        "256",
        "--json",
    ];
    let two = number(&infer(&args).done().json(), "sum_logprob");
    let first = whole("256") - whole("129");
    assert!(two < first && first < 0.0, "{two}, {first}");
}

#[test]
fn several_models_give_a_table() {
    let text = "In the beginning God created the heaven and the earth.";
    let said = infer_with_stdin(&["score", &tiny(), &tiny(), "--text", "-"], text);
    let from_stdin = said.done().stdout;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text.txt");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let said = infer(&["score", &tiny(), &tiny(), "--text", file]).done();
    assert_eq!(said.stdout, from_stdin);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[1] == lines[2], "{lines:?}");
    assert!(lines[0].contains("nats/token") && lines[1].contains(" ± "), "{lines:?}");
    let object = infer(&["score", &tiny(), &tiny(), "--text", file, "--json"]).done().json();
    assert_eq!(object["models"][0], object["models"][1]);
    let bytes = -number(&object["models"][0], "sum_logprob")
        / 2_f64.ln()
        / number(&object["models"][0], "bits_per_byte");
    assert!((bytes - text.len() as f64).abs() < 1e-6, "{bytes}");
}
