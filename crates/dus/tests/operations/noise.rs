//! Noise: of the size that the plan says, and the same wherever it is made.

use std::process::Command;

use serde_json::json;
use testkit::{Dtype, Family, Tensor, Tensors, TinyModel};

use crate::bases;
use crate::numbers::{numbers, tensor};
use crate::workshop::{ON_ONE_CORE, Workshop};

const SHAPE: [usize; 2] = [640, 512];

/// A base of two layers with one long tensor each, both the same.
fn base(source: &Tensor) -> Workshop {
    let workshop = Workshop::new();
    let named = |layer| (format!("model.layers.{layer}.mlp.weight"), source.clone());
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 2 });
    bases::write(&workshop.path("base"), &config, &[named(0), named(1)]);
    workshop
}

#[track_caller]
fn built(workshop: &Workshop, plan: &str) -> Tensors {
    workshop.build(&["base", "--layers", plan]);
    workshop.verified(&["out"]);
    workshop.built()
}

/// What was added to each number of `source`, over the root of the mean of the source's squares.
fn relative_noise(source: &Tensor, found: &Tensor) -> Vec<f64> {
    let numbers = [source, found].map(numbers);
    let squares: f64 = numbers[0].iter().map(|&it| f64::from(it).powi(2)).sum();
    let rms = (squares / numbers[0].len() as f64).sqrt();
    let pairs = numbers[0].iter().zip(&numbers[1]);
    pairs.map(|(&before, &after)| (f64::from(after) - f64::from(before)) / rms).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let len = values.len() as f64;
    values.sum::<f64>() / len
}

/// Mean and standard deviation lie within five standard errors, whatever the size of the weights.
#[test]
fn is_relative_to_the_root_mean_square() {
    for (magnitude, sigma) in [(1.0, 0.1), (1e-3, 0.5), (300.0, 0.01)] {
        let random = Tensor::random("weights", Dtype::F32, &SHAPE, 0.1);
        let numbers: Vec<f32> = numbers(&random).iter().map(|it| it * magnitude).collect();
        let source = tensor(Dtype::F32, &SHAPE, &numbers);
        let workshop = base(&source);
        let plan = format!("0 + 1{{mlp: noise {sigma}}}");
        let built = built(&workshop, &plan);
        assert_eq!(built["model.layers.0.mlp.weight"], source);
        let noise = relative_noise(&source, &built["model.layers.1.mlp.weight"]);
        let num_elements = noise.len() as f64;
        let center = mean(noise.iter().copied());
        let deviation = mean(noise.iter().map(|it| it * it)).sqrt();
        assert!(center.abs() < 5.0 * sigma / num_elements.sqrt(), "{center} for {sigma}");
        let error = (deviation / sigma - 1.0).abs();
        assert!(error < 5.0 / (2.0 * num_elements).sqrt(), "{deviation} for {sigma}");
        // Of a normal distribution 31.73 % lie beyond one standard deviation, 4.55 % beyond two.
        for (bound, expected) in [(1.0, 0.3173), (2.0, 0.0455)] {
            let beyond = noise.iter().filter(|it| it.abs() > bound * sigma).count() as f64;
            let part = beyond / num_elements;
            assert!((part - expected).abs() < 0.005, "{part} beyond {bound} σ");
        }
    }
}

/// Scales come first; noise is relative to the source, not to what the scale made of it.
#[test]
fn comes_after_scales_and_is_relative_to_the_source() {
    let source = Tensor::random("weights", Dtype::F32, &SHAPE, 0.0);
    let workshop = base(&source);
    let plain = built(&workshop, "0 + 1{mlp: noise 0.25}");
    let scaled = built(&workshop, "0 + 1{mlp: noise 0.25, mlp: scale 0}");
    let noise = relative_noise(&source, &plain["model.layers.1.mlp.weight"]);
    let alone = numbers(&scaled["model.layers.1.mlp.weight"]);
    let squares = mean(numbers(&source).iter().map(|&it| f64::from(it).powi(2)));
    for (noise, alone) in noise.iter().zip(alone) {
        assert!((noise * squares.sqrt() - f64::from(alone)).abs() < 1e-7, "{noise} {alone}");
    }
}

#[test]
fn differs_by_seed_and_by_tensor_and_by_nothing_else() {
    let source = Tensor::random("weights", Dtype::BF16, &SHAPE, 0.0);
    let workshop = base(&source);
    let first = built(&workshop, "(0..2){mlp: noise 0.1}*2");
    let tensors: Vec<&Tensor> = first.values().collect();
    for (i, tensor) in tensors.iter().enumerate() {
        assert!(tensors[..i].iter().all(|other| other != tensor), "layer {i} has another's noise");
        assert_ne!(**tensor, source);
    }
    assert_eq!(first, built(&workshop, "(0..2){mlp: noise 0.1}*2"));
    assert_eq!(first, built(&workshop, "(0..2){mlp: noise 0.1 seed=0}*2"));
    // It goes by the new name: how the plan came to that layer is nothing to it.
    assert_eq!(first, built(&workshop, "(1{mlp: noise 0.1} + 0{mlp: noise 1e-1})*2"));
    let other = built(&workshop, "(0..2){mlp: noise 0.1 seed=1}*2");
    for (name, tensor) in &first {
        let noises = [tensor, &other[name]].map(|tensor| relative_noise(&source, tensor));
        let products = noises[0].iter().zip(&noises[1]).map(|(a, b)| a * b);
        let correlation = mean(products) / 0.01;
        assert!(correlation.abs() < 5.0 / (noises[0].len() as f64).sqrt(), "{correlation}");
    }
}

/// One core or all, few threads or many, in any layout and by any way.
#[test]
fn is_the_same_on_any_number_of_cores() {
    let model = TinyModel { hidden_size: 256, intermediate_size: 3000, ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    let plan = "dus(1){*.*.*: noise 0.1, new *: scale 0.5, new o_proj: noise 0.3 seed=7}";
    workshop.build(&["base", "--layers", plan]);
    let expected = workshop.built();
    for (prefix, threads, flags) in [
        (ON_ONE_CORE, "1", ""),
        ("", "1", "--copy stream"),
        ("", "3", "--shard-layout source"),
        ("", "32", "--max-shard-size 100KB"),
    ] {
        let dus = env!("CARGO_BIN_EXE_dus");
        let line = format!("{prefix} {dus} build base --layers '{plan}' {flags} -o out --force -q");
        let mut sh = Command::new("sh");
        sh.args(["-c", &line]).env("RAYON_NUM_THREADS", threads).current_dir(workshop.path(""));
        let run = workshop.run(sh);
        assert_eq!(run.code, 0, "{line}: {}", run.stderr);
        testkit::splice::assert_same(&workshop.built(), &expected);
        workshop.verified(&["out"]);
    }
}

/// Of zeros, noise is zero; of biases it is relative to the bias alone.
#[test]
fn of_what_has_no_size() {
    let zeros = tensor(Dtype::BF16, &SHAPE, &vec![0.0; SHAPE[0] * SHAPE[1]]);
    let workshop = base(&zeros);
    for tensor in built(&workshop, "0..2{mlp: noise 3}").values() {
        assert!(numbers(tensor).iter().all(|&number| number == 0.0));
    }
    let workshop = base(&Tensor::new(Dtype::BF16, &[0, 4], []));
    assert_eq!(built(&workshop, "0..2{mlp: noise 3}").len(), 2);

    let model = TinyModel::of(Family::Qwen2);
    let workshop = Workshop::with(&model);
    let source = model.tensors_by_name();
    for (name, tensor) in built(&workshop, "0..4{q_proj: noise 0.1}") {
        let changed = tensor != source[&name];
        assert_eq!(changed, name.contains(".q_proj."), "{name}");
    }
}

/// Noise is relative to a size that such a tensor does not have.
#[test]
fn on_values_that_are_not_finite_is_refused() {
    for odd in [f32::NAN, f32::INFINITY] {
        let workshop = base(&tensor(Dtype::F32, &[3], &[1.0, odd, 2.0]));
        let args = ["base", "--layers", "0 + 1{mlp: noise 0.1}"];
        workshop.refused(&args, &["model.layers.1.mlp.weight", "not finite"], false);
    }
}
