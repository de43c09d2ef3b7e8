//! How far a GPU's logits are from the processor's in f32, over tokens that run at once.
//!
//!     cargo run --release -p infer --features cuda --example gpu_parity -- MODEL IDS.json [[cpu:]DTYPE[/LAYERS]]...
//!
//! MODEL is what `infer` takes; a recipe is run unbuilt. IDS.json is a list of tokens. For each DTYPE (f32,
//! f16, bf16, or auto for what is stored: the blocks of a GGUF file stay quantised), with only the last
//! LAYERS on the GPU where that is given, or all on the processor, a line of JSON: nats per token, the mean
//! and the greatest KL divergence in nats, how often the best token is the same, how far apart f32's two
//! best are where it is not, and how far apart logits are. What else must not matter is checked on the
//! way: tokens one by one, alone and beside those of other sequences, and two sequences at once.

use infer::device::Place;
use infer::load::{Arithmetic, Placing};
use infer::open::{Opened, Spec, Wanted};
use infer::placement::GpuLayers;
use infer::progress::Watch;
use infer::{Model, Result, Sequence};
use serde_json::json;

/// Tokens that run at once.
const PIECE: usize = 512;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, runs @ ..] = args.as_slice() else {
        println!("gpu_parity MODEL IDS.json [[cpu:]DTYPE[/LAYERS]]...");
        return Ok(());
    };
    let ids: Vec<u32> = serde_json::from_slice(&std::fs::read(ids).expect("IDS.json is there"))
        .expect("IDS.json is a list of tokens");
    let opened = Opened::find(&Spec::new(model), Wanted::Weights, &Watch::nobody())?;
    let positions = ids.len() + 64;
    let load = |placing: Placing| {
        opened.load_placed(placing, &opened.plan(placing, &[positions])?, &Watch::nobody())
    };
    let exact = Placing { arithmetic: Arithmetic::F32, place: Place::Cpu, ..Placing::default() };
    let expected = all_logits(&load(exact)?, &ids)?;
    for run in runs {
        let (place, placed) = match run.strip_prefix("cpu:") {
            Some(placed) => (Place::Cpu, placed),
            None => (Place::Cuda(0), run.as_str()),
        };
        let (dtype, layers) = placed.split_once('/').unwrap_or((placed, ""));
        let arithmetic = match dtype {
            "f32" => Arithmetic::F32,
            "f16" => Arithmetic::F16,
            "bf16" => Arithmetic::BF16,
            _ => Arithmetic::Auto,
        };
        let gpu_layers = layers.parse().map_or(GpuLayers::Auto, GpuLayers::Count);
        let model = load(Placing { arithmetic, place, gpu_layers, ..Placing::default() })?;
        let found = all_logits(&model, &ids)?;
        let vocab_size = model.config().vocab_size;
        let mut line = compared(&expected, &found, vocab_size);
        line["run"] = run.as_str().into();
        line["nats"] = nats(&found, &ids, vocab_size).into();
        line["cpu_f32_nats"] = nats(&expected, &ids, vocab_size).into();
        let stepped = steps(&model, &ids)?;
        line["steps"] = compared(&expected, &stepped, vocab_size);
        line["steps_max_abs"] = max_abs(&found, &stepped).into();
        line["steps_beside_max_abs"] = steps_beside(&model, &ids, &stepped)?.into();
        line["batch_max_abs"] = batch(&model, &ids, &found)?.into();
        println!("{line}");
    }
    Ok(())
}

/// The logits behind every token, one row after the other.
fn all_logits(model: &Model, ids: &[u32]) -> Result<Vec<f32>> {
    let mut cache = model.cache(ids.len())?;
    let mut logits = Vec::new();
    for piece in ids.chunks(PIECE) {
        let hidden = model.forward(piece, &mut cache)?;
        for first in (0..piece.len()).step_by(64) {
            let rows = hidden.narrow(0, first, 64.min(piece.len() - first))?;
            logits.extend(model.finite_logits(&rows, |_| ids.to_vec())?);
        }
    }
    Ok(logits)
}

/// The logits behind every token, which come one by one, as those of a text that is generated.
fn steps(model: &Model, ids: &[u32]) -> Result<Vec<f32>> {
    let mut cache = model.cache(ids.len())?;
    let mut logits = model.prompt_logits(&ids[..1], &mut cache)?;
    for at in 1..ids.len() {
        let stepped = model.step(&mut [Sequence { tokens: &ids[at..=at], cache: &mut cache }])?;
        logits.extend(model.finite(stepped, |_| ids[..=at].to_vec())?);
    }
    Ok(logits)
}

/// The greatest difference that it makes for a sequence's steps to be taken beside those of three others.
fn steps_beside(model: &Model, ids: &[u32], alone: &[f32]) -> Result<f32> {
    let vocab_size = model.config().vocab_size;
    let num_steps = ids.len().min(64) / 2;
    // The others have other tokens, and are longer.
    let begins: Vec<usize> = (0..4).map(|other| other * num_steps / 4).collect();
    let mut caches = begins.iter().map(|_| model.cache(1)).collect::<Result<Vec<_>>>()?;
    for (cache, &begin) in caches.iter_mut().zip(&begins) {
        if begin > 0 {
            model.prompt_logits(&ids[..begin], cache)?;
        }
    }
    let mut greatest = 0.0_f32;
    for step in 0..num_steps {
        let sequences = caches.iter_mut().zip(&begins);
        let mut sequences: Vec<Sequence> = sequences
            .map(|(cache, begin)| Sequence { tokens: &ids[begin + step..=begin + step], cache })
            .collect();
        let logits = model.step(&mut sequences)?;
        let expected = &alone[step * vocab_size..][..vocab_size];
        greatest = greatest.max(max_abs(&logits[..vocab_size], expected));
    }
    Ok(greatest)
}

/// The greatest difference that it makes to run beside a shorter sequence, and behind a beginning.
fn batch(model: &Model, ids: &[u32], whole: &[f32]) -> Result<f32> {
    let vocab_size = model.config().vocab_size;
    let (half, third) = (ids.len() / 2, ids.len() / 3);
    let (mut one, mut two) = (model.cache(ids.len())?, model.cache(ids.len())?);
    model.forward(&ids[..half], &mut one)?;
    let hidden = model.forward_batch(&mut [
        Sequence { tokens: &ids[..third], cache: &mut two },
        Sequence { tokens: &ids[half..], cache: &mut one },
    ])?;
    let mut greatest = 0.0_f32;
    for (row, at) in
        [(third - 1, third - 1), (third, half), (third + ids.len() - half - 1, ids.len() - 1)]
    {
        let logits = model.finite_logits(&hidden.narrow(0, row, 1)?, |_| ids.to_vec())?;
        greatest = greatest.max(max_abs(&logits, &whole[at * vocab_size..][..vocab_size]));
    }
    Ok(greatest)
}

/// The mean negative log-probability of each token behind those before it.
fn nats(logits: &[f32], ids: &[u32], vocab_size: usize) -> f64 {
    let rows = logits.chunks(vocab_size).zip(&ids[1..]);
    let sum: f64 = rows.map(|(row, &next)| log_softmax(row)[next as usize]).sum();
    -sum / (ids.len() - 1) as f64
}

fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn compared(expected: &[f32], found: &[f32], vocab_size: usize) -> serde_json::Value {
    let rows = expected.chunks(vocab_size).zip(found.chunks(vocab_size));
    let num_rows = rows.len();
    let (mut sum, mut greatest, mut gaps) = (0.0, 0.0_f64, Vec::new());
    for (expected, found) in rows {
        let (p, q) = (log_softmax(expected), log_softmax(found));
        let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        sum += kl;
        greatest = greatest.max(kl);
        if best(expected) != best(found) {
            let first = best(expected);
            let others = expected.iter().enumerate().filter(|&(id, _)| id != first);
            let second = others.map(|(_, &x)| x).fold(f32::NEG_INFINITY, f32::max);
            gaps.push(expected[first] - second);
        }
    }
    json!({
        "positions": num_rows,
        "mean_kl": sum / num_rows as f64,
        "max_kl": greatest,
        "top1": 1.0 - gaps.len() as f64 / num_rows as f64,
        "gaps_where_not": gaps,
        "max_abs": max_abs(expected, found),
    })
}

fn best(logits: &[f32]) -> usize {
    let better = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (1..logits.len()).fold(0, better)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    logits.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
}
