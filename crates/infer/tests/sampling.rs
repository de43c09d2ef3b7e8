//! What sampling leaves of logits, beside transformers (`scripts/sampling_references.py`).

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use infer::sampling::Sampling;
use serde_json::Value;

const RECORDED: &str = include_str!("data/sampling.json");

fn recorded() -> (Value, Vec<f32>, Vec<u32>) {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let logits = serde_json::from_value(recorded["logits"].clone()).unwrap();
    let prompt = serde_json::from_value(recorded["prompt"].clone()).unwrap();
    (recorded, logits, prompt)
}

fn sampling(options: &Value) -> Sampling {
    let number = |key: &str, default: f64| options[key].as_f64().unwrap_or(default);
    let bias = |pair: &Value| (pair[0][0].as_u64().unwrap() as u32, pair[1].as_f64().unwrap());
    Sampling {
        temperature: number("temperature", 1.0),
        top_k: options["top_k"].as_u64().unwrap() as usize,
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        typical_p: number("typical_p", 1.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        logit_bias: options["sequence_bias"]
            .as_array()
            .map_or_else(Vec::new, |pairs| pairs.iter().map(bias).collect()),
        suppress_tokens: serde_json::from_value(options["suppress_tokens"].clone())
            .unwrap_or_default(),
        ..Sampling::default()
    }
}

#[test]
fn the_tokens_left_and_their_probabilities_are_those_of_transformers() {
    let (recorded, logits, prompt) = recorded();
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() >= 14);
    for case in cases {
        let options = &case["options"];
        // Prompt and new tokens are one thing to transformers.
        let mut found = sampling(options).distribution(logits.clone(), &prompt[..2], &prompt[2..]);
        found.sort_by_key(|&(id, _)| id);
        let expected: Vec<(u32, f64)> = serde_json::from_value(case["left"].clone()).unwrap();
        let ids = |pairs: &[(u32, f64)]| pairs.iter().map(|&(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&expected), "{options}");
        for ((id, found), (_, expected)) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{options}: {id}: {found}, {expected}");
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let (_, logits, _) = recorded();
    let sampling = Sampling { temperature: 1.2, top_k: 6, ..Sampling::default() };
    let distribution = sampling.distribution(logits.clone(), &[], &[]);
    let mut from = 0.0;
    for &(id, probability) in &distribution {
        for draw in [from, from + probability / 2.0, from + probability * 0.999] {
            assert_eq!(sampling.choose(logits.clone(), &[], &[], draw), id);
        }
        from += probability;
    }
    assert!((from - 1.0).abs() < 1e-12);
}

#[test]
fn presence_and_frequency_count_new_tokens_only() {
    let penalised = |presence_penalty, frequency_penalty, new: &[u32]| {
        let sampling = Sampling { presence_penalty, frequency_penalty, ..Sampling::default() };
        sampling.choose(vec![1.0, 0.9, 0.0], &[0, 0, 0], new, 0.0)
    };
    assert_eq!(penalised(0.5, 0.5, &[]), 0);
    assert_eq!(penalised(0.2, 0.0, &[0]), 1);
    assert_eq!(penalised(0.05, 0.0, &[0, 0, 0]), 0);
    assert_eq!(penalised(0.0, 0.05, &[0, 0, 0]), 1);
}

#[test]
fn temperature_0_is_greedy_whatever_else_is_set() {
    let (_, logits, _) = recorded();
    let best = infer::sampling::best(&logits);
    let sampling = Sampling { top_k: 2, top_p: 0.1, typical_p: 0.3, ..Sampling::default() };
    for draw in [0.0, 0.5, 0.99] {
        assert_eq!(sampling.choose(logits.clone(), &[], &[], draw), best);
    }
}

#[test]
fn a_temperature_near_0_is_as_good_as_greedy() {
    let (_, logits, _) = recorded();
    let best = infer::sampling::best(&logits);
    for temperature in [1e-30, 1e-40, 1e-300] {
        for sampling in [
            Sampling { temperature, ..Sampling::default() },
            Sampling { temperature, top_k: 5, top_p: 0.9, min_p: 0.1, ..Sampling::default() },
            Sampling { temperature, typical_p: 0.5, ..Sampling::default() },
        ] {
            for draw in [0.0, 0.5, 0.999_999] {
                assert_eq!(sampling.choose(logits.clone(), &[], &[], draw), best, "{sampling:?}");
            }
        }
    }
}

#[test]
fn biases_that_overflow_together_still_have_an_order() {
    let most = vec![(1, 3e38), (1, 3e38), (2, -3e38), (2, -3e38)];
    for temperature in [0.0, 1.0] {
        let sampling = Sampling { temperature, logit_bias: most.clone(), ..Sampling::default() };
        for draw in [0.0, 0.999_999] {
            assert_eq!(sampling.choose(vec![5.0, 0.0, 9.0], &[], &[], draw), 1);
        }
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    #[track_caller]
    fn check(sampling: &Sampling, expected: &str) {
        assert_eq!(sampling.check(40).unwrap_err().to_string(), expected);
    }
    let base = Sampling::default();
    let negative = Sampling { temperature: -1.0, ..base.clone() };
    check(&negative, "--temperature is -1, expected 0 or more");
    check(&Sampling { top_p: 1.5, ..base.clone() }, "--top-p is 1.5, expected from 0 to 1");
    check(&Sampling { min_p: f64::NAN, ..base.clone() }, "--min-p is NaN, expected from 0 to 1");
    let typical = Sampling { typical_p: 0.0, ..base.clone() };
    check(&typical, "--typical-p is 0, expected above 0 and up to 1");
    let penalty = Sampling { repetition_penalty: 0.0, ..base.clone() };
    check(&penalty, "--repetition-penalty is 0, expected above 0");
    for bias in [1e39, f64::NEG_INFINITY] {
        let sampling = Sampling { logit_bias: vec![(3, bias)], ..base.clone() };
        let expected = format!("--logit-bias is {bias}, expected a finite number of 32 bits");
        check(&sampling, &expected);
    }
    let none = Sampling { suppress_tokens: (0..40).collect(), ..base.clone() };
    check(&none, "suppress_tokens is all tokens, expected some of them");
    let bias = Sampling { logit_bias: vec![(40, 1.0)], ..base };
    check(&bias, "there is no token 40: the model has ids up to 39");
}
