//! `kernels/sample.cu` against a full sort and plain sums.

#![expect(clippy::print_stdout, reason = "who looks closer wants the numbers")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use std::sync::Arc;

use kernels::Gpu;
use kernels::decode::Cache;
use kernels::sample::{Choice, History, Row, Sampler, Settings};
use reference::Random;
use reference::card::card;
use reference::model::{CASE, POSITIONS, Pair, TINY, pair};

/// What a sequence of the reference has had, and what is done to its logits.
#[derive(Clone, Default)]
struct Past {
    prompt: Vec<u32>,
    new: Vec<u32>,
    logit_bias: Vec<(u32, f64)>,
    suppressed: Vec<u32>,
}

/// Biases, penalties and suppressed tokens, each after the other, in f32.
fn processed(settings: &Settings, past: &Past, logits: &[f32]) -> Vec<f32> {
    let mut logits = logits.to_vec();
    for &(id, bias) in &past.logit_bias {
        logits[id as usize] += bias as f32;
    }
    for (id, logit) in (0..).zip(&mut logits) {
        let count = past.new.iter().filter(|&&new| new == id).count();
        if count > 0 || past.prompt.contains(&id) {
            let penalty = settings.repetition_penalty as f32;
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
        if count > 0 {
            let penalty = settings.presence_penalty + settings.frequency_penalty * count as f64;
            *logit -= penalty as f32;
        }
        *logit = logit.clamp(f32::MIN, f32::MAX);
        if past.suppressed.contains(&id) {
            *logit = f32::NEG_INFINITY;
        }
    }
    logits
}

fn probabilities(left: &[(u32, f32)]) -> Vec<f64> {
    let best = f64::from(left[0].1);
    let weights: Vec<f64> = left.iter().map(|&(_, s)| (f64::from(s) - best).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// What top-k, top-p, min-p and typical leave, each of what the one before left, best first.
fn kept(settings: &Settings, logits: &[f32]) -> Vec<(u32, f32)> {
    let best = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let scale = |&logit: &f32| ((f64::from(logit) - best) / settings.temperature) as f32;
    let mut left: Vec<(u32, f32)> = (0..).zip(logits.iter().map(scale)).collect();
    left.retain(|(_, s)| *s > f32::NEG_INFINITY);
    left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if (1..left.len()).contains(&settings.top_k) {
        let last = left[settings.top_k - 1].1;
        left.retain(|&(_, s)| s >= last);
    }
    if settings.top_p < 1.0 {
        let mut sum = 0.0;
        let last = probabilities(&left).into_iter().rev().position(|p| {
            sum += p;
            sum > 1.0 - settings.top_p
        });
        let num_out = last.unwrap_or(left.len() - 1);
        left.truncate((left.len() - num_out).max(1));
    }
    if settings.min_p > 0.0 {
        left.retain(|&(_, s)| f64::from(s) >= settings.min_p.ln());
    }
    if settings.typical_p < 1.0 {
        let information: Vec<f64> = probabilities(&left).iter().map(|p| -p.ln()).collect();
        let finite = information.iter().filter(|information| information.is_finite());
        let entropy: f64 = finite.map(|information| (-information).exp() * information).sum();
        let mut order: Vec<(f64, f64)> =
            information.iter().map(|i| ((i - entropy).abs(), (-i).exp())).collect();
        let far: Vec<f64> = order.iter().map(|&(far, _)| far).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let last = order.iter().find(|(_, probability)| {
            sum += probability;
            sum >= settings.typical_p
        });
        let (farthest, _) = *last.or(order.last()).unwrap();
        let mut far = far.into_iter();
        left.retain(|_| far.next().unwrap() <= farthest);
    }
    left
}

/// What each of `draws` falls on.
fn expected(settings: &Settings, past: &Past, logits: &[f32], draws: &[f64]) -> Vec<u32> {
    let logits = processed(settings, past, logits);
    if settings.temperature == 0.0 {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|&logit| logit >= best).unwrap();
        return vec![first as u32; draws.len()];
    }
    let left = kept(settings, &logits);
    let probabilities = probabilities(&left);
    let falls_on = |&draw: &f64| {
        let mut sum = 0.0;
        let place = probabilities.iter().position(|probability| {
            sum += probability;
            draw < sum
        });
        left[place.unwrap_or(left.len() - 1)].0
    };
    draws.iter().map(falls_on).collect()
}

/// Logits as models have them, and as they do not.
fn rows(random: &mut Random, vocab_size: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut normal =
        |spread: f32| -> Vec<f32> { (0..vocab_size).map(|_| spread * random.normal()).collect() };
    let usual = normal(2.5);
    let mut peaked = usual.clone();
    peaked[vocab_size / 3] = 30.0;
    let mut outlier = normal(1.0);
    outlier[vocab_size / 2] = -1e30;
    let mut extreme = normal(5e37);
    extreme[0] = f32::MAX;
    extreme[vocab_size - 1] = f32::MIN;
    let tied: Vec<f32> = usual.iter().map(|x| x.round()).collect();
    // Which zero is the larger of two, Rust leaves open: the best is another number.
    let mut signs: Vec<f32> = normal(1.0).iter().map(|x| x.signum() * 0.0).collect();
    signs[vocab_size - 1] = 1.0;
    vec![
        ("usual", usual),
        ("peaked", peaked),
        ("flat", normal(0.01)),
        ("outlier", outlier),
        ("extreme", extreme),
        ("tied", tied),
        ("zeros of both signs", signs),
        ("equal", vec![-7.25; vocab_size]),
        ("tiny", normal(1e-39)),
    ]
}

/// Each alone, and some together. No whole number of equal tokens sums to a bound: rounding would decide.
fn settings() -> Vec<Settings> {
    let sampled = Settings { temperature: 0.813, ..Settings::default() };
    vec![
        Settings::default(),
        sampled,
        Settings { temperature: 30.0, ..sampled },
        Settings { temperature: 1e-6, ..sampled },
        Settings { top_k: 1, ..sampled },
        Settings { top_k: 50, ..sampled },
        Settings { top_k: 3000, ..sampled },
        Settings { top_p: 0.937_13, ..sampled },
        Settings { top_p: 0.317_29, ..sampled },
        Settings { top_p: 0.0, ..sampled },
        Settings { min_p: 0.0531, ..sampled },
        Settings { min_p: 1.0, ..sampled },
        Settings { typical_p: 0.913, ..sampled },
        Settings { typical_p: 0.2017, ..sampled },
        Settings { top_k: 40, top_p: 0.951_37, min_p: 0.0507, ..sampled },
        Settings { top_k: 40, top_p: 0.951_37, min_p: 0.0107, typical_p: 0.89, ..sampled },
        Settings { top_p: 0.977_43, typical_p: 0.703, temperature: 1.5, ..sampled },
    ]
}

fn check(gpu: &Arc<Gpu>, vocab_size: usize) {
    let mut sampler = Sampler::new(gpu, vocab_size).unwrap();
    let mut random = Random(vocab_size as u64);
    let mut num_checked = 0;
    for (what, logits) in rows(&mut random, vocab_size) {
        let on_card = gpu.upload(&logits.repeat(8)).unwrap();
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        for settings in settings() {
            let mut draws = [0.0; 8];
            draws[1] = 1.0 - f64::EPSILON / 2.0;
            draws[2..].fill_with(|| (random.bits() >> 11) as f64 / (1_u64 << 53) as f64);
            let mut rows: Vec<Row> =
                draws.iter().map(|&draw| Row { settings, draw, history: None }).collect();
            let found = sampler.choose(on_card.at(0), &mut rows, false).unwrap();
            let expected = expected(&settings, &Past::default(), &logits, &draws);
            for ((choice, expected), draw) in found.into_iter().zip(expected).zip(draws) {
                let [found, expected] =
                    [choice.token, expected].map(|id| (id, logits[id as usize]));
                // The reference's last tokens weigh less than its sums' rounding.
                let far = f64::from(best) - f64::from(expected.1);
                if draw > 0.999_999_999 && far > 15.0 * settings.temperature {
                    continue;
                }
                assert!(choice.is_finite);
                assert_eq!(found, expected, "{what} of {vocab_size}, {draw} with {settings:?}");
                num_checked += 1;
            }
        }
    }
    println!("{vocab_size}: {num_checked} tokens are the same");
}

#[test]
fn tokens_are_those_of_a_full_sort() {
    let Some(gpu) = card() else { return };
    for vocab_size in [32_000, 50_257] {
        check(&gpu, vocab_size);
    }
}

#[test]
fn tokens_of_small_vocabularies_are_those_of_a_full_sort() {
    let Some(gpu) = card() else { return };
    for vocab_size in [1, 2, 7, 1000, 8193] {
        check(&gpu, vocab_size);
    }
}

#[test]
fn tokens_of_large_vocabularies_are_those_of_a_full_sort() {
    let Some(gpu) = card() else { return };
    for vocab_size in [152_064, 262_144] {
        check(&gpu, vocab_size);
    }
}

#[test]
fn rows_have_settings_of_their_own() {
    let Some(gpu) = card() else { return };
    let (vocab_size, draw) = (4001, 0.734_21);
    let mut sampler = Sampler::new(&gpu, vocab_size).unwrap();
    let logits: Vec<Vec<f32>> =
        rows(&mut Random(4), vocab_size).into_iter().map(|(_, logits)| logits).collect();
    let on_card = gpu.upload(&logits[1..].concat()).unwrap();
    for turn in 0..17 {
        let settings: Vec<Settings> =
            settings().into_iter().cycle().skip(turn * 8 % 17).take(8).collect();
        let mut asked: Vec<Row> =
            settings.iter().map(|&settings| Row { settings, draw, history: None }).collect();
        let found = sampler.choose(on_card.at(0), &mut asked, false).unwrap();
        for ((choice, settings), logits) in found.iter().zip(&settings).zip(&logits[1..]) {
            let expected = expected(settings, &Past::default(), logits, &[draw]);
            assert_eq!(choice.token, expected[0], "{settings:?}");
        }
    }
}

#[test]
fn what_was_chosen_is_counted_and_biases_are_added_in_order() {
    let Some(gpu) = card() else { return };
    let vocab_size = 5003;
    let mut sampler = Sampler::new(&gpu, vocab_size).unwrap();
    let mut random = Random(3);
    let nucleus = Settings { temperature: 0.7, top_p: 0.913, ..Settings::default() };
    let settings = [
        Settings { repetition_penalty: 1.3, ..Settings::default() },
        Settings { presence_penalty: 0.7, frequency_penalty: 0.31, ..Settings::default() },
        Settings { repetition_penalty: 0.8, presence_penalty: -0.5, ..nucleus },
        Settings { frequency_penalty: 1e30, ..nucleus },
        Settings { repetition_penalty: 1e-38, frequency_penalty: 0.1, ..nucleus },
        nucleus,
    ];
    let past = Past {
        prompt: (0..200).map(|i| i * 25).collect(),
        new: vec![17, 4999, 17],
        logit_bias: vec![
            (4999, 1e7),
            (3, 2.5),
            (4999, 0.3),
            (4999, -1e7),
            (1000, f64::from(f32::MAX)),
        ],
        suppressed: vec![1000, 6, 6, 99_999],
    };
    let mut pasts = vec![past; settings.len()];
    let mut histories: Vec<History> = pasts
        .iter()
        .map(|past| {
            let tokens = [&past.prompt[..], &past.new];
            History::new(&gpu, vocab_size, tokens, &past.logit_bias, &past.suppressed).unwrap()
        })
        .collect();
    let usual: Vec<f32> = (0..vocab_size).map(|_| random.normal()).collect();
    for step in 0..30 {
        // A few tokens stay the best, so that they are counted again and again.
        let logits: Vec<f32> = (0..)
            .zip(&usual)
            .map(|(id, x)| if id % 50 == 0 { 3.0 + x } else { *x } + 0.1 * random.normal())
            .collect();
        let on_card = gpu.upload(&logits.repeat(settings.len())).unwrap();
        let draw = f64::from(random.uniform());
        let mut rows: Vec<Row> = settings
            .iter()
            .zip(&mut histories)
            .map(|(&settings, history)| Row { settings, draw, history: Some(history) })
            .collect();
        let found = sampler.choose(on_card.at(0), &mut rows, true).unwrap();
        for ((settings, past), choice) in settings.iter().zip(&mut pasts).zip(found) {
            let expected = expected(settings, past, &logits, &[draw])[0];
            assert_eq!(choice.token, expected, "step {step} of {settings:?}");
            past.new.push(expected);
            check_logprob(&logits, choice);
        }
    }
}

fn check_logprob(logits: &[f32], choice: Choice) {
    let best = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum();
    let expected = f64::from(logits[choice.token as usize]) - best - sum.ln();
    let found = choice.logprob.unwrap();
    assert!((found - expected).abs() < 1e-6 * (1.0 - expected), "{found} and not {expected}");
}

#[test]
fn rows_that_are_not_finite_are_told_of_and_change_nothing_beside_them() {
    let Some(gpu) = card() else { return };
    for vocab_size in [9, 32_000] {
        let mut sampler = Sampler::new(&gpu, vocab_size).unwrap();
        let mut random = Random(8);
        let mut rows: Vec<Vec<f32>> =
            (0..8).map(|_| (0..vocab_size).map(|_| random.normal()).collect()).collect();
        rows[1][0] = f32::NAN;
        rows[3][vocab_size - 1] = f32::INFINITY;
        rows[4][vocab_size / 2] = f32::NEG_INFINITY;
        rows[6][vocab_size / 3] = -f32::NAN;
        let settings =
            Settings { temperature: 1.0, repetition_penalty: 1.1, ..Settings::default() };
        let on_card = gpu.upload(&rows.concat()).unwrap();
        let mut histories: Vec<History> = rows
            .iter()
            .map(|_| History::new(&gpu, vocab_size, [&[], &[]], &[], &[]).unwrap())
            .collect();
        let mut asked: Vec<Row> = histories
            .iter_mut()
            .map(|history| Row { settings, draw: 0.37, history: Some(history) })
            .collect();
        for (number, choice) in
            sampler.choose(on_card.at(0), &mut asked, true).unwrap().into_iter().enumerate()
        {
            assert_eq!(choice.is_finite, ![1, 3, 4, 6].contains(&number), "row {number}");
            if choice.is_finite {
                let row = &rows[number];
                assert_eq!(choice.token, expected(&settings, &Past::default(), row, &[0.37])[0]);
                check_logprob(row, choice);
            } else {
                assert_eq!(choice.token, 0, "row {number}");
            }
        }
    }
}

#[test]
fn steps_go_on_with_tokens_that_are_still_being_chosen() {
    let Some(gpu) = card() else { return };
    let settings = Settings { temperature: 0.9, top_k: 20, ..Settings::default() };
    let draw = |step: usize, row: usize| (step * 13 + row * 7) as f64 % 29.0 / 29.0;
    let first = [5, 9];

    let waiting = {
        let Pair { mut decoder, .. } = pair(&gpu, CASE);
        let mut sampler = Sampler::new(&gpu, TINY.vocab_size).unwrap();
        let mut caches: Vec<Cache> = (0..2).map(|_| decoder.cache(POSITIONS).unwrap()).collect();
        let mut tokens = first.to_vec();
        let mut all = Vec::new();
        for step in 0..20 {
            let mut batch: Vec<(u32, &mut Cache)> =
                tokens.iter().copied().zip(&mut caches).collect();
            decoder.step(&mut batch).unwrap();
            let mut rows: Vec<Row> =
                (0..2).map(|row| Row { settings, draw: draw(step, row), history: None }).collect();
            let choices = sampler.choose(decoder.logits_on_card(), &mut rows, false).unwrap();
            tokens = choices.iter().map(|choice| choice.token).collect();
            all.push(tokens.clone());
        }
        all
    };
    let Pair { mut decoder, .. } = pair(&gpu, CASE);
    let mut sampler = Sampler::new(&gpu, TINY.vocab_size).unwrap();
    let mut caches: Vec<Cache> = (0..2).map(|_| decoder.cache(POSITIONS).unwrap()).collect();
    let mut all = Vec::new();
    let mut take = |sampler: &mut Sampler| {
        let choices = sampler.finish().unwrap();
        all.push(choices.iter().map(|choice| choice.token).collect::<Vec<u32>>());
    };
    for step in 0..20 {
        if step == 0 {
            let mut batch: Vec<(u32, &mut Cache)> = first.into_iter().zip(&mut caches).collect();
            decoder.step(&mut batch).unwrap();
        } else {
            let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
            decoder.step_with(sampler.tokens(), &mut caches).unwrap();
        }
        let mut rows: Vec<Row> =
            (0..2).map(|row| Row { settings, draw: draw(step, row), history: None }).collect();
        sampler.start(decoder.logits_on_card(), &mut rows, false).unwrap();
        if step >= 3 {
            take(&mut sampler);
        }
    }
    (0..3).for_each(|_| take(&mut sampler));
    assert_eq!(all, waiting);
}
