//! Signals, pipes that break, and help.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::infer::{infer, program, tiny};

#[test]
fn a_signal_ends_generation_with_its_code() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = program()
            .args(["generate", &tiny(), "In the beginning", "--max-new-tokens", "1000"])
            .args(["--logit-bias", "2=-1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        // The first bytes say that it is under way.
        stdout.read_exact(&mut [0; 8]).unwrap();
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let begin = Instant::now();
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}

/// Waits until a program listens for signals.
fn wait_until_it_listens(child: &Child) {
    let begin = Instant::now();
    let status = format!("/proc/{}/status", child.id());
    loop {
        let status = std::fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        // SIGINT is the second, SIGTERM the fifteenth.
        if u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 1 | 1 << 14) == 1 << 1 | 1 << 14
        {
            return;
        }
        assert!(begin.elapsed() < Duration::from_mins(1), "{status}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal, and asserts that the program ends with `code` soon.
#[track_caller]
fn ends(mut child: Child, signal: &str, code: i32) {
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("{signal} is not heeded");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
}

#[test]
fn a_signal_ends_a_command_that_reads_its_text() {
    let tiny = tiny();
    for args in [
        vec!["generate", &tiny],
        vec!["logits", &tiny],
        vec!["tokens", &tiny],
        vec!["score", &tiny, "--text", "-"],
        vec!["compare", &tiny, &tiny, "--ids", "@/dev/stdin"],
    ] {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let child = program()
                .args(&args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            wait_until_it_listens(&child);
            // It reads very soon.
            std::thread::sleep(Duration::from_millis(200));
            ends(child, signal, code);
        }
    }
}

#[test]
fn a_signal_ends_long_work_with_its_code() {
    let tiny = tiny();
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids");
    std::fs::write(&ids, "384,683,".repeat(200_000)).unwrap();
    let ids = format!("@{}", ids.display());
    let text = "In the beginning God created the heaven and the earth. ".repeat(40);
    let prompts = vec![["--prompt", text.as_str()]; 100].concat();
    for args in [
        vec!["score", &tiny, "--ids", &ids, "--window", "1024", "--stride", "8"],
        [vec!["compare", &tiny, &tiny], prompts].concat(),
        vec!["bench", &tiny, "--repeats", "1000"],
    ] {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let child = program()
                .args(&args)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            wait_until_it_listens(&child);
            std::thread::sleep(Duration::from_millis(150));
            ends(child, signal, code);
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let tiny = tiny();
    for args in [
        vec!["logits", &tiny, "In the beginning"],
        vec!["score", &tiny, "--ids", "1,1035,384"],
        vec!["score", &tiny, "--ids", "1,1035,384", "--json"],
    ] {
        let mut child =
            program().args(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

#[test]
fn a_broken_pipe_is_no_failure() {
    let mut child = program()
        .args(["generate", &tiny(), "In the beginning", "--max-new-tokens", "1000"])
        .args(["--logit-bias", "2=-1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 8]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn help_lists_what_works() {
    let help = infer(&["--help"]).done().stdout;
    for command in ["generate", "chat", "score", "compare", "bench", "inspect", "logits", "tokens"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        infer(&[command, "--help"]).done();
    }
    assert!(!help.contains("\n  explore "), "{help}");
}
