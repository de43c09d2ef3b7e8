//! A decode step against the same arithmetic in plain loops.

#![expect(clippy::float_cmp, reason = "numbers that are rounded alike are the same")]
#![expect(clippy::print_stdout, reason = "who looks closer wants the numbers")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use half::{bf16, f16};
use kernels::decode::{Cache, Decoder, Element, Shape};
use kernels::forms::Form;
use reference::card::card;
use reference::model::{CASE, Case, POSITIONS, Pair, TINY, pair};

/// Runs `num_tokens` tokens of each of `lengths.len()` sequences, which begin one after the other so that
/// they are of different lengths, and compares the logits of the last steps.
#[track_caller]
fn check(case: Case, num_sequences: usize, num_tokens: usize, tolerance: f32) {
    let Some(gpu) = card() else { return };
    let Pair { mut decoder, reference } = pair(&gpu, case);
    let vocab_size = case.shape.vocab_size;
    let mut caches: Vec<Cache> =
        (0..num_sequences).map(|_| decoder.cache(POSITIONS).unwrap()).collect();
    let token =
        |sequence: usize, step: usize| ((sequence * 97 + step * 31 + 5) % vocab_size) as u32;
    // Sequence s joins after 3 · s steps.
    for step in 0..num_tokens {
        let mut batch: Vec<(u32, &mut Cache)> = caches
            .iter_mut()
            .enumerate()
            .filter(|(sequence, _)| step >= 3 * sequence)
            .map(|(sequence, cache)| (token(sequence, step), cache))
            .collect();
        decoder.step(&mut batch).unwrap();
    }
    let found = decoder.logits(num_sequences).unwrap();
    let (mut widest, mut largest) = (0_f32, 0_f32);
    for sequence in 0..num_sequences {
        let tokens: Vec<u32> =
            (3 * sequence..num_tokens).map(|step| token(sequence, step)).collect();
        let expected = reference.step_logits(&tokens);
        let found = &found[sequence * vocab_size..][..vocab_size];
        for (a, b) in found.iter().zip(&expected) {
            assert!(a.is_finite(), "{a} of sequence {sequence}");
            widest = widest.max((a - b).abs());
            largest = largest.max(b.abs());
        }
    }
    println!("largest difference of logits: {widest}, of {largest} at most");
    assert!(widest < tolerance, "{widest}");
}

#[test]
fn f16_alone_and_beside_others() {
    check(CASE, 1, 9, 0.01);
    check(CASE, 3, 12, 0.01);
    check(CASE, 8, 30, 0.01);
}

#[test]
fn bf16() {
    check(Case { element: Element::BF16, ..CASE }, 2, 20, 0.08);
}

#[test]
fn more_positions_than_one_block_takes() {
    check(CASE, 1, 500, 0.01);
    check(CASE, 2, 360, 0.01);
}

#[test]
fn windows() {
    check(Case { window: Some(7), ..CASE }, 1, 30, 0.01);
    check(Case { window: Some(330), ..CASE }, 2, 400, 0.01);
}

#[test]
fn biases_and_norms_of_heads() {
    check(Case { has_biases: true, ..CASE }, 2, 12, 0.01);
    check(Case { has_qk_norm: true, ..CASE }, 2, 12, 0.01);
}

#[test]
fn heads_of_every_width_and_grouping() {
    for (head_dim, heads, kv_heads) in
        [(32, 8, 2), (96, 3, 3), (128, 6, 1), (64, 9, 3), (128, 8, 8), (32, 16, 1)]
    {
        let shape =
            Shape { head_dim, num_attention_heads: heads, num_key_value_heads: kv_heads, ..TINY };
        check(Case { shape, ..CASE }, 2, 70, 0.02);
    }
}

#[test]
fn widths_that_are_no_whole_pieces() {
    let shape = Shape { hidden_size: 576, intermediate_size: 1568, vocab_size: 999, ..TINY };
    check(Case { shape, ..CASE }, 2, 8, 0.02);
    let wide = Shape { hidden_size: 1056, intermediate_size: 14_336, ..TINY };
    check(Case { shape: wide, ..CASE }, 8, 24, 0.05);
}

#[test]
fn q8_0_and_q4_k() {
    for form in [Form::Q8_0, Form::Q4K] {
        check(Case { form, ..CASE }, 1, 9, 0.02);
        check(Case { form, ..CASE }, 5, 20, 0.02);
        let shape = Shape { hidden_size: 2304, intermediate_size: 4352, ..TINY };
        check(Case { shape, form, ..CASE }, 2, 8, 0.05);
    }
}

#[test]
fn blocks_for_every_number_of_sequences() {
    let Some(gpu) = card() else { return };
    for case in [
        Case { form: Form::Q8_0, ..CASE },
        Case { form: Form::Q4K, ..CASE },
        Case { is_mixed: true, ..CASE },
    ] {
        check(case, 1, 9, 0.03);
        let Pair { mut decoder, .. } = pair(&gpu, case);
        for num_sequences in 2..=8 {
            each_as_alone(&mut decoder, num_sequences, 4);
        }
    }
}

/// Steps of sequences that are of different tokens, each of which has the numbers that it has alone.
#[track_caller]
fn each_as_alone(decoder: &mut Decoder, num_sequences: usize, num_steps: u32) {
    let caches = || -> Vec<Cache> {
        (0..num_sequences).map(|_| decoder.cache(num_steps as usize).unwrap()).collect()
    };
    let (mut alone, mut beside) = (caches(), caches());
    for step in 0..num_steps {
        let mut expected = Vec::new();
        for (i, cache) in alone.iter_mut().enumerate() {
            decoder.step(&mut [(step + 7 * i as u32, cache)]).unwrap();
            expected.extend(decoder.logits(1).unwrap());
        }
        let mut batch: Vec<(u32, &mut Cache)> =
            beside.iter_mut().enumerate().map(|(i, cache)| (step + 7 * i as u32, cache)).collect();
        decoder.step(&mut batch).unwrap();
        let found = decoder.logits(num_sequences).unwrap();
        assert_eq!(found, expected, "{num_sequences} sequences at {step}");
    }
}

#[test]
fn heads_of_every_width_beside_blocks() {
    for (head_dim, heads, kv_heads) in [(32, 8, 2), (96, 4, 2), (64, 6, 1), (128, 2, 2)] {
        let shape =
            Shape { head_dim, num_attention_heads: heads, num_key_value_heads: kv_heads, ..TINY };
        check(Case { shape, form: Form::Q8_0, ..CASE }, 2, 20, 0.02);
    }
}

/// Activations that a block has no room for come a slice at a time.
#[test]
fn slices_of_activations_for_blocks() {
    let shape = Shape { hidden_size: 1088, intermediate_size: 14_400, ..TINY };
    check(Case { shape, form: Form::Q8_0, ..CASE }, 5, 14, 0.05);
    let shape = Shape { hidden_size: 1280, intermediate_size: 14_592, ..TINY };
    check(Case { shape, form: Form::Q4K, ..CASE }, 4, 11, 0.05);
    let Some(gpu) = card() else { return };
    let Pair { mut decoder, .. } = pair(&gpu, Case { shape, form: Form::Q4K, ..CASE });
    each_as_alone(&mut decoder, 4, 3);
    each_as_alone(&mut decoder, 8, 3);
}

/// So wide that a block has no room for the activations of eight sequences: they take a step in two launches.
#[test]
fn more_sequences_than_a_block_has_room_for() {
    let Some(gpu) = card() else { return };
    let shape = Shape { hidden_size: 16_384, intermediate_size: 256, vocab_size: 64, ..TINY };
    for form in [Form::Dense, Form::Q8_0] {
        let Pair { mut decoder, .. } = pair(&gpu, Case { shape, form, ..CASE });
        each_as_alone(&mut decoder, 8, 3);
    }
}

#[test]
fn a_sequence_has_the_same_numbers_alone_and_beside_others() {
    let Some(gpu) = card() else { return };
    let token = |i: u32| i % TINY.vocab_size as u32;
    for form in [Form::Dense, Form::Q8_0, Form::Q4K] {
        let Pair { mut decoder, .. } = pair(&gpu, Case { form, ..CASE });
        let mut alone = decoder.cache(POSITIONS).unwrap();
        let mut others: Vec<Cache> = (0..5).map(|_| decoder.cache(POSITIONS).unwrap()).collect();
        // From some hundred positions on attention is in parts.
        for step in 0..400 {
            decoder.step(&mut [(token(step), &mut alone)]).unwrap();
            let single = decoder.logits(1).unwrap();
            let mut batch: Vec<(u32, &mut Cache)> = others
                .iter_mut()
                .enumerate()
                .map(|(i, cache)| (token(step + i as u32), cache))
                .collect();
            decoder.step(&mut batch).unwrap();
            let first = &decoder.logits(5).unwrap()[..TINY.vocab_size];
            assert_eq!(single, first, "at step {step} of {form:?}");
        }
    }
}

/// The element's numbers are those that the other type rounds to.
#[test]
fn rounding_is_that_of_the_type() {
    assert_eq!(reference::rounded(Element::F16, 1.000_3), f16::from_f32(1.000_3).to_f32());
    assert_eq!(reference::rounded(Element::BF16, 1.003), bf16::from_f32(1.003).to_f32());
}

#[test]
fn a_cache_with_more_room_goes_its_own_way_with_what_was_held() {
    let Some(gpu) = card() else { return };
    let Pair { mut decoder, .. } = pair(&gpu, CASE);
    let mut one = decoder.cache(8).unwrap();
    for token in 0..8 {
        decoder.step(&mut [(token, &mut one)]).unwrap();
    }
    let mut other = one.with_capacity(POSITIONS).unwrap();
    let mut again = decoder.cache(POSITIONS).unwrap();
    for token in 0..8 {
        decoder.step(&mut [(token, &mut again)]).unwrap();
    }
    let mut behind = |cache: &mut Cache, token| {
        decoder.step(&mut [(token, cache)]).unwrap();
        decoder.logits(1).unwrap()
    };
    assert_eq!(behind(&mut other, 70), behind(&mut again, 70));
    let mut third = one.with_capacity(9).unwrap();
    assert_ne!(behind(&mut third, 71), behind(&mut other, 72));
}

#[test]
fn a_step_goes_on_behind_layers_that_are_elsewhere() {
    let Some(gpu) = card() else { return };
    let Pair { mut decoder, .. } = pair(&gpu, CASE);
    let mut caches: Vec<Cache> = (0..3).map(|_| decoder.cache(POSITIONS).unwrap()).collect();
    let mut others: Vec<Cache> = (0..3).map(|_| decoder.cache(POSITIONS).unwrap()).collect();
    for step in 0..4 {
        let tokens = [step, step + 40, step + 7];
        let mut batch: Vec<(u32, &mut Cache)> = tokens.into_iter().zip(&mut caches).collect();
        decoder.step(&mut batch).unwrap();
        let expected = decoder.logits(3).unwrap();
        let hidden = decoder.embed(&tokens).unwrap().to_vec().unwrap();
        decoder.step_from(&hidden, &mut others.iter_mut().collect::<Vec<_>>()).unwrap();
        assert_eq!(decoder.logits(3).unwrap(), expected);
    }
}
