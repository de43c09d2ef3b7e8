//! Signals, pipes that break, and help.

use std::io::Read as _;
use std::process::{Command, Stdio};
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
