//! How fast prompts are on a GPU, and what a chunk's parts take.
//!
//!     cargo run --release -p kernels --example prefill_speed -- [f16|bf16|q8_0|q4_k] [TOKENS,…]
//!
//! The geometry is SOLAR's, 48 layers. Weights are random and the same in all layers, whose matrices are
//! far larger than the card's caches. A line for each number of tokens: the median of some prompts up to
//! the last token's logits, as a user waits for them. Then what the products and attention of one layer
//! take by themselves.

use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
use kernels::decode::{Decoder, Element, LayerWeights, Shape, Weights};
use kernels::flash::{Attention, Flash};
use kernels::forms::{Form, Matrix};
use kernels::gemm::{Gemm, Sizes, Sums};
use kernels::rows::Rows;
use kernels::{Buffer, Gpu, Result};

/// Prompts of a measurement, of which the median counts; the first is not counted.
const REPEATS: usize = 7;
const NUM_LAYERS: usize = 48;
const SOLAR: Shape = Shape {
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    vocab_size: 32_000,
    rms_norm_eps: 1e-5,
};
/// Rows of query, key and value projections together.
const QKV: usize = (32 + 2 * 8) * 128;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ty = args.first().map_or("bf16", String::as_str);
    let counts = args.get(1).map_or("512,2048", String::as_str);
    let counts: Vec<usize> = counts.split(',').filter_map(|count| count.parse().ok()).collect();
    let (form, element) = match ty {
        "q8_0" => (Form::Q8_0, Element::F16),
        "q4_k" => (Form::Q4K, Element::F16),
        "f16" => (Form::Dense, Element::F16),
        _ => (Form::Dense, Element::BF16),
    };
    let gpu = Gpu::open(0)?;
    println!("{}, {ty}", gpu.name()?);
    let most = counts.iter().max().copied().unwrap_or(0) + 1;
    let angle = |i: usize| (i / 64) as f32 * 10_000_f32.powf(-((i % 64) as f32) / 64.0);
    let angles: Vec<f32> = (0..most * 64).map(angle).collect();
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    let weights = random(&gpu, form, element)?;
    let mut decoder = Decoder::new(&gpu, SOLAR, element, weights, [&cos, &sin])?;
    let mut cache = decoder.cache(most)?;
    for &count in &counts {
        let tokens: Vec<u32> = (0..count).map(|i| (mix(i) % 32_000) as u32).collect();
        let mut times = Vec::new();
        for _ in 0..=REPEATS {
            cache.len = 0;
            let begin = Instant::now();
            let hidden = decoder.prefill(&tokens, &mut cache)?;
            let logits = decoder.logits_of(&hidden, count - 1..count)?;
            times.push(begin.elapsed().as_secs_f64());
            assert!(logits.iter().all(|x| x.is_finite()));
        }
        let (first, seconds) = (times.remove(0), median(times));
        println!(
            "{count:5} tokens: {:.2} ms, {:.0} tokens/s (the first time {:.1} ms)",
            seconds * 1e3,
            count as f64 / seconds,
            first * 1e3
        );
    }
    drop((decoder, cache));
    for &count in &counts {
        if count <= kernels::prefill::CHUNK {
            parts(&gpu, element, count)?;
        }
    }
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Times the work of a layer by parts.
#[expect(clippy::print_stdout, reason = "an example prints")]
fn parts(gpu: &Arc<Gpu>, element: Element, rows: usize) -> Result<()> {
    let time = |name: &str, operations: f64, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..=REPEATS {
            let seconds = gpu.seconds(|| (0..4).try_for_each(|_| work()))?;
            times.push(seconds / 4.0);
        }
        let seconds = median(times);
        println!(
            "  {name:22} {:7.1} us  {:5.0} TFLOP/s",
            seconds * 1e6,
            operations / seconds / 1e12
        );
        Ok(())
    };
    println!("{rows} rows:");
    let halves = |count: usize, salt: usize| gpu.upload(&dense(element, count, 1.0, salt));
    let wide = halves(rows * 2 * SOLAR.intermediate_size, 1)?;
    let narrow = halves(rows * SOLAR.intermediate_size, 2)?;
    let weights = gpu.upload(&dense(element, 2 * SOLAR.intermediate_size * 4096, 0.02, 3))?;
    let x = gpu.upload(&vec![0.5_f32; rows * 4096])?;
    let mut gemm = Gemm::new(gpu, element)?;
    let products = [
        ("qkv", QKV, 4096, Sums::Rounded),
        ("o", 4096, 4096, Sums::Added),
        ("gate, up", 2 * SOLAR.intermediate_size, 4096, Sums::Rounded),
        ("down", 4096, SOLAR.intermediate_size, Sums::Added),
    ];
    for (name, outputs, inputs, sums) in products {
        let out = if sums == Sums::Added { &x } else { &wide };
        let sizes = Sizes { rows, outputs, inputs };
        let operations = 2.0 * (rows * outputs * inputs) as f64;
        time(name, operations, &mut || {
            gemm.multiply(narrow.at(0), weights.at(0), sizes, sums, out.at(0))
        })?;
    }
    let flash = Flash::new(gpu, element, 128)?;
    let (keys, values) = (halves(8 * rows * 128, 4)?, halves(8 * rows * 128, 5)?);
    let out: Buffer = gpu.zeros(rows * 4096 * 2)?;
    let attention = Attention {
        queries: narrow.at(0),
        query_stride: QKV,
        keys: keys.at(0),
        values: values.at(0),
        capacity: rows,
        out: out.at(0),
        num_rows: rows,
        start: 0,
        window: None,
        num_heads: 32,
        num_kv_heads: 8,
    };
    let pairs = (rows * (rows + 1) / 2) as f64;
    time("attention", pairs * 4.0 * 128.0 * 32.0, &mut || flash.attend(&attention))?;
    let others = Rows::new(gpu, element)?;
    let norm = gpu.upload(&vec![1.0_f32; 4096])?;
    time("a norm", 0.0, &mut || others.norm(x.at(0), rows, &norm, 1e-5, narrow.at(0)))?;
    time("the gate", 0.0, &mut || {
        others.gate(wide.at(0), rows, SOLAR.intermediate_size, None, narrow.at(0))
    })
}

fn random(gpu: &Arc<Gpu>, form: Form, element: Element) -> Result<Weights> {
    let matrix = |outputs: usize, inputs: usize| -> Result<Matrix> {
        let spread = 1.7 / (inputs as f32).sqrt();
        let bytes = match form {
            Form::Dense => dense(element, outputs * inputs, spread, inputs),
            _ => blocks(form, outputs * inputs),
        };
        Matrix::upload(gpu, form, &bytes, inputs)
    };
    let ones = gpu.upload(&vec![1.0_f32; SOLAR.hidden_size]).map(Arc::new)?;
    let layer = LayerWeights {
        qkv: matrix(QKV, SOLAR.hidden_size)?,
        o: matrix(SOLAR.hidden_size, SOLAR.hidden_size)?,
        gate_up: matrix(2 * SOLAR.intermediate_size, SOLAR.hidden_size)?,
        down: matrix(SOLAR.hidden_size, SOLAR.intermediate_size)?,
        input_norm: Arc::clone(&ones),
        post_norm: Arc::clone(&ones),
        qk_norm: None,
        biases: [None, None, None, None],
        window: None,
    };
    let embedding = matrix(SOLAR.vocab_size, SOLAR.hidden_size)?;
    Ok(Weights { head: embedding.clone(), embedding, layers: vec![layer; NUM_LAYERS], norm: ones })
}

fn mix(i: usize) -> u64 {
    let x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

/// Numbers of 16 bits from -`most` to `most`.
fn dense(element: Element, count: usize, most: f32, salt: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * 2);
    for i in 0..count {
        let x = ((mix(i + salt * 1_000_003) >> 40) as f32 / (1 << 23) as f32 - 1.0) * most;
        bytes.extend(match element {
            Element::F16 => f16::from_f32(x).to_le_bytes(),
            Element::BF16 => bf16::from_f32(x).to_le_bytes(),
        });
    }
    bytes
}

/// Random codes with small scales.
fn blocks(form: Form, count: usize) -> Vec<u8> {
    let (columns, bytes, head): (usize, usize, &[u8]) = match form {
        Form::Q8_0 => (32, 34, &[0x00, 0x0c]),
        _ => (256, 144, &[0x00, 0x04, 0x00, 0x04]),
    };
    let block = |i: usize| {
        let codes = (head.len()..bytes).map(move |j| mix(i * bytes + j) as u8);
        head.iter().copied().chain(codes)
    };
    (0..count / columns).flat_map(block).collect()
}
