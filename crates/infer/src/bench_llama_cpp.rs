//! llama.cpp, timed by its own `llama-bench`.

use std::collections::BTreeSet;

use infer::Result;
use infer::bench::{Row, What};
use infer::progress::Watch;
use serde::Deserialize;

use crate::bench_peer::{self, Peer, Request};
use crate::cli::PeerName;

const WHICH: PeerName = PeerName::LlamaCpp;

/// What it has timed: `n_prompt` or `n_gen` tokens behind `n_depth`.
#[derive(Deserialize)]
struct Timed {
    build_commit: String,
    backends: String,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    samples_ns: Vec<u64>,
}

/// Has it time the rows of one sequence, on as many threads as here.
pub(crate) fn run(request: &Request, watch: &Watch) -> Result<Peer> {
    let rows = || request.rows.iter().filter(|row| row.batch == 1);
    let list = |what, number: fn(&Row) -> usize| {
        let numbers: BTreeSet<usize> = rows().filter(|row| row.what == what).map(number).collect();
        numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let prompts = list(What::Prefill, |row| row.num_tokens);
    let (steps, contexts) =
        (list(What::Decode, |row| row.num_tokens), list(What::Decode, |row| row.context));
    // In one run each prompt would be timed behind each context.
    let mut timed = Vec::new();
    if !prompts.is_empty() {
        timed.extend(llama_bench(request, ["-p", &prompts, "-n", "0", "-d", "0"], watch)?);
    }
    if !steps.is_empty() {
        timed.extend(llama_bench(request, ["-p", "0", "-n", &steps, "-d", &contexts], watch)?);
    }
    let first = timed.first().ok_or_else(|| WHICH.failed("it timed nothing".to_owned()))?;
    let backends = if request.num_gpu_layers == 0 { "CPU" } else { &first.backends };
    let name = format!("llama.cpp {} ({backends})", first.build_commit);
    let seconds = |row: &Row| {
        let (prompt, steps) = match row.what {
            What::Prefill => (row.num_tokens, 0),
            What::Decode => (0, row.num_tokens),
        };
        let wanted = (prompt, steps, row.context);
        let of = |timed: &&Timed| (timed.n_prompt, timed.n_gen, timed.n_depth) == wanted;
        let mut samples = timed.iter().find(of)?.samples_ns.clone();
        samples.sort_unstable();
        Some(*samples.get(samples.len() / 2)? as f64 / 1e9)
    };
    let seconds = |row: &Row| if row.batch == 1 { seconds(row) } else { None };
    Ok(Peer { which: WHICH, name, seconds: request.rows.iter().map(seconds).collect() })
}

fn llama_bench(request: &Request, what: [&str; 6], watch: &Watch) -> Result<Vec<Timed>> {
    let file = request.file.map_or_else(String::new, |file| file.display().to_string());
    let (layers, repeats) = (request.num_gpu_layers.to_string(), request.repeats.to_string());
    let threads = rayon::current_num_threads().to_string();
    let mut args = vec!["-m", &file, "-o", "json", "-r", &repeats, "-fa", "1", "-t", &threads];
    args.extend(["-ngl", &layers]);
    args.extend(what);
    if request.num_gpu_layers == 0 {
        args.extend(["-dev", "none"]);
    } else if let Some((_, number)) = request.device.split_once("cuda:") {
        args.extend(["-sm", "none", "-mg", number]);
    }
    let output = bench_peer::output(WHICH, &args, "", watch)?;
    serde_json::from_slice(&output).map_err(|error| WHICH.failed(error.to_string()))
}
