//! `infer bench --compare`: transformers, timed by a script of ours if `python3` has it.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use infer::bench::Row;
use infer::progress::Watch;
use infer::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("../../../scripts/bench_transformers.py");

/// What is to be timed.
pub(crate) struct Request<'a> {
    /// The model's config.
    pub(crate) config: &'a str,
    /// The device, as both programs call it.
    pub(crate) device: &'a str,
    /// The type of the arithmetic, as PyTorch calls it.
    pub(crate) dtype: &'static str,
    /// What was timed here.
    pub(crate) rows: &'a [Row],
    /// How often.
    pub(crate) repeats: usize,
}

/// transformers' times.
pub(crate) struct Peer {
    /// What was timed, as in "transformers 5.17.0, PyTorch 2.11.0".
    pub(crate) name: String,
    /// The seconds of each row.
    pub(crate) seconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Answer {
    transformers: String,
    torch: String,
    rows: Vec<Timed>,
}

#[derive(Deserialize)]
struct Timed {
    seconds: f64,
}

impl Request<'_> {
    /// Has the script time all of it. The error is that of a `python3` that is not there, lacks transformers, or
    /// fails.
    pub(crate) fn run(&self, watch: &Watch) -> Result<Peer> {
        let failed = |reason: String| Error::Peer { reason };
        let mut python = Command::new("python3");
        python.args(["-c", SCRIPT]).stdin(Stdio::piped());
        python.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = python.spawn().map_err(|error| failed(format!("python3: {error}")))?;
        let request = self.to_json()?.to_string();
        let stdin = child.stdin.take();
        // What is written to a script that ended before it read tells less than its own words.
        let _ = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(request.as_bytes()));
        let Ended { is_success, output, words } = wait(child, watch)?;
        if !is_success {
            return Err(failed(last_line(&words)));
        }
        let answer: Answer =
            serde_json::from_slice(&output).map_err(|error| failed(error.to_string()))?;
        if answer.rows.len() != self.rows.len() {
            return Err(failed(format!("{} rows came back", answer.rows.len())));
        }
        Ok(Peer {
            name: format!("transformers {}, PyTorch {}", answer.transformers, answer.torch),
            seconds: answer.rows.iter().map(|row| row.seconds).collect(),
        })
    }

    fn to_json(&self) -> Result<Value> {
        let config: Value = serde_json::from_str(self.config)
            .map_err(|error| Error::Peer { reason: error.to_string() })?;
        let row = |row: &Row| {
            json!({
                "what": row.what.word(), "num_tokens": row.num_tokens,
                "context": row.context, "batch": row.batch,
            })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        let (device, dtype, repeats) = (self.device, self.dtype, self.repeats);
        Ok(json!({
            "config": config, "device": device, "dtype": dtype, "rows": rows, "repeats": repeats,
        }))
    }
}

/// What a script that ended has said.
struct Ended {
    is_success: bool,
    output: Vec<u8>,
    words: Vec<u8>,
}

/// Waits for a script, which is ended if `watch` says so.
fn wait(mut child: Child, watch: &Watch) -> Result<Ended> {
    let failed = |error: io::Error| Error::Peer { reason: error.to_string() };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Pipes that nobody reads fill up, and the child would wait.
    let read = |pipe: Option<Box<dyn io::Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
        })
    };
    let output = read(stdout.map(|pipe| Box::new(pipe) as _));
    let words = read(stderr.map(|pipe| Box::new(pipe) as _));
    let status = loop {
        match child.try_wait().map_err(failed)? {
            None => thread::sleep(Duration::from_millis(20)),
            Some(status) => break status,
        }
        if let Err(cancelled) = watch.check() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(cancelled);
        }
    };
    let joined = |reader: thread::JoinHandle<io::Result<Vec<u8>>>| {
        reader.join().unwrap_or_else(|_| Err(io::Error::other("a reader failed"))).map_err(failed)
    };
    let (output, words) = (joined(output)?, joined(words)?);
    Ok(Ended { is_success: status.success(), output, words })
}

/// What a script said last: of a Python error the error itself.
fn last_line(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned()
}
