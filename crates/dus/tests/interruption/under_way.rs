//! A base that takes a while to build from, and a program that is under way. Two tests share this file.

#![allow(dead_code, reason = "each test that includes this file uses some of it")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use testkit::raw;

use crate::dus::{Said, names, said};

/// A layer of the base, which has four of them: 512 MiB, of which none are on the disk.
pub(crate) const LAYER_BYTES: u64 = 128 << 20;

/// A build of six layers, 768 MiB, byte by byte.
pub(crate) const BUILD: [&str; 6] = ["build", "base", "--layers", "dus(1)", "--copy", "stream"];

/// A folder with a large base, `base`.
pub(crate) fn with_large_base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    let tensors = [0, 1, 2, 3].map(|layer| (format!("h.{layer}.mlp.weight"), LAYER_BYTES));
    raw::write_sparse(&base.join("model.safetensors"), &tensors).unwrap();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    raw::write_json(&base.join("config.json"), &config);
    dir
}

/// Whether the hidden folder `partial` holds a shard with bytes in it.
fn has_shard(partial: &Path) -> bool {
    partial.join("model").read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            let is_shard = |entry: fs::DirEntry| {
                let name = entry.file_name();
                let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                name.to_string_lossy().ends_with(".safetensors") && bytes > 0
            };
            entry.is_ok_and(is_shard)
        })
    })
}

/// A program that has begun its work and has not ended.
pub(crate) struct UnderWay {
    child: Child,
    args: Vec<String>,
}

impl UnderWay {
    /// Starts `command` with `args` and comes back once `has_begun`.
    #[track_caller]
    pub(crate) fn start(
        mut command: Command,
        args: &[&str],
        has_begun: impl Fn(&Child) -> bool,
    ) -> Self {
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        while !has_begun(&child) {
            let goes_on = child.try_wait().unwrap().is_none();
            assert!(goes_on, "it ended before it was seen: {:#?}", child.wait_with_output());
            assert!(start.elapsed() < Duration::from_mins(1), "it does not begin");
            std::thread::sleep(Duration::from_micros(200));
        }
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { child, args }
    }

    /// Starts a build, and comes back once there is something in its folder `partial`.
    #[track_caller]
    pub(crate) fn build(command: Command, args: &[&str], partial: &Path) -> Self {
        Self::start(command, args, |_| has_shard(partial))
    }

    /// Sends `signal`, such as `INT`, `TERM` or `KILL`.
    pub(crate) fn send(self, signal: &str) -> Self {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Said {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        said(&args, &self.child.wait_with_output().unwrap())
    }
}

/// Asserts that the folder `dir` holds the files and folders `expected` and no others.
#[track_caller]
pub(crate) fn check_names(dir: &Path, expected: &[&str]) {
    assert_eq!(names(dir), expected);
}
