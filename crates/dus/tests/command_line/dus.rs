//! The program, run as a user runs it. Several tests share this file.

#![allow(dead_code, reason = "each test that includes this file uses some of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testkit::{Tensors, splice, weights};

/// The root of the project, with `examples/` and `configs/`.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The tiny trained model of 32 layers.
pub(crate) fn tiny_mistral() -> PathBuf {
    project().join("examples/tiny-mistral-32l")
}

/// The program, to be run in the folder `dir`, with the hub's cache at `hub` in it.
pub(crate) fn dus(dir: &Path) -> Command {
    let mut dus = Command::new(env!("CARGO_BIN_EXE_dus"));
    within(&mut dus, dir);
    dus
}

/// The program as [`dus`] runs it, watched and tampered with by strace.
pub(crate) fn dus_under_strace(dir: &Path, strace: &[&str]) -> Command {
    let mut dus = Command::new("strace");
    dus.args(["-f", "-qq", "-o", "/dev/null"]).args(strace).arg(env!("CARGO_BIN_EXE_dus"));
    within(&mut dus, dir);
    dus
}

fn within(command: &mut Command, dir: &Path) {
    command.current_dir(dir).env("HF_HUB_CACHE", dir.join("hub")).env("COLUMNS", "80");
    // No test asks the real hub; those of the hub name one on this machine.
    command.env("HF_HUB_OFFLINE", "1");
}

/// Whether strace is installed and may watch; says so if not.
pub(crate) fn has_strace() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: strace is not installed, or ptrace is not allowed");
    }
    works
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) call: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` with `args` to its end.
#[track_caller]
pub(crate) fn run(mut command: Command, args: &[&str]) -> Said {
    command.args(args);
    let output = assert_cmd::Command::from_std(command).timeout(Duration::from_mins(2)).output();
    said(args, &output.unwrap())
}

/// What an ended call with `args` came to.
pub(crate) fn said(args: &[&str], output: &std::process::Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said {
        call: format!("dus {}", args.join(" ")),
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

impl Said {
    /// Asserts that it was done.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that it could not be done, that stderr names all of `expected`, and stdout is empty.
    #[track_caller]
    pub(crate) fn refused(self, expected: &[&str]) -> Self {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        for part in expected {
            assert!(self.stderr.contains(part), "{part:?} is missing: {self:#?}");
        }
        self
    }

    /// Stdout, which is one JSON object and nothing else.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON: {error}: {self:#?}"));
        assert!(value.is_object() && self.stdout.ends_with("}\n"), "{self:#?}");
        value
    }
}

/// Asserts that the model in `out` has the tensors of `base`, with layer j being layer `layers[j]`.
#[track_caller]
pub(crate) fn assert_spliced(out: &Path, base: &Tensors, layers: impl IntoIterator<Item = usize>) {
    let layers: Vec<usize> = layers.into_iter().collect();
    let expected = splice::expected(base, &layers, "model.layers");
    splice::assert_same(&weights::read(out), &expected);
}

/// The names in the folder `dir`, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}
