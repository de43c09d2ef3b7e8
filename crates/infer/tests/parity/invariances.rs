//! The same tokens give the same logits, however they are handed over.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use infer::device::Place;
use infer::load::{Arithmetic, Placing};
use infer::open::{Opened, Spec, Wanted};
use infer::progress::{Progress, Watch};
use infer::{Error, Model, Sequence};
use serde_json::json;
use testkit::{Family, TinyModel};

use crate::references::{ROOT, all_logits, load, row};

/// Tiny models of all families, with windows that the sequences outgrow; and the trained one.
fn models() -> Vec<(String, Model)> {
    let mut models = Vec::new();
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        let extra_config = match family {
            Family::Mistral => vec![("sliding_window", 7.into())],
            Family::Qwen2 | Family::Qwen3 => vec![
                ("use_sliding_window", true.into()),
                ("sliding_window", 7.into()),
                ("max_window_layers", 2.into()),
                ("layer_types", json!(null)),
            ],
            _ => Vec::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        TinyModel { extra_config, ..TinyModel::of(family) }.write(dir.path());
        models.push((format!("{family:?}"), load(dir.path())));
    }
    let trained = Path::new(ROOT).join("examples/tiny-mistral-32l");
    models.push(("tiny-mistral-32l".to_owned(), load(&trained)));
    models
}

fn tokens(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((7 * i * i + 3 * i + seed) % 40) as u32).collect()
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    for i in 0..found.dims()[0] {
        let pairs = row(found, i).into_iter().zip(row(expected, i));
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-4, "{what}: row {i} differs by {difference}");
    }
}

/// Runs `pieces` of a sequence one after the other, and returns the logits of all.
fn in_pieces(model: &Model, tokens: &[u32], pieces: &[usize]) -> Tensor {
    // Room for one only: the cache grows on the way.
    let mut cache = model.cache(1).unwrap();
    let mut logits = Vec::new();
    let mut first = 0;
    for &n in pieces {
        let hidden = model.forward(&tokens[first..first + n], &mut cache).unwrap();
        logits.push(model.logits(&hidden).unwrap());
        first += n;
    }
    assert_eq!(cache.len(), first);
    Tensor::cat(&logits, 0).unwrap()
}

#[test]
fn with_and_without_a_cache() {
    for (name, model) in models() {
        let tokens = tokens(40, 1);
        let whole = all_logits(&model, &tokens);
        assert_close(&in_pieces(&model, &tokens, &[1; 40]), &whole, &name);
    }
}

#[test]
fn in_pieces_and_at_once() {
    for (name, model) in models() {
        let tokens = tokens(600, 2);
        let whole = all_logits(&model, &tokens);
        for pieces in [vec![599, 1], vec![1, 599], vec![5, 2, 3, 290, 300], vec![100; 6]] {
            let what = format!("{name} in {pieces:?}");
            assert_close(&in_pieces(&model, &tokens, &pieces), &whole, &what);
        }
    }
}

#[test]
fn a_batch_of_unlike_lengths_and_singles() {
    for (name, model) in models() {
        let (a, b) = (tokens(30, 1), tokens(17, 5));
        let mut caches = [model.cache(64).unwrap(), model.cache(64).unwrap()];
        let [cache_a, cache_b] = &mut caches;
        let mut rows = Vec::new();
        // A first piece of both, then unlike pieces.
        for (a, b) in [(&a[..12], &b[..16]), (&a[12..], &b[16..])] {
            let hidden = model.forward_batch(&mut [
                Sequence { tokens: a, cache: cache_a },
                Sequence { tokens: b, cache: cache_b },
            ]);
            let logits = model.logits(&hidden.unwrap()).unwrap();
            let of_a = logits.narrow(0, 0, a.len()).unwrap();
            rows.push((of_a, logits.narrow(0, a.len(), b.len()).unwrap()));
        }
        let (of_a, of_b): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let (of_a, of_b) = (Tensor::cat(&of_a, 0).unwrap(), Tensor::cat(&of_b, 0).unwrap());
        assert_close(&of_a, &all_logits(&model, &a), &name);
        assert_close(&of_b, &all_logits(&model, &b), &name);
    }
}

#[test]
fn a_rewound_cache_and_a_copy_go_on_as_if_nothing_had_been() {
    for (name, model) in models() {
        let (tokens, other) = (tokens(40, 1), tokens(40, 9));
        let expected = all_logits(&model, &tokens).narrow(0, 20, 20).unwrap();
        let mut cache = model.cache(4).unwrap();
        model.forward(&tokens[..20], &mut cache).unwrap();
        let mut copy = cache.fork().unwrap();
        model.forward(&other, &mut cache).unwrap();
        cache.truncate(20);
        for cache in [&mut cache, &mut copy] {
            assert_eq!(cache.len(), 20);
            let hidden = model.forward(&tokens[20..], cache).unwrap();
            assert_close(&model.logits(&hidden).unwrap(), &expected, &name);
        }
    }
}

#[test]
fn stretches_of_layers_are_the_whole() {
    for (name, model) in models() {
        let tokens = tokens(20, 3);
        let n = model.config().num_hidden_layers;
        let mut cache = model.cache(20).unwrap();
        let hidden = model.embed(&tokens).unwrap();
        let hidden = model.forward_layers(0..1, hidden, &mut cache).unwrap();
        let hidden = model.forward_layers(1..n, hidden, &mut cache).unwrap();
        assert_close(&model.logits(&hidden).unwrap(), &all_logits(&model, &tokens), &name);
    }
}

#[test]
fn an_error_leaves_the_cache_as_it_was() {
    let (_, model) = models().remove(0);
    let mut cache = model.cache(8).unwrap();
    model.forward(&tokens(8, 1), &mut cache).unwrap();
    let too_many = model.config().max_position_embeddings;
    let error = model.forward(&tokens(too_many, 1), &mut cache).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1032 tokens are more than the 1024 positions that the model has"
    );
    let error = model.forward(&[40], &mut cache).unwrap_err();
    assert_eq!(error.to_string(), "there is no token 40: the model has ids up to 39");
    assert_eq!(cache.len(), 8);

    // The layers before a stretch that failed had run, and keep what they hold.
    let hidden = model.embed(&tokens(3, 1)).unwrap();
    let hidden = model.forward_layers(0..2, hidden, &mut cache).unwrap();
    let narrow = hidden.narrow(1, 0, 8).unwrap();
    model.forward_layers(2..4, narrow, &mut cache).unwrap_err();
    let hidden = model.forward_layers(2..4, hidden, &mut cache).unwrap();
    assert_eq!(cache.len(), 11);
    let all = [tokens(8, 1), tokens(3, 1)].concat();
    let expected = all_logits(&model, &all).narrow(0, 8, 3).unwrap();
    assert_close(&model.logits(&hidden).unwrap(), &expected, "after an error");
}

#[test]
fn what_is_not_there_is_an_error() {
    let (_, model) = models().remove(0);
    let mut caches = [model.cache(8).unwrap(), model.cache(8).unwrap()];
    let [a, b] = &mut caches;
    let four = tokens(4, 1);
    let sequences = &mut [Sequence { tokens: &four, cache: a }, Sequence { tokens: &[], cache: b }];
    let error = model.forward_batch(sequences).unwrap_err();
    assert_eq!(error.to_string(), "the prompt is empty: there is no token to begin with");
    assert!(caches.iter().all(infer::KvCache::is_empty));

    let [cache, _] = &mut caches;
    let hidden = || model.embed(&four).unwrap();
    for (range, said) in [(3..5, "3..5"), (5..6, "5..6"), (Range { start: 3, end: 2 }, "3..2")] {
        let error = model.forward_layers(range, hidden(), cache).unwrap_err();
        assert_eq!(error.to_string(), format!("there are no layers {said}: the model has 4"));
    }
    // None of them is no error.
    let same = model.forward_layers(4..4, hidden(), cache).unwrap();
    assert_close(&same, &hidden(), "no layers");
}

#[test]
fn who_asks_to_stop_is_heard_while_weights_are_read() {
    let has_begun = AtomicBool::new(false);
    let watch = Watch {
        progress: &|progress| {
            if matches!(progress, Progress::Begin { doing: "loading", .. }) {
                has_begun.store(true, Ordering::Relaxed);
            }
        },
        is_cancelled: &|| has_begun.load(Ordering::Relaxed),
    };
    let tiny = Path::new(ROOT).join("examples/tiny-mistral-32l").display().to_string();
    for layers in [None, Some("dus(8)".to_owned())] {
        has_begun.store(false, Ordering::Relaxed);
        let spec = Spec { layers, ..Spec::new(&tiny) };
        let opened = Opened::find(&spec, Wanted::Weights, &watch).unwrap();
        let loaded = opened.load(Arithmetic::Auto, Place::Cpu, &watch);
        assert!(matches!(loaded, Err(Error::Cancelled)));
    }
}

/// The keys and values that a plan counts are those that caches then have room for.
#[test]
fn caches_take_what_is_planned_for_them() {
    let tiny = Path::new(ROOT).join("examples/tiny-mistral-32l");
    let spec = Spec::new(&tiny.display().to_string());
    let opened = Opened::find(&spec, Wanted::Weights, &Watch::nobody()).unwrap();
    let model = opened.load(Arithmetic::Auto, Place::Cpu, &Watch::nobody()).unwrap();
    let config = model.config();
    let position = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
    let most = config.max_position_embeddings;
    for sequences in [vec![1], vec![256, 257], vec![most - 1, most]] {
        let placing = Placing { place: Place::Cpu, ..Placing::default() };
        let plan = opened.plan(placing, &sequences).unwrap();
        let caches = sequences.iter().map(|&positions| model.cache(positions).unwrap());
        let capacity: usize = caches.map(|cache| cache.capacity()).sum();
        assert_eq!(plan.cpu.cache_bytes, (capacity * position) as u64, "{sequences:?}");
        assert_eq!(plan.positions, capacity);
    }
}
