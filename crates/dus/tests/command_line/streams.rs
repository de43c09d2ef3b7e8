//! What goes to stdout and what to stderr, and what happens where nobody reads.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use testkit::TinyModel;

use crate::dus::{dus, project, run};

/// A folder with a base of four layers and a build of it.
fn built() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-q", "-o", "out"]).done();
    dir
}

/// Spoils a tensor of the build.
fn spoil(dir: &Path) {
    let file = dir.join("out/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn quiet_says_nothing_where_all_is_well() {
    let dir = built();
    // A note would be said if it were not for --quiet.
    fs::write(dir.path().join("base/adapter_config.json"), "{}").unwrap();
    for args in [
        &["build", "base", "--layers", "dus(1)", "--quiet", "-o", "new"][..],
        &["build", "base", "--layers", "dus(1)", "-q", "--force", "-o", "out"],
        &["verify", "out", "--quiet"],
        &["verify", "out", "-q"],
    ] {
        let said = run(dus(dir.path()), args).done();
        assert_eq!((&*said.stdout, &*said.stderr), ("", ""), "{said:#?}");
    }
    spoil(dir.path());
    let said = run(dus(dir.path()), &["verify", "out", "--quiet"]);
    assert_eq!((said.code, &*said.stderr), (Some(1), ""), "{said:#?}");
    assert!(said.stdout.contains("1 difference"), "{said:#?}");
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-q", "-o", "out"])
        .refused(&["not empty"]);
}

#[test]
fn stdout_is_data_and_stderr_is_talk() {
    let dir = built();
    fs::write(dir.path().join("base/adapter_config.json"), "{}").unwrap();
    for command in ["plan", "build"] {
        let args = [command, "base", "--layers", "dus(1)", "-o", command];
        let said = run(dus(dir.path()), &args).done();
        assert!(said.stderr.starts_with("note: adapter_config.json is an adapter"), "{said:#?}");
        assert!(said.stdout.contains("6 layers") || said.stdout.contains("layers      6"));
        assert!(!said.stdout.contains("note"), "{said:#?}");
    }
    // No progress bar and no colours where nobody looks.
    for said in [
        run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-o", "new"]).done(),
        run(dus(dir.path()), &["verify", "out"]).done(),
        run(dus(dir.path()), &["inspect", "out", "--duplicates"]).done(),
        run(dus(dir.path()), &["inspect", "nowhere"]).refused(&["nowhere"]),
    ] {
        assert!(!said.stdout.contains(['\x1b', '\r']), "{said:#?}");
        assert!(!said.stderr.contains(['\x1b', '\r']), "{said:#?}");
    }
}

#[test]
fn a_broken_pipe_is_no_failure() {
    let dir = built();
    spoil(dir.path());
    let base = "base";
    for args in [
        &["--help"][..],
        &["--version"],
        &["plan", "--help"],
        &["plan", base, "--layers", "dus(1)"],
        &["plan", base, "--layers", "dus(1)", "--json"],
        &["build", base, "--layers", "dus(1)", "-o", "a"],
        &["build", base, "--layers", "dus(1)", "-o", "b", "--json"],
        &["verify", "a"],
        &["verify", "a", "--json"],
        &["inspect", base],
        &["inspect", base, "--json", "--duplicates"],
        &["completions", "bash"],
        &["man"],
        &["man", "build"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = dus(dir.path()).args(args).stdout(writer).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "dus {}: {stderr}", args.join(" "));
        assert_eq!(stderr, "", "dus {}", args.join(" "));
    }
    for out in ["a", "b"] {
        run(dus(dir.path()), &["verify", out]).done();
    }

    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut demo = dus(&project());
    demo.args(["demo", "-o"]).arg(dir.path().join("tiny")).stdout(writer);
    let output = demo.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_behind_stdout_is_a_failure() {
    let dir = built();
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("skipped: there is no /dev/full");
        return;
    };
    for args in [
        &["plan", "base", "--layers", "dus(1)"][..],
        &["inspect", "base", "--json"],
        &["verify", "out"],
        &["completions", "bash"],
        &["man"],
    ] {
        let full = Stdio::from(full.try_clone().unwrap());
        let output = dus(dir.path()).args(args).stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "dus {}: {stderr}", args.join(" "));
        assert!(stderr.contains("standard output") && stderr.contains("No space"), "{stderr}");
    }
}

#[test]
fn exit_codes_hold_where_nobody_reads_stderr() {
    let dir = built();
    for (args, code) in [
        (&["plan", "nowhere", "--layers", "dus(1)"][..], 2),
        (&["build", "base", "--layers", "dus(1)", "-o", "new"], 0),
        (&["nonsense"], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = dus(dir.path()).args(args).stderr(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "dus {}", args.join(" "));
    }
    // Nor does it read from a terminal or a pipe.
    let null = File::open("/dev/null").unwrap();
    let output = dus(dir.path()).args(["verify", "out"]).stdin(null).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}
