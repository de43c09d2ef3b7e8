//! A folder with a base in it, and `dus` run there.

#![allow(dead_code, reason = "each of the four test programs uses a part of it")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testkit::{Survey, Tensors, TinyModel, raw, weights};

/// A plan for four layers, and which layer each of its six is.
pub(crate) const PLAN: &str = "0..3 + 1..4";
pub(crate) const LAYERS: [usize; 6] = [0, 1, 2, 1, 2, 3];

/// Runs what follows on one core, the first of those that this process may use.
pub(crate) const ON_ONE_CORE: &str = "taskset -c $(taskset -cp $$ | sed 's/.*: //; s/[^0-9].*//')";

/// A folder to work in: the base is `base`, a build goes to `out`.
pub(crate) struct Workshop {
    dir: TempDir,
}

/// What a run of `dus` came to.
#[derive(Debug)]
pub(crate) struct Run {
    /// The exit code; -1 for a signal.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Workshop {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with `model` as the base.
    pub(crate) fn with(model: &TinyModel) -> Self {
        let workshop = Self::new();
        model.write(&workshop.path("base"));
        workshop
    }

    /// What is called `name` in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `dus` in the folder, with an empty hub cache.
    pub(crate) fn dus(&self, args: &[&str]) -> Run {
        let mut dus = Command::new(env!("CARGO_BIN_EXE_dus"));
        dus.args(args).current_dir(self.dir.path());
        self.run(dus)
    }

    /// Runs any command likewise, wherever it stands.
    pub(crate) fn run(&self, mut command: Command) -> Run {
        command.env("HF_HUB_CACHE", self.path("hub")).env("HF_HUB_OFFLINE", "1");
        let mut command = assert_cmd::Command::from_std(command);
        let output = command.timeout(Duration::from_mins(2)).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap_or(-1);
        Run { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs `dus build ARGS -o out`, replacing an earlier build, and returns what `--json` prints.
    #[track_caller]
    pub(crate) fn build(&self, args: &[&str]) -> Value {
        self.dus(&[&["build"], args, &["-o", "out", "--force", "--json"]].concat()).json(0)
    }

    /// The same, from the folder `base` by the plan [`PLAN`].
    #[track_caller]
    pub(crate) fn build_base(&self, flags: &[&str]) -> Value {
        self.build(&[&["base", "--layers", PLAN], flags].concat())
    }

    /// What `dus plan ARGS --json` prints, when a build would be done.
    #[track_caller]
    pub(crate) fn plan(&self, args: &[&str]) -> Value {
        self.dus(&[&["plan"], args, &["--json"]].concat()).json(0)
    }

    /// Asserts that `dus verify ARGS` finds the build to be as it was built.
    #[track_caller]
    pub(crate) fn verified(&self, args: &[&str]) -> Value {
        let verdict = self.dus(&[&["verify"], args, &["--json"]].concat()).json(0);
        assert_eq!((&verdict["equal"], &verdict["differences"]), (&true.into(), &[(); 0].into()));
        verdict
    }

    /// Asserts that `dus build ARGS -o out` ends with 2, names all of `expected` and leaves no trace,
    /// and that `dus plan` foresees it if `foreseen`.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str], expected: &[&str], foreseen: bool) {
        for command in ["plan", "build"] {
            let before = Survey::of(self.dir.path());
            let run = self.dus(&[&[command], args, &["-o", "out"]].concat());
            let changes = Survey::of(self.dir.path()).changes_since(&before, false);
            assert_eq!(changes, "", "{command}: {run:?}");
            if command == "plan" && !foreseen {
                assert_eq!(run.code, 0, "{command}: {}", run.stderr);
                continue;
            }
            assert_eq!(run.code, 2, "{command}: {}{}", run.stdout, run.stderr);
            for part in expected {
                assert!(run.stderr.contains(part), "{command}: no {part:?} in {}", run.stderr);
            }
        }
    }

    /// The tensors of the build in `out`.
    #[track_caller]
    pub(crate) fn built(&self) -> Tensors {
        weights::read(&self.path("out"))
    }

    /// A JSON file of the build in `out`.
    pub(crate) fn json_of(&self, file: &str) -> Value {
        raw::read_json(&self.path("out").join(file))
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes a link called `name` to `target`.
    pub(crate) fn link(&self, name: &str, target: &str) {
        symlink(target, self.path(name)).unwrap();
    }

    /// All files of the folder `name`, by their paths inside it, sorted.
    pub(crate) fn files(&self, name: &str) -> Vec<String> {
        fn walk(dir: &Path, root: &Path, files: &mut Vec<String>) {
            for entry in dir.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, files);
                } else {
                    files.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.path(name), &self.path(name), &mut files);
        files.sort();
        files
    }
}

impl Run {
    /// Asserts the exit code, and returns stdout, which is one JSON object.
    #[track_caller]
    pub(crate) fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let value: Value = serde_json::from_str(&self.stdout).unwrap();
        assert!(value.is_object(), "{value}");
        value
    }
}
