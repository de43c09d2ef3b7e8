//! GGUF files beside folders with the same numbers, and quantised matrices beside the numbers that they
//! are.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use dus::blueprint::{Blueprint, LayoutKind};
use dus::build::{self, Options};
use dus::movement::CopyMode;
use dus::output::Output;
use dus::recipe::{Draft, Source};
use infer::device::Place;
use infer::load::Arithmetic;
use infer::open::{Opened, Spec, Wanted};
use infer::progress::Watch;
use infer::quantised::Quantize;
use infer::{Model, Sequence};
use testkit::gguf::TinyGguf;
use testkit::skipped;

use crate::references::{all_logits, ids, logprobs, reference, row, smollm2};

/// The types that are kept quantised.
const KINDS: [&str; 10] =
    ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];

fn opened(path: &Path) -> Opened {
    Opened::find(&Spec::new(path.to_str().unwrap()), Wanted::Weights, &Watch::nobody()).unwrap()
}

fn model(path: &Path, arithmetic: Arithmetic) -> Model {
    opened(path).load(arithmetic, Place::Cpu, &Watch::nobody()).unwrap()
}

/// The folder that `dus build --to hf --dtype float32` makes of a GGUF file.
fn folder_of(gguf: &Path, out: &Path) {
    let base = Source { spec: gguf.to_str().unwrap().to_owned(), relative_to: PathBuf::new() };
    let draft = Draft {
        base: Some(base),
        layers: Some("0..n".to_owned()),
        to: Some("hf".to_owned()),
        dtype: Some("float32".to_owned()),
        ..Draft::default()
    };
    let blueprint = Blueprint::new(draft.finish().unwrap(), LayoutKind::Size, Some(out)).unwrap();
    let options =
        Options { copy: CopyMode::Auto, force: false, allow_overflow: false, resume: false };
    let output = Output::at(out, blueprint.form()).unwrap();
    build::build(&blueprint, output, &options, &dus::progress::Watch::nobody()).unwrap();
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((7 * i * i + 3 * i + 1) % 40) as u32).collect()
}

fn is_same(one: &Tensor, other: &Tensor) -> bool {
    let bits = |logits: &Tensor| -> Vec<u32> {
        let all = (0..logits.dims()[0]).flat_map(|i| row(logits, i));
        all.map(f32::to_bits).collect()
    };
    bits(one) == bits(other)
}

fn largest_difference(one: &Tensor, other: &Tensor) -> f32 {
    assert_eq!(one.dims(), other.dims());
    let rows = (0..one.dims()[0]).flat_map(|i| row(one, i).into_iter().zip(row(other, i)));
    rows.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The mean over all positions of the divergence of `other` from `exact`, in nats.
fn mean_kl(exact: &Tensor, other: &Tensor) -> f64 {
    let distribution = |logits: Vec<f32>| {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
        logits.into_iter().map(move |x| f64::from(x - max) - sum.ln()).collect::<Vec<f64>>()
    };
    let n = exact.dims()[0];
    let of = |i| {
        let (exact, other) = (distribution(row(exact, i)), distribution(row(other, i)));
        exact.iter().zip(other).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    };
    (0..n).map(of).sum::<f64>() / n as f64
}

#[test]
fn files_of_plain_numbers_are_the_folders_that_are_made_of_them() {
    for kind in ["F32", "F16", "BF16"] {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("tiny.gguf"), dir.path().join("tiny"));
        TinyGguf::of(kind).write(&file);
        folder_of(&file, &folder);
        let tokens = tokens(20);
        let found = all_logits(&model(&file, Arithmetic::Auto), &tokens);
        let expected = all_logits(&model(&folder, Arithmetic::Auto), &tokens);
        assert!(is_same(&found, &expected), "{kind}");
    }
}

#[test]
fn decoded_files_are_the_folders_that_are_made_of_them() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("tiny.gguf"), dir.path().join("tiny"));
        TinyGguf::of(kind).write(&file);
        folder_of(&file, &folder);
        let tokens = tokens(20);
        let found = all_logits(&model(&file, Arithmetic::F32), &tokens);
        let expected = all_logits(&model(&folder, Arithmetic::F32), &tokens);
        assert!(is_same(&found, &expected), "{kind}");
    }
}

#[test]
fn kept_quantised_they_are_near_and_invariant() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        // In three parts, as large models come.
        let tiny = TinyGguf { block_count: 1, ..TinyGguf::of(kind) };
        let parts = tiny.file().write_parts(dir.path(), "tiny", 3);
        let file = &parts[0];
        let tokens = tokens(40);
        let quantised = model(file, Arithmetic::Auto);
        let logits = all_logits(&quantised, &tokens);
        let kl = mean_kl(&all_logits(&model(file, Arithmetic::F32), &tokens), &logits);
        eprintln!("{kind}: mean KL {kl:.1e}");
        // Random blocks are large numbers, which make much of the last bit of 8.
        assert!(kl < 0.05, "{kind}: {kl}");

        let mut cache = quantised.cache(1).unwrap();
        let hidden = tokens.iter().map(|&token| quantised.forward(&[token], &mut cache).unwrap());
        let one_by_one = Tensor::cat(&hidden.collect::<Vec<_>>(), 0).unwrap();
        let one_by_one = quantised.logits(&one_by_one).unwrap();
        let kl = mean_kl(&logits, &one_by_one);
        eprintln!("{kind}: with a cache, mean KL {kl:.1e}");
        // The last bits of attention differ, and now and then a number is rounded to its neighbour.
        assert!(kl < 1e-4, "{kind}: {kl}");

        let (first, second) = tokens.split_at(20);
        let mut caches = [quantised.cache(20).unwrap(), quantised.cache(20).unwrap()];
        let [a, b] = &mut caches;
        let sequences =
            &mut [Sequence { tokens: first, cache: a }, Sequence { tokens: second, cache: b }];
        let both = quantised.logits(&quantised.forward_batch(sequences).unwrap()).unwrap();
        let alone = [first, second].map(|tokens| all_logits(&quantised, tokens));
        assert!(is_same(&both, &Tensor::cat(&alone, 0).unwrap()), "{kind}: beside another");
    }
}

#[test]
fn smollm2_decoded_is_what_transformers_computes_and_its_folder() {
    let (Some(reference), Some(dir)) = (reference("smollm2-reference.json"), smollm2()) else {
        return;
    };
    let Some(file) = smollm2_gguf(dir) else { return };
    let opened = opened(&file);
    let passage = &reference["passage"];
    let tokens = ids(&passage["token_ids"]);
    let text = passage["text"].as_str().unwrap();
    assert_eq!(opened.tokenizer().unwrap().encode(text).unwrap().ids[..tokens.len()], tokens);
    let eos = reference["eos_token_id"].as_u64().unwrap() as u32;
    assert_eq!(opened.generation_config().unwrap().eos, [eos]);

    let decoded = model(&file, Arithmetic::F32);
    let exact = all_logits(&decoded, &tokens);
    let sum: f64 = logprobs(&exact, &tokens).iter().sum();
    let difference = sum - passage["sum_logprob"].as_f64().unwrap();
    eprintln!("decoded: the sum over the passage differs by {difference:.1e}");
    assert!(difference.abs() <= 1e-2, "{difference}");
    let of_folder = all_logits(&model(dir, Arithmetic::F32), &tokens);
    let difference = largest_difference(&exact, &of_folder);
    eprintln!("decoded: logits differ from the folder's by at most {difference:.1e}");
    assert!(difference <= 1e-3, "{difference}");

    let kept = mean_kl(&exact, &all_logits(&model(&file, Arithmetic::Auto), &tokens));
    eprintln!("kept quantised: mean KL {kept:.2e}");
    assert!(kept < 5e-3, "{kept}");
    for (quantize, most) in [(Quantize::Q8_0, 5e-3), (Quantize::Q4K, 0.1)] {
        let mut opened = self::opened(dir);
        opened.quantize = Some(quantize);
        let model = opened.load(Arithmetic::Auto, Place::Cpu, &Watch::nobody()).unwrap();
        let kl = mean_kl(&exact, &all_logits(&model, &tokens));
        eprintln!("--quantize {}: mean KL {kl:.2e}", quantize.name());
        assert!(kl < most, "{kl}");
    }
}

/// The file that the folder was made from, beside it.
fn smollm2_gguf(dir: &Path) -> Option<PathBuf> {
    let file = dir.parent()?.join("gguf/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !file.exists() {
        skipped(&format!("{} is not there", file.display()));
        return None;
    }
    Some(file)
}
