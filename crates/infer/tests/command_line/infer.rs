//! The program, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use testkit::skipped;

/// The tiny trained model.
pub(crate) fn tiny() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tiny-mistral-32l");
    dir.canonicalize().unwrap().display().to_string()
}

/// A file of the folder with transformers' numbers, if that is there.
pub(crate) fn data(file: &str) -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let dir = std::env::var_os("INFER_TEST_DATA").map_or_else(default, PathBuf::from);
    let path = dir.join(file);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!("{} is not there; INFER_TEST_DATA names its folder", path.display()));
    None
}

/// The program; no test asks the real hub.
pub(crate) fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_infer"));
    program.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", "/nonexistent").env("COLUMNS", "80");
    program
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `infer` with `args` to its end.
#[track_caller]
pub(crate) fn infer(args: &[&str]) -> Said {
    infer_with_stdin(args, "")
}

/// The same, with `stdin`.
#[track_caller]
pub(crate) fn infer_with_stdin(args: &[&str], stdin: &str) -> Said {
    let mut program = program();
    program.args(args);
    let mut program = assert_cmd::Command::from_std(program);
    said(&program.write_stdin(stdin).timeout(Duration::from_mins(2)).output().unwrap())
}

pub(crate) fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

impl Said {
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that it could not be done, that stderr names all of `expected`, and stdout is empty.
    #[track_caller]
    pub(crate) fn refused(self, expected: &[&str]) -> Self {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{self:#?}");
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
