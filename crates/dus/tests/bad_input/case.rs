//! A model in a folder of its own, and what is asked of every refusal.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use testkit::{Survey, TinyModel, hub};

/// A plan that a base of four layers can be built with.
pub(crate) const PLAN: &str = "0..3 + 1..4";

/// Long enough for a terminal to break the line, which errors never do.
const LONG_NAME: &str =
    "a-folder-with-a-name-so-long-that-whoever-wraps-lines-at-eighty-columns-would-break-it-";

/// A folder in which the base is `base` and the output would be `out`.
pub(crate) struct Case {
    dir: TempDir,
    out: PathBuf,
    /// The recipe or model, the plan and all flags but `-o`.
    args: Vec<String>,
    program: PathBuf,
    /// User and group to run as.
    user: Option<u32>,
}

impl Case {
    /// A case about the default model of four layers.
    pub(crate) fn new() -> Self {
        Self::of(&TinyModel::default())
    }

    /// A case about the default model in three shards with an index.
    pub(crate) fn sharded() -> Self {
        Self::of(&TinyModel { num_shards: Some(3), ..TinyModel::default() })
    }

    /// A case about `model`.
    pub(crate) fn of(model: &TinyModel) -> Self {
        let case = Self::without_base();
        model.write(&case.base());
        case
    }

    /// A case whose base has yet to be made.
    pub(crate) fn without_base() -> Self {
        let dir = tempfile::Builder::new().prefix(LONG_NAME).tempdir().unwrap();
        let (base, out) = (dir.path().join("base"), dir.path().join("out"));
        Self {
            args: vec![base.display().to_string(), "--layers".to_owned(), PLAN.to_owned()],
            dir,
            out,
            program: PathBuf::from(env!("CARGO_BIN_EXE_dus")),
            user: None,
        }
    }

    /// The folder of the case.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The base.
    pub(crate) fn base(&self) -> PathBuf {
        self.dir().join("base")
    }

    /// A file of the base.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.base().join(name)
    }

    /// The output.
    pub(crate) fn out(&self) -> PathBuf {
        self.out.clone()
    }

    /// The same with another plan.
    pub(crate) fn plan(mut self, plan: &str) -> Self {
        plan.clone_into(&mut self.args[2]);
        self
    }

    /// The same with another model or recipe; `args` stand in the place of `BASE --layers PLAN`.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// The same with more flags.
    pub(crate) fn flags(mut self, flags: &[&str]) -> Self {
        self.args.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// The same with another output.
    pub(crate) fn to(mut self, out: impl Into<PathBuf>) -> Self {
        self.out = out.into();
        self
    }

    /// The same, run by a user who is not root and who may write into the case's folder.
    pub(crate) fn by_nobody(mut self) -> Self {
        use std::fs;
        use std::os::unix::fs::{MetadataExt, PermissionsExt};

        let owner = self.dir().metadata().unwrap().uid();
        if owner == 0 {
            self.user = Some(65534);
            let program = self.dir().join("dus");
            // Copied by another process: were the copy open for writing here while another test
            // forks, it could not be run until that child is gone (ETXTBSY).
            let copied = Command::new("cp").arg(&self.program).arg(&program).status().unwrap();
            assert!(copied.success());
            self.program = program;
            fs::set_permissions(self.dir(), fs::Permissions::from_mode(0o777)).unwrap();
        }
        self
    }

    /// Runs a command of `dus` from the case's folder, with an empty hub cache.
    pub(crate) fn run(&self, command: &str, flags: &[&str]) -> Output {
        let mut dus = Command::new(&self.program);
        dus.arg(command).args(&self.args).arg("-o").arg(&self.out).args(flags);
        dus.current_dir(self.dir()).env("HF_HUB_CACHE", self.dir().join("hub"));
        dus.env("HF_HUB_OFFLINE", "1");
        dus.env("COLUMNS", "80");
        if let Some(user) = self.user {
            dus.uid(user).gid(user);
        }
        let mut dus = assert_cmd::Command::from_std(dus);
        dus.timeout(Duration::from_mins(1)).output().unwrap()
    }

    /// Asserts that `plan` and `build` refuse, naming all of `expected`, and leave no trace.
    #[track_caller]
    pub(crate) fn refused(&self, expected: &[&str]) {
        let calls: [(&str, &[&str]); 4] =
            [("plan", &[]), ("plan", &["--json"]), ("build", &["--quiet"]), ("build", &["--json"])];
        for (command, flags) in calls {
            let before = Survey::of(self.dir());
            let output = self.run(command, flags);
            let stdout = String::from_utf8(output.stdout).unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            let call = format!("`dus {command} {}` said\n{stderr}", flags.join(" "));

            assert_eq!(output.status.code(), Some(2), "{}: {call}{stdout}", output.status);
            for part in expected {
                assert!(stderr.contains(part), "{part:?} is missing: {call}");
            }
            check_form(&stderr, &call);
            if command == "build" {
                let first = format!("error: cannot build {}\n", self.out.display());
                assert!(stderr.starts_with(&first), "{call}");
                assert_eq!(stdout, "", "{call}");
            } else if flags.contains(&"--json") && !stdout.is_empty() {
                let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
                assert!(object.is_object(), "{stdout}");
            }
            let changes = Survey::of(self.dir()).changes_since(&before, true);
            assert_eq!(changes, "", "{call}");
        }
    }

    /// Asserts that `build` is done or refuses, and returns which; what it may not do is panic.
    #[track_caller]
    pub(crate) fn ends(&self, what: &str) -> bool {
        let output = self.run("build", &["--quiet"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => true,
            Some(2) => {
                check_form(&stderr, &format!("{what}: {stderr}"));
                assert!(!self.out().exists(), "{what}");
                false
            }
            _ => panic!("{what}: {}: {stderr}", output.status),
        }
    }
}

/// Checks how an error is written: what failed, each cause once, then a hint; no colours in a pipe.
#[track_caller]
fn check_form(stderr: &str, call: &str) {
    assert!(stderr.starts_with("error: "), "{call}");
    assert!(!stderr.contains("panicked") && !stderr.contains('\x1b'), "{call}");
    let causes: Vec<&str> =
        stderr.lines().filter_map(|line| line.trim_start().strip_prefix("caused by: ")).collect();
    assert!(!causes.is_empty(), "{call}");
    for (i, cause) in causes.iter().enumerate() {
        let others = causes.iter().enumerate().filter(|&(j, _)| i != j);
        for (_, other) in others {
            assert!(!other.contains(cause), "{cause:?} is said twice: {call}");
        }
    }
    assert_eq!(stderr.matches("hint: ").count(), stderr.matches("\n\nhint: ").count(), "{call}");
}

/// What is not wrong is not refused: without this, all others could pass for a wrong reason.
#[test]
fn good_input_is_built() {
    let from_hub = Case::without_base().args(&["owner/name@main", "--layers", PLAN]);
    let _ = hub::cache(&from_hub.dir().join("hub"), "owner/name", "0123", &TinyModel::default());
    for case in [
        from_hub,
        Case::new(),
        Case::sharded(),
        Case::of(&TinyModel::of(testkit::Family::Gpt2)),
        Case::new().by_nobody(),
    ] {
        for (command, flags) in [("plan", ["--json"]), ("build", ["--quiet"])] {
            let output = case.run(command, &flags);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{stderr}");
        }
        assert!(case.out().join("config.json").is_file());
        let beside: Vec<_> =
            case.dir().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!beside.iter().any(|name| name.to_string_lossy().starts_with('.')), "{beside:?}");
    }
}
