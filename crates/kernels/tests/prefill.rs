//! Prompts in one go against plain loops, and against token by token.

#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use kernels::decode::{Element, Shape};
use kernels::forms::Form;
use kernels::prefill::{CHUNK, Hidden};
use reference::card::card;
use reference::model::{CASE, Case, POSITIONS, Pair, TINY, pair};

fn token(case: Case, position: usize) -> u32 {
    ((position * 31 + 5) % case.shape.vocab_size) as u32
}

fn tokens(case: Case, count: usize) -> Vec<u32> {
    (0..count).map(|position| token(case, position)).collect()
}

/// How far two rows of logits are apart, at the widest.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).fold(0.0, |widest, (a, b)| {
        assert!(a.is_finite(), "{a}");
        widest.max((a - b).abs())
    })
}

/// Logits behind a prompt, whole and in parts, and behind the step after it.
#[track_caller]
fn check(case: Case, num_tokens: usize, tolerance: f32) {
    let Some(gpu) = card() else { return };
    let Pair { mut decoder, reference } = pair(&gpu, case);
    let prompt = tokens(case, num_tokens);
    let expected = reference.logits(&prompt);

    let mut cache = decoder.cache(POSITIONS).unwrap();
    let hidden = match decoder.prefill(&prompt, &mut cache) {
        Ok(hidden) => hidden,
        Err(error @ kernels::Error::NoLibrary { .. }) => return println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    assert_eq!((cache.len, hidden.num_rows()), (num_tokens, num_tokens));
    let whole = decoder.logits_of(&hidden, num_tokens - 1..num_tokens).unwrap();
    let whole_error = apart(&whole, &expected);

    // The same behind a prompt in two parts, the second layer by layer.
    let (first, second) = prompt.split_at(num_tokens / 3);
    let mut cache = decoder.cache(POSITIONS).unwrap();
    decoder.prefill(first, &mut cache).unwrap();
    let mut hidden = decoder.embed(second).unwrap();
    for layer in 0..reference.layers.len() {
        let numbers = hidden.to_vec().unwrap();
        hidden = Hidden::from_slice(&gpu, &numbers, case.shape.hidden_size).unwrap();
        hidden = decoder.forward_layers(layer..layer + 1, hidden, &mut cache).unwrap();
    }
    let all = decoder.logits_of(&hidden, 0..second.len()).unwrap();
    let parts_error = apart(&all[all.len() - case.shape.vocab_size..], &expected);

    // A step behind all but the last.
    let mut cache = decoder.cache(POSITIONS).unwrap();
    decoder.prefill(&prompt[..num_tokens - 1], &mut cache).unwrap();
    decoder.step(&mut [(prompt[num_tokens - 1], &mut cache)]).unwrap();
    let step_error = apart(&decoder.logits(1).unwrap(), &expected);

    println!("whole {whole_error}, in parts {parts_error}, with a step {step_error}");
    assert!(whole_error.max(parts_error).max(step_error) < tolerance);
}

#[test]
fn prompts_of_f16_and_bf16() {
    check(CASE, 9, 0.02);
    check(CASE, 150, 0.02);
    check(Case { element: Element::BF16, ..CASE }, 70, 0.16);
}

#[test]
fn windows() {
    check(Case { window: Some(7), ..CASE }, 30, 0.02);
    check(Case { window: Some(100), ..CASE }, 200, 0.02);
}

#[test]
fn biases_and_norms_of_heads() {
    check(Case { has_biases: true, ..CASE }, 40, 0.02);
    check(Case { has_qk_norm: true, ..CASE }, 40, 0.02);
}

#[test]
fn heads_of_every_width_and_grouping() {
    for (head_dim, heads, kv_heads) in [(32, 8, 2), (96, 3, 3), (128, 6, 1), (64, 9, 3)] {
        let shape =
            Shape { head_dim, num_attention_heads: heads, num_key_value_heads: kv_heads, ..TINY };
        check(Case { shape, ..CASE }, 70, 0.03);
    }
}

#[test]
fn q8_0_and_q4_k() {
    check(Case { is_mixed: true, ..CASE }, 40, 0.03);
    for form in [Form::Q8_0, Form::Q4K] {
        check(Case { form, ..CASE }, 40, 0.03);
        let shape = Shape { hidden_size: 2304, intermediate_size: 4352, ..TINY };
        check(Case { shape, form, ..CASE }, 9, 0.06);
    }
}

/// Several chunks against the same tokens one by one.
#[test]
fn prompts_longer_than_a_chunk() {
    let Some(gpu) = card() else { return };
    let num_tokens = 2 * CHUNK + 100;
    let Pair { mut decoder, .. } = reference::model::pair_for(&gpu, CASE, num_tokens + 1);
    let prompt = tokens(CASE, num_tokens);
    let mut cache = decoder.cache(num_tokens).unwrap();
    let hidden = match decoder.prefill(&prompt, &mut cache) {
        Ok(hidden) => hidden,
        Err(error @ kernels::Error::NoLibrary { .. }) => return println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let vocab_size = CASE.shape.vocab_size;
    let found = decoder.logits_of(&hidden, 0..num_tokens).unwrap();
    let mut cache = decoder.cache(num_tokens).unwrap();
    let mut widest = 0_f32;
    for (position, &token) in prompt.iter().enumerate() {
        decoder.step(&mut [(token, &mut cache)]).unwrap();
        if position % 97 == 0 || position + 1 == num_tokens {
            let logits = decoder.logits(1).unwrap();
            widest = widest.max(apart(&found[position * vocab_size..][..vocab_size], &logits));
        }
    }
    println!("largest difference of logits: {widest}");
    assert!(widest < 0.03, "{widest}");
}
