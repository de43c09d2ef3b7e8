//! How fast a step of a decoder is on a GPU, beside what the card's memory allows.
//!
//!     cargo run --release -p kernels --example decode_speed -- [solar|smollm2] [f16|bf16|q8_0|q4_k] [CONTEXT,…] [BATCH,…]
//!
//! Weights are random, and all layers have the same numbers in memory of their own. A line for each
//! context and batch: milliseconds a step, tokens/s of all sequences, and the share of the bandwidth,
//! measured in the same run, that the bytes of weights, keys and values come to.

use std::sync::Arc;

use kernels::bandwidth::read_bytes_per_second;
use kernels::decode::{Cache, Decoder, Element, LayerWeights, Shape, Weights};
use kernels::forms::{Form, Matrix};
use kernels::{Gpu, Result};

/// Steps of a measurement, and how many of these there are: the median counts.
const STEPS: usize = 20;
const REPEATS: usize = 5;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).map_or(default, String::as_str).to_owned();
    let (model, ty) = (arg(0, "solar"), arg(1, "bf16"));
    let numbers = |text: String| -> Vec<usize> {
        text.split(',').filter_map(|number| number.parse().ok()).collect()
    };
    let (contexts, batches) = (numbers(arg(2, "128,1920,4096")), numbers(arg(3, "1,2,4,8")));
    let (shape, num_layers) = if model == "smollm2" { smollm2() } else { solar() };
    let (form, element) = match ty.as_str() {
        "q8_0" => (Form::Q8_0, Element::F16),
        "q4_k" => (Form::Q4K, Element::F16),
        "f16" => (Form::Dense, Element::F16),
        _ => (Form::Dense, Element::BF16),
    };
    let gpu = Gpu::open(0)?;
    let bandwidth = read_bytes_per_second(&gpu, 8 << 30)?;
    println!("{}: {:.1} GB/s are read", gpu.name()?, bandwidth / 1e9);

    let positions = contexts.iter().max().map_or(0, |n| n + STEPS * (REPEATS + 1) + 1);
    let (weights, step_bytes) = random(&gpu, &shape, num_layers, form)?;
    let angles = vec![0.7_f32; positions * shape.head_dim / 2];
    let mut decoder = Decoder::new(&gpu, shape, element, weights, [&angles, &angles])?;
    println!("{model}, {ty}: a step reads {:.2} GB of weights", step_bytes as f64 / 1e9);
    for &context in &contexts {
        for &batch in &batches {
            if batch > 1 && context != contexts[0] {
                continue;
            }
            let mut caches: Vec<Cache> =
                (0..batch).map(|_| decoder.cache(positions)).collect::<Result<_>>()?;
            let mut times = Vec::new();
            for _ in 0..=REPEATS {
                for cache in &mut caches {
                    cache.len = context;
                }
                let seconds = gpu.seconds(|| {
                    for step in 0..STEPS {
                        let token = |i: usize| ((step * 7919 + i * 13) % shape.vocab_size) as u32;
                        let caches = caches.iter_mut().enumerate();
                        let mut batch: Vec<(u32, &mut Cache)> =
                            caches.map(|(i, cache)| (token(i), cache)).collect();
                        decoder.step(&mut batch)?;
                    }
                    Ok(())
                })?;
                times.push(seconds / STEPS as f64);
            }
            // The first one warms up.
            times.remove(0);
            times.sort_by(f64::total_cmp);
            let seconds = times[REPEATS / 2];
            let position = 2 * num_layers * shape.num_key_value_heads * shape.head_dim * 2;
            let held = batch * position * (context + STEPS / 2);
            let bytes = (step_bytes + held) as f64;
            println!(
                "context {context:5} batch {batch}: {:.3} ms, {:.1} tokens/s, {:.3} of the bandwidth",
                seconds * 1e3,
                batch as f64 / seconds,
                bytes / seconds / bandwidth,
            );
        }
    }
    Ok(())
}

fn solar() -> (Shape, usize) {
    let shape = Shape {
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 128,
        vocab_size: 32_000,
        rms_norm_eps: 1e-5,
    };
    (shape, 48)
}

fn smollm2() -> (Shape, usize) {
    let shape = Shape {
        hidden_size: 576,
        intermediate_size: 1536,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 49_152,
        rms_norm_eps: 1e-5,
    };
    (shape, 30)
}

/// Weights that are small and not all alike, and the bytes that a step reads of them.
fn random(gpu: &Arc<Gpu>, shape: &Shape, layers: usize, form: Form) -> Result<(Weights, usize)> {
    let queries = shape.num_attention_heads * shape.head_dim;
    let keys = shape.num_key_value_heads * shape.head_dim;
    let matrix = |outputs: usize, inputs: usize| -> Result<Matrix> {
        Matrix::upload(gpu, form, &bytes(form, outputs * inputs), inputs)
    };
    let ones = |n: usize| gpu.upload(&vec![1.0_f32; n]).map(Arc::new);
    let embedding = matrix(shape.vocab_size, shape.hidden_size)?;
    let first = LayerWeights {
        qkv: matrix(queries + 2 * keys, shape.hidden_size)?,
        o: matrix(shape.hidden_size, queries)?,
        gate_up: matrix(2 * shape.intermediate_size, shape.hidden_size)?,
        down: matrix(shape.hidden_size, shape.intermediate_size)?,
        input_norm: ones(shape.hidden_size)?,
        post_norm: ones(shape.hidden_size)?,
        qk_norm: None,
        biases: [None, None, None, None],
        window: None,
    };
    let mut all = vec![first.clone()];
    for _ in 1..layers {
        all.push(LayerWeights {
            qkv: first.qkv.copied()?,
            o: first.o.copied()?,
            gate_up: first.gate_up.copied()?,
            down: first.down.copied()?,
            ..first.clone()
        });
    }
    let of_layer = |layer: &LayerWeights| {
        [&layer.qkv, &layer.o, &layer.gate_up, &layer.down].map(Matrix::bytes).iter().sum::<usize>()
    };
    let read = all.iter().map(of_layer).sum::<usize>() + embedding.bytes();
    let norm = ones(shape.hidden_size)?;
    let head = matrix(shape.vocab_size, shape.hidden_size)?;
    Ok((Weights { embedding, layers: all, norm, head }, read))
}

/// So many weights as a file has them.
fn bytes(form: Form, count: usize) -> Vec<u8> {
    let mix = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    match form {
        // Numbers between 2⁻⁹ and 2⁻⁷, of either sign, in both types of 16 bits.
        Form::Dense => {
            let number = |i: usize| (mix(i) as u16 & 0x83ff) | 0x1800;
            (0..count).flat_map(|i| number(i).to_le_bytes()).collect()
        }
        Form::Q8_0 => {
            let block = |i: usize| {
                let scale = 0x0400_u16.to_le_bytes();
                scale.into_iter().chain((0..32).map(move |j| mix(i * 32 + j) as u8))
            };
            (0..count / 32).flat_map(block).collect()
        }
        Form::Q4K => {
            let block = |i: usize| {
                let doubles = [0x00, 0x04, 0x00, 0x04];
                doubles.into_iter().chain((0..140).map(move |j| mix(i * 140 + j) as u8))
            };
            (0..count / 256).flat_map(block).collect()
        }
    }
}
