//! `infer bench --compare`: other programs, timed with what was timed here.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use infer::bench::Row;
use infer::progress::Watch;
use infer::{Error, Result};

use crate::cli::PeerName;

/// What is to be timed.
pub(crate) struct Request<'a> {
    /// The model's config.
    pub(crate) config: &'a str,
    /// Its file, if it is a GGUF file that runs as it is.
    pub(crate) file: Option<&'a Path>,
    /// The device, as all programs call it.
    pub(crate) device: &'a str,
    /// The layers on a GPU, and one for the head.
    pub(crate) num_gpu_layers: usize,
    /// The type of the arithmetic, as PyTorch calls it.
    pub(crate) dtype: &'static str,
    /// What was timed here.
    pub(crate) rows: &'a [Row],
    /// How often.
    pub(crate) repeats: usize,
}

/// Another program's times.
pub(crate) struct Peer {
    pub(crate) which: PeerName,
    /// What was timed, as in "transformers 5.17.0, PyTorch 2.11.0".
    pub(crate) name: String,
    /// The seconds of each row, of those that it has.
    pub(crate) seconds: Vec<Option<f64>>,
}

impl PeerName {
    /// What it is called.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::Compiled => "transformers compiled",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Whose weights it has.
    pub(crate) fn weights(self) -> &'static str {
        match self {
            Self::Transformers | Self::Compiled => "random weights",
            Self::LlamaCpp => "the same file",
        }
    }

    /// The program that times it.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Transformers | Self::Compiled => "python3",
            Self::LlamaCpp => "llama-bench",
        }
    }

    pub(crate) fn failed(self, reason: String) -> Error {
        Error::Peer { peer: self.title(), reason }
    }
}

/// The programs that are to be timed: those `named`, or those that there are. The error is that of one that was
/// named and cannot be, as far as that is known beforehand.
pub(crate) fn asked(named: &[PeerName], file: Option<&Path>) -> Result<Vec<PeerName>> {
    if named.is_empty() {
        let has_llama_cpp = file.is_some() && is_on_path(PeerName::LlamaCpp.program());
        let llama_cpp = has_llama_cpp.then_some(PeerName::LlamaCpp);
        return Ok([PeerName::Transformers].into_iter().chain(llama_cpp).collect());
    }
    for &peer in named {
        if peer == PeerName::LlamaCpp && file.is_none() {
            let place = "but for a GGUF file that runs as it is: llama-bench reads nothing else";
            return Err(Error::NoMeaning { option: "--compare=llama.cpp", place });
        }
        if !is_on_path(peer.program()) {
            return Err(peer.failed(format!("{} is not on PATH", peer.program())));
        }
    }
    Ok(named.to_vec())
}

fn is_on_path(program: &str) -> bool {
    let file = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(&file).is_file()))
}

/// Runs a peer's program to its end, and returns what it printed. The error is that of one that is not there, or
/// fails.
pub(crate) fn output(
    which: PeerName,
    args: &[&str],
    input: &str,
    watch: &Watch,
) -> Result<Vec<u8>> {
    let mut command = Command::new(which.program());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let not_started = |error| which.failed(format!("{}: {error}", which.program()));
    let mut child = command.spawn().map_err(not_started)?;
    let stdin = child.stdin.take();
    // What is written to a program that ended before it read tells less than its own words.
    let _ = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let Ended { is_success, output, words } = wait(which, child, watch)?;
    if is_success { Ok(output) } else { Err(which.failed(last_line(&words))) }
}

/// What a program that ended has said.
struct Ended {
    is_success: bool,
    output: Vec<u8>,
    words: Vec<u8>,
}

/// Waits for a program, which is ended if `watch` says so.
fn wait(which: PeerName, mut child: Child, watch: &Watch) -> Result<Ended> {
    let failed = |error: io::Error| which.failed(error.to_string());
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

/// What a program said last: of a Python error the error itself.
fn last_line(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned()
}
