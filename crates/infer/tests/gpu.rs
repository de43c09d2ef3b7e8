//! A model on one of NVIDIA's GPUs, with kernels of our own, beside itself on the processor.

#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use infer::device::Place;
use infer::generate::{Request, Step, generate, go_on};
use infer::load::{Arithmetic, Placing};
use infer::open::{Opened, Spec, Wanted};
use infer::placement::GpuLayers;
use infer::progress::Watch;
use infer::sampling::Sampling;
use infer::{Model, Sequence};

/// More tokens than its window of 256.
const POSITIONS: usize = 300;

fn tiny(plan: Option<&str>) -> Opened {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tiny-mistral-32l");
    let spec = Spec { layers: plan.map(str::to_owned), ..Spec::new(path.to_str().unwrap()) };
    Opened::find(&spec, Wanted::Weights, &Watch::nobody()).unwrap()
}

/// It on the GPU, if there is one.
fn on_gpu(opened: &Opened, arithmetic: Arithmetic, gpu_layers: GpuLayers) -> Option<Model> {
    let placing = Placing { arithmetic, place: Place::Cuda(0), gpu_layers, ..Placing::default() };
    if let Err(error) = placing.target() {
        println!("skipped: {error}");
        return None;
    }
    let plan = opened.plan(placing, &[POSITIONS; 4]).unwrap();
    Some(opened.load_placed(placing, &plan, &Watch::nobody()).unwrap())
}

fn on_cpu(opened: &Opened) -> Model {
    opened.load(Arithmetic::F32, Place::Cpu, &Watch::nobody()).unwrap()
}

fn tokens(seed: u32) -> Vec<u32> {
    (0..POSITIONS as u32).map(|i| (i * 31 + seed * 17 + i * i % 7) % 2048).collect()
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut cache = model.cache(tokens.len()).unwrap();
    let hidden = model.forward(tokens, &mut cache).unwrap();
    model.finite_logits(&hidden, |_| tokens.to_vec()).unwrap()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits of a prompt, whole and in part on the GPU, built and of a plan that was never built.
#[test]
fn logits_are_near_those_of_the_processor() {
    for plan in [None, Some("dus(8)")] {
        let opened = tiny(plan);
        let mut expected = None;
        for (arithmetic, near) in [(Arithmetic::F16, 0.15), (Arithmetic::BF16, 1.0)] {
            // The processor's part rounds activations to the type after each operation.
            for (gpu_layers, near) in [(GpuLayers::Auto, near), (GpuLayers::Count(12), 3.0 * near)]
            {
                let Some(model) = on_gpu(&opened, arithmetic, gpu_layers) else { return };
                let expected = expected.get_or_insert_with(|| logits(&on_cpu(&opened), &tokens(1)));
                let found = furthest(&logits(&model, &tokens(1)), expected);
                assert!(found < near, "{plan:?} {arithmetic:?} {gpu_layers:?}: {found}");
            }
        }
    }
}

/// A prompt at once, and the same tokens step by step, alone and beside others.
#[test]
fn steps_are_near_prompts_and_the_same_alone_and_beside_others() {
    let opened = tiny(None);
    for gpu_layers in [GpuLayers::Auto, GpuLayers::Count(12)] {
        let Some(model) = on_gpu(&opened, Arithmetic::F16, gpu_layers) else { return };
        let all = tokens(2);
        let vocab_size = model.config().vocab_size;
        let whole = logits(&model, &all);
        let mut alone = model.cache(1).unwrap();
        model.feed(&all[..POSITIONS - 9], &mut alone).unwrap();
        let mut beside = alone.fork().unwrap();
        let mut other = model.cache(1).unwrap();
        model.feed(&tokens(3)[..7], &mut other).unwrap();
        for at in POSITIONS - 9..POSITIONS {
            let token = &all[at..=at];
            let single = model.step(&mut [Sequence { tokens: token, cache: &mut alone }]).unwrap();
            let both = model
                .step(&mut [
                    Sequence { tokens: token, cache: &mut beside },
                    Sequence { tokens: &[5], cache: &mut other },
                ])
                .unwrap();
            let expected = &whole[at * vocab_size..][..vocab_size];
            assert!(furthest(&single, expected) < 0.15, "{gpu_layers:?} at {at}");
            if gpu_layers == GpuLayers::Auto {
                assert_eq!(single, both[..vocab_size], "at {at}");
            }
        }
        assert_eq!(alone.len(), POSITIONS);
    }
}

/// Who asks for the probabilities of other tokens has the processor choose.
#[test]
fn tokens_are_those_that_the_processor_chooses_by_the_same_logits() {
    let Some(model) = on_gpu(&tiny(None), Arithmetic::F16, GpuLayers::Auto) else { return };
    let sampled = Sampling { temperature: 0.9, ..Sampling::default() };
    for sampling in [
        Sampling::default(),
        sampled.clone(),
        Sampling { top_k: 30, min_p: 0.02, ..sampled.clone() },
        Sampling { top_p: 0.9, repetition_penalty: 1.2, ..sampled.clone() },
        Sampling {
            typical_p: 0.8,
            presence_penalty: 0.4,
            frequency_penalty: 0.1,
            ..sampled.clone()
        },
        Sampling { logit_bias: vec![(412, 3.0)], suppress_tokens: vec![271, 380], ..sampled },
    ] {
        // Sequences that end at different steps, and more than go together.
        for (eos, num_sequences) in [(vec![], 3), (vec![384, 273, 271, 412], 11)] {
            let generated = |top_logprobs| {
                let (eos, stop_strings) = (eos.clone(), Vec::new());
                let sampling = sampling.clone();
                let (seed, max_new_tokens) = (7, 60);
                let request = Request {
                    sampling,
                    seed,
                    max_new_tokens,
                    eos,
                    stop_strings,
                    num_sequences,
                    top_logprobs,
                };
                let mut nobody = |_: Step| Ok(());
                let prompt = &tokens(4)[..40];
                let all = generate(&model, None, prompt, &request, &mut nobody, &Watch::nobody());
                let sequences = all.unwrap().sequences.into_iter();
                sequences.map(|sequence| (sequence.ids, sequence.stop)).collect::<Vec<_>>()
            };
            assert_eq!(generated(None), generated(Some(0)), "{sampling:?}");
        }
    }
}

/// Steps that were asked for when who listens has had enough are nobody's; the cache is good to go on with.
#[test]
fn generation_that_is_stopped_goes_on_where_it_was() {
    let Some(model) = on_gpu(&tiny(None), Arithmetic::F16, GpuLayers::Auto) else { return };
    let request = |max_new_tokens| Request {
        sampling: Sampling { temperature: 0.7, ..Sampling::default() },
        seed: 3,
        max_new_tokens,
        eos: Vec::new(),
        stop_strings: Vec::new(),
        num_sequences: 1,
        top_logprobs: None,
    };
    let prompt = &tokens(6)[..30];
    let mut nobody = |_: Step| Ok(());
    let all = generate(&model, None, prompt, &request(24), &mut nobody, &Watch::nobody()).unwrap();
    let all = &all.sequences[0].ids;
    let mut cache = model.cache(1).unwrap();
    let mut heard = Vec::new();
    let mut enough = |step: Step| {
        heard.extend(step.id);
        if heard.len() == 10 { Err(infer::Error::Cancelled) } else { Ok(()) }
    };
    let stopped =
        go_on(&model, None, prompt, &mut cache, &request(24), &mut enough, &Watch::nobody());
    assert!(matches!(stopped, Err(infer::Error::Cancelled)));
    assert_eq!(heard, all[..10]);
    // It holds the tokens that were heard, or the first of them.
    let so_far = [prompt, &all[..10]].concat();
    assert!(cache.len() <= so_far.len() && cache.len() >= prompt.len(), "{}", cache.len());
    cache.truncate(so_far.len() - 1);
    let logits = model.prompt_logits(&so_far[cache.len()..], &mut cache).unwrap();
    let mut fresh = model.cache(1).unwrap();
    let expected = model.prompt_logits(&so_far, &mut fresh).unwrap();
    assert!(furthest(&logits, &expected) < 0.15);
}

/// A step that fails leaves the cache as it was.
#[test]
fn a_full_cache_stays_as_it_is() {
    let opened = tiny(None);
    for gpu_layers in [GpuLayers::Auto, GpuLayers::Count(12)] {
        let Some(model) = on_gpu(&opened, Arithmetic::F16, gpu_layers) else { return };
        let most = model.config().max_position_embeddings;
        let all: Vec<u32> = tokens(5).into_iter().cycle().take(most).collect();
        let mut cache = model.cache(most).unwrap();
        model.feed(&all, &mut cache).unwrap();
        let full = model.step(&mut [Sequence { tokens: &[1], cache: &mut cache }]);
        assert!(matches!(full, Err(infer::Error::TooManyTokens { .. })), "{full:?}");
        assert_eq!(cache.len(), most);
        cache.truncate(most - 1);
        model.step(&mut [Sequence { tokens: &[1], cache: &mut cache }]).unwrap();
        assert_eq!(cache.len(), most);
    }
}
