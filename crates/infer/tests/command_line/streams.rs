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
