//! What is stored in 16 bits stays so in memory, and gives the bits that f32 gives.

use std::path::Path;

use infer::device::Place;
use infer::load::{Arithmetic, Placing};
use infer::open::{Opened, Spec, Wanted};
use infer::progress::Watch;
use infer::{Model, Sequence};
use testkit::gguf::TinyGguf;
use testkit::{Dtype, Family, TinyModel};

use crate::references::ROOT;

fn opened(model: &Path, layers: Option<&str>) -> Opened {
    let layers = layers.map(str::to_owned);
    let spec = Spec { layers, ..Spec::new(&model.display().to_string()) };
    Opened::find(&spec, Wanted::Weights, &Watch::nobody()).unwrap()
}

fn load(opened: &Opened, arithmetic: Arithmetic) -> Model {
    opened.load(arithmetic, Place::Cpu, &Watch::nobody()).unwrap()
}

/// The bits of the logits of two prompts side by side, one short and one long, and of tokens behind
/// them one by one.
fn bits(model: &Model) -> Vec<u32> {
    let tokens = |n: usize, seed: usize| -> Vec<u32> {
        (0..n).map(|i| ((7 * i * i + 3 * i + seed) % 40) as u32).collect()
    };
    let (long, short) = (tokens(70, 1), tokens(5, 2));
    let mut caches = [model.cache(80).unwrap(), model.cache(10).unwrap()];
    let mut bits = Vec::new();
    let mut run = |long: &[u32], short: &[u32]| {
        let [cache_long, cache_short] = &mut caches;
        let hidden = model.forward_batch(&mut [
            Sequence { tokens: long, cache: cache_long },
            Sequence { tokens: short, cache: cache_short },
        ]);
        let logits = model.logits(&hidden.unwrap()).unwrap().flatten_all().unwrap();
        bits.extend(logits.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits));
    };
    run(&long, &short);
    for token in 0..4 {
        run(&[token], &[token + 1]);
    }
    bits
}

#[track_caller]
fn check(model: &Path, layers: Option<&str>) {
    let opened = opened(model, layers);
    let (as_stored, wide) = (load(&opened, Arithmetic::Auto), load(&opened, Arithmetic::F32));
    assert!(bits(&as_stored) == bits(&wide), "{} through {layers:?}", model.display());
    assert_eq!(2 * as_stored.step_bytes(), wide.step_bytes(), "{}", model.display());
}

#[test]
fn logits_are_those_of_f32_bit_for_bit() {
    check(&Path::new(ROOT).join("examples/tiny-mistral-32l"), None);
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        for dtype in [Dtype::BF16, Dtype::F16] {
            let dir = tempfile::tempdir().unwrap();
            TinyModel { dtype, ..TinyModel::of(family) }.write(dir.path());
            check(dir.path(), None);
        }
    }
    for kind in ["F16", "BF16"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tiny.gguf");
        TinyGguf::of(kind).write(&file);
        check(&file, None);
    }
}

#[test]
fn so_they_are_of_a_plan_that_was_never_built() {
    let tiny = Path::new(ROOT).join("examples/tiny-mistral-32l");
    check(&tiny, Some("dus(8)"));
    check(&tiny, Some("dus(8){new o_proj: scale 0.3, new down_proj: noise 0.1 seed=7}"));
}

/// Vectors are f32 in both.
#[test]
fn matrices_take_half_the_memory() {
    let opened = opened(&Path::new(ROOT).join("examples/tiny-mistral-32l"), None);
    let bytes = |arithmetic| {
        let placing = Placing { arithmetic, place: Place::Cpu, ..Placing::default() };
        let plan = opened.plan(placing, &[64]).unwrap();
        let footprint = opened.footprint(placing, &[64]).unwrap();
        assert_eq!(footprint.weight_bytes(), plan.cpu.weight_bytes());
        (plan.cpu.weight_bytes(), plan.cpu.cache_bytes)
    };
    let config = &opened.config;
    let vectors = ((2 * config.num_hidden_layers + 1) * config.hidden_size * 4) as u64;
    let ((as_stored, cache), (wide, wide_cache)) =
        (bytes(Arithmetic::Auto), bytes(Arithmetic::F32));
    assert_eq!(2 * (as_stored - vectors), wide - vectors);
    assert_eq!(cache, wide_cache);
    // Who asks for 16 bits gets them, in keys and values, too.
    let (narrow, narrow_cache) = bytes(Arithmetic::BF16);
    assert_eq!((2 * narrow, 2 * narrow_cache), (wide, wide_cache));
}
