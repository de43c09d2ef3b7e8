//! The terminal session in the README does what it shows.

use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A command of the session, and the lines that it prints.
struct Step<'a> {
    command: &'a str,
    output: Vec<&'a str>,
}

fn session(readme: &str) -> Vec<Step<'_>> {
    let (_, rest) = readme.split_once("```console\n").expect("the README has a session");
    let (session, _) = rest.split_once("```").expect("the session ends");
    let mut steps: Vec<Step> = Vec::new();
    for line in session.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command, output: Vec::new() }),
            (None, Some(step)) => step.output.push(line),
            (None, None) => panic!("the session begins with output: {line}"),
        }
    }
    steps
}

/// Whether `line` is what `shown` says, where `…` stands for anything.
fn agrees(line: &str, shown: &str) -> bool {
    let mut rest = line;
    let parts: Vec<&str> = shown.split('…').collect();
    for (i, part) in parts.iter().enumerate() {
        let is_last = i + 1 == parts.len();
        let at = match (i, is_last) {
            (0, _) => rest.starts_with(part).then_some(0),
            (_, true) => rest.ends_with(part).then(|| rest.len() - part.len()),
            _ => rest.find(part),
        };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
    }
    parts.len() > 1 || rest.is_empty()
}

#[test]
fn the_session_is_true() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for folder in ["examples", "configs"] {
        std::os::unix::fs::symlink(Path::new(ROOT).join(folder), dir.path().join(folder)).unwrap();
    }
    let steps = session(&readme);
    assert!(steps.len() >= 3, "the session shows too little");
    let programs = tempfile::tempdir().unwrap();
    let dus = Path::new(env!("CARGO_BIN_EXE_dus"));
    std::os::unix::fs::symlink(dus, programs.path().join("dus")).unwrap();
    // cargo tells a test of its own package's programs; the other lies beside it in a whole build.
    let infer = dus.with_file_name("infer");
    let has_infer = infer.exists();
    std::os::unix::fs::symlink(infer, programs.path().join("infer")).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", programs.path().display());
    for step in steps {
        let command = step
            .command
            .replace("cargo run --release -p dus --", "dus")
            .replace("cargo run --release -p infer --", "infer");
        if !has_infer && command.contains("infer ") {
            eprintln!("skipped: {command}: infer is not built (cargo test --workspace builds it)");
            continue;
        }
        let output = Command::new("sh")
            .args(["-c", &command])
            .env("PATH", &path)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {output:?}", step.command);
        let printed = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
        let mut lines = printed.iter();
        for (i, &shown) in step.output.iter().enumerate() {
            if shown == "…" {
                // Any number of lines, up to the next one that is shown.
                let Some(next) = step.output.get(i + 1) else {
                    lines = [].iter();
                    break;
                };
                let left: Vec<_> = lines.by_ref().skip_while(|l| !agrees(l, next)).collect();
                let at = printed.len() - left.len();
                lines = printed[at..].iter();
                continue;
            }
            let line = lines.next().unwrap_or_else(|| panic!("{}: no {shown:?}", step.command));
            assert!(agrees(line, shown), "{}\n shown: {shown}\nprints: {line}", step.command);
        }
        assert_eq!(lines.next(), None, "{} prints more than is shown", step.command);
    }
}
