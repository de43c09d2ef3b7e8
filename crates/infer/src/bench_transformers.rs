//! transformers, timed by a script of ours if `python3` has it.

use infer::Result;
use infer::bench::Row;
use infer::progress::Watch;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bench_peer::{self, Peer, Request};
use crate::cli::PeerName;

const SCRIPT: &str = include_str!("../../../scripts/bench_transformers.py");

#[derive(Deserialize)]
struct Answer {
    transformers: String,
    torch: String,
    rows: Vec<Timed>,
    /// Why no row has seconds of a compiled step.
    not_compiled: Option<String>,
}

#[derive(Deserialize)]
struct Timed {
    seconds: f64,
    compiled_seconds: Option<f64>,
}

/// Has the script time all of it, and with `compile` decoding with a compiled step as well; the one may be had
/// without the other.
pub(crate) fn run(request: &Request, compile: bool, watch: &Watch) -> Vec<Result<Peer>> {
    let which = PeerName::Transformers;
    let answer = match answer(request, compile, watch) {
        Ok(answer) => answer,
        Err(error) => return vec![Err(error)],
    };
    let name = format!("transformers {}, PyTorch {}", answer.transformers, answer.torch);
    let seconds = answer.rows.iter().map(|row| Some(row.seconds)).collect();
    let mut peers = vec![Ok(Peer { which, name: name.clone(), seconds })];
    if compile {
        let which = PeerName::Compiled;
        peers.push(match answer.not_compiled {
            Some(reason) => Err(which.failed(reason)),
            None => Ok(Peer {
                which,
                name: name + ", static cache, compiled step",
                seconds: answer.rows.iter().map(|row| row.compiled_seconds).collect(),
            }),
        });
    }
    peers
}

fn answer(request: &Request, compile: bool, watch: &Watch) -> Result<Answer> {
    let which = PeerName::Transformers;
    let config: Value =
        serde_json::from_str(request.config).map_err(|error| which.failed(error.to_string()))?;
    let row = |row: &Row| {
        json!({
            "what": row.what.word(), "num_tokens": row.num_tokens,
            "context": row.context, "batch": row.batch,
        })
    };
    let rows: Vec<Value> = request.rows.iter().map(row).collect();
    let (device, dtype, repeats) = (request.device, request.dtype, request.repeats);
    let asked = json!({
        "config": config, "device": device, "dtype": dtype, "rows": rows, "repeats": repeats,
        "compile": compile,
    });
    let output = bench_peer::output(which, &["-c", SCRIPT], &asked.to_string(), watch)?;
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|error| which.failed(error.to_string()))?;
    if answer.rows.len() != request.rows.len() {
        return Err(which.failed(format!("{} rows came back", answer.rows.len())));
    }
    Ok(answer)
}
