//! A folder with `base.gguf` in it, and `dus` run there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use testkit::Survey;
use testkit::gguf::tiny::{assert_same, expected};
use testkit::gguf::{ReadGguf, TinyGguf, read};

use crate::dus::{Said, dus, run};

/// A plan for four layers, and which layer each of its six is.
pub(crate) const PLAN: &str = "0..3 + 1..4";
pub(crate) const LAYERS: [usize; 6] = [0, 1, 2, 1, 2, 3];

/// A folder to work in.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    /// A folder with `model` as `base.gguf`.
    pub(crate) fn with(model: &TinyGguf) -> Self {
        let place = Self::empty();
        model.write(&place.path("base.gguf"));
        place
    }

    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What is called `name` in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dus(&self, args: &[&str]) -> Said {
        run(dus(self.dir()), args)
    }

    /// Builds `base.gguf` by [`PLAN`] to `out.gguf`, replacing an earlier build, and returns what
    /// `--json` prints.
    #[track_caller]
    pub(crate) fn build(&self, flags: &[&str]) -> Value {
        self.build_by(PLAN, flags)
    }

    /// The same by another plan.
    #[track_caller]
    pub(crate) fn build_by(&self, plan: &str, flags: &[&str]) -> Value {
        let args = ["build", "base.gguf", "--layers", plan, "-o", "out.gguf", "--force", "--json"];
        self.dus(&[&args[..], flags].concat()).done().json()
    }

    /// What `out.gguf` holds.
    pub(crate) fn built(&self) -> ReadGguf {
        read(&self.path("out.gguf"))
    }

    /// Asserts that `out.gguf` is as it was built, by `verify` and by its tensors' bytes.
    #[track_caller]
    pub(crate) fn check_built(&self, source: &ReadGguf, layers: &[usize]) {
        let built = self.built();
        assert_eq!(built.version, 3);
        assert_same(&built.tensors, &expected(&source.tensors, layers));
        self.verified(&["out.gguf"]);
    }

    /// Asserts that `dus verify ARGS` finds no difference.
    #[track_caller]
    pub(crate) fn verified(&self, args: &[&str]) {
        let verdict = self.dus(&[&["verify", "--json"], args].concat()).done().json();
        assert_eq!(
            (&verdict["equal"], verdict["differences"].as_array().unwrap().len()),
            (&true.into(), 0)
        );
    }

    /// Asserts that `dus build base.gguf ARGS` ends with 2, names all of `expected` and leaves no trace,
    /// and that `dus plan` says the same.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str], expected: &[&str]) {
        for command in ["plan", "build"] {
            self.refused_by(command, args, expected);
        }
    }

    /// The same of one command.
    #[track_caller]
    pub(crate) fn refused_by(&self, command: &str, args: &[&str], expected: &[&str]) {
        let before = Survey::of(self.dir());
        let said = self.dus(&[&[command], args].concat());
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(
            said.stderr.starts_with("error: ") && !said.stderr.contains("panicked"),
            "{said:#?}"
        );
        for part in expected {
            assert!(said.stderr.contains(part), "{part:?} is missing: {said:#?}");
        }
        assert_eq!(Survey::of(self.dir()).changes_since(&before, false), "", "{said:#?}");
    }

    /// The names in the folder, sorted, but for the base.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = crate::dus::names(self.dir());
        names.retain(|name| name != "base.gguf");
        names
    }
}

/// Changes one byte of the file.
pub(crate) fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}
