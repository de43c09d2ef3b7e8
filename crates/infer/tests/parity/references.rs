//! Where the models and transformers' numbers of them lie, and what is asked of a model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, IndexOp, Tensor};
use checkpoint::Checkpoint;
use infer::device::Devices;
use infer::progress::Watch;
use infer::source::MappedWeights;
use infer::{DecoderConfig, Model};
use serde_json::Value;
use testkit::skipped;

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The numbers of transformers in `file` of the folder shared with other projects, if that is there.
pub(crate) fn reference(file: &str) -> Option<Value> {
    let path = data().join(file);
    match std::fs::read(&path) {
        Ok(text) => Some(serde_json::from_slice(&text).unwrap()),
        Err(error) => {
            let path = path.display();
            skipped(&format!("{path} is not read ({error}); INFER_TEST_DATA names its folder"));
            None
        }
    }
}

fn data() -> PathBuf {
    let default = || Path::new(ROOT).join("../shared/data");
    std::env::var_os("INFER_TEST_DATA").map_or_else(default, PathBuf::from)
}

/// The folder of SmolLM2-135M-Instruct, made from its package if it is not there yet.
pub(crate) fn smollm2() -> Option<&'static Path> {
    static MADE: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        if let Some(dir) = std::env::var_os("INFER_TEST_SMOLLM2") {
            return Some(dir.into());
        }
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smollm2");
        let (dir, marker) = (out.join("hf"), out.join("made"));
        if marker.exists() {
            return Some(dir);
        }
        let script = data().join("get-smollm2.py");
        let made = Command::new("python3").arg(&script).arg(&out).output();
        if made.is_ok_and(|made| made.status.success()) {
            std::fs::write(marker, "").unwrap();
            return Some(dir);
        }
        let script = script.display();
        skipped(&format!("{script} failed; INFER_TEST_SMOLLM2 names its hf folder"));
        None
    });
    MADE.as_deref()
}

/// The model in the folder `dir`, in f32 on the CPU.
pub(crate) fn load(dir: &Path) -> Model {
    let checkpoint = Arc::new(Checkpoint::open(dir).unwrap());
    let config = DecoderConfig::read(checkpoint.config(), &checkpoint.config_path()).unwrap();
    let source = MappedWeights::open(checkpoint, DType::F32).unwrap();
    let devices = Devices::all(&Device::Cpu, config.num_hidden_layers);
    Model::load(config, &source, devices, &Watch::nobody()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The logits behind every token, without a cache that held anything: (n, `vocab_size`).
pub(crate) fn all_logits(model: &Model, tokens: &[u32]) -> Tensor {
    let mut cache = model.cache(tokens.len()).unwrap();
    model.logits(&model.forward(tokens, &mut cache).unwrap()).unwrap()
}

/// The numbers of row `row`.
pub(crate) fn row(logits: &Tensor, row: usize) -> Vec<f32> {
    logits.i(row).unwrap().to_vec1().unwrap()
}

/// The log-probability of each token behind the first.
pub(crate) fn logprobs(logits: &Tensor, tokens: &[u32]) -> Vec<f64> {
    let of = |(i, &next): (usize, &u32)| {
        let logits = row(logits, i);
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
        f64::from(logits[next as usize] - max) - sum.ln()
    };
    tokens[1..].iter().enumerate().map(of).collect()
}

/// Generates greedily with the cache, at most `max_new` tokens, up to and with `eos`.
pub(crate) fn greedy(model: &Model, prompt: &[u32], max_new: usize, eos: u32) -> Vec<u32> {
    let mut cache = model.cache(prompt.len() + max_new).unwrap();
    let (mut new, mut next) = (Vec::new(), prompt.to_vec());
    while new.len() < max_new && new.last() != Some(&eos) {
        let hidden = model.forward(&next, &mut cache).unwrap();
        let last = hidden.narrow(0, next.len() - 1, 1).unwrap();
        let logits = row(&model.logits(&last).unwrap(), 0);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        new.push(best as u32);
        next = vec![best as u32];
    }
    new
}

/// How far `logits` are from the pairs of id and logit in `expected`, at most.
#[track_caller]
pub(crate) fn largest_difference(logits: &[f32], expected: &[(usize, f64)]) -> f64 {
    let mut best: Vec<usize> = (0..logits.len()).collect();
    best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let found: Vec<usize> = best[..expected.len()].to_vec();
    let ids: Vec<usize> = expected.iter().map(|&(id, _)| id).collect();
    assert_eq!(found, ids, "the best tokens, in order");
    let difference = |&(id, logit): &(usize, f64)| (f64::from(logits[id]) - logit).abs();
    expected.iter().map(difference).fold(0.0, f64::max)
}
