//! Completion scripts and manual pages.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::dus::{dus, run};

/// What a program says of `text` on its standard input; `None` where there is no such program.
fn filtered(program: &str, args: &[&str], text: &str) -> Option<std::process::Output> {
    let mut command = Command::new(program);
    command.args(args).env("MANWIDTH", "80").env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped in part: {program} is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    Some(output)
}

#[test]
fn completions() {
    for (shell, check) in [
        ("bash", Some(["-n"])),
        ("zsh", Some(["-n"])),
        ("fish", Some(["--no-execute"])),
        ("powershell", None),
    ] {
        let said = run(dus(Path::new(".")), &["completions", shell]).done();
        for word in ["plan", "build", "verify", "inspect", "demo", "layers", "shard-layout"] {
            assert!(said.stdout.contains(word), "{word} is missing for {shell}");
        }
        let Some(output) = check.and_then(|check| filtered(shell, &check, &said.stdout)) else {
            continue;
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{shell}: {stderr}");
    }
}

/// Asks bash itself what it would complete.
#[test]
fn bash_completes_commands_and_flags() {
    let script = run(dus(Path::new(".")), &["completions", "bash"]).done().stdout;
    for (words, expected) in [("dus bui", "build"), ("dus plan --lay", "--layers")] {
        let count = words.split(' ').count() - 1;
        let text = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={count}\n\
             _dus dus \"${{COMP_WORDS[{count}]}}\" \"${{COMP_WORDS[{}]}}\"\n\
             echo \"${{COMPREPLY[@]}}\"\n",
            count - 1
        );
        let Some(output) = filtered("bash", &["--norc"], &text) else { return };
        let reply = String::from_utf8(output.stdout).unwrap();
        assert_eq!(reply.trim(), expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[track_caller]
fn check_page(args: &[&str], title: &str, expected: &[&str]) {
    let page = run(dus(Path::new(".")), args).done().stdout;
    let th = page.lines().find(|line| line.starts_with(".TH ")).expect("a title line");
    assert!(th.starts_with(&format!(".TH {title} 1 ")), "{th}");
    for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
        assert!(page.contains(section), "{section} is missing");
    }
    // Where documentation is left out of an image, `man` is a script that says so.
    let rendered = ["man", "mandoc"].iter().find_map(|program| {
        let args: &[&str] = if *program == "man" { &["-l", "-"] } else { &["-T", "ascii"] };
        let output = filtered(program, args, &page)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success() && !text.contains("minimized")).then_some(text)
    });
    let Some(text) = rendered else {
        eprintln!("skipped in part: neither man nor mandoc works here");
        return;
    };
    // Bold is overstrikes.
    let mut plain = String::new();
    for c in text.chars() {
        if c == '\u{8}' {
            plain.pop();
        } else {
            plain.push(c);
        }
    }
    for part in expected {
        assert!(plain.contains(part), "{part:?} is missing:\n{plain}");
    }
}

#[test]
fn the_manual_page_renders() {
    check_page(&["man"], "dus", &["NAME", "as fast as the disk can copy", "SUBCOMMANDS"]);
}

#[test]
fn the_manual_page_of_a_command_renders() {
    check_page(&["man", "build"], "dus-build", &["NAME", "Build an up-scaled model", "--layers"]);
}

#[test]
fn each_manual_page_names_the_version() {
    for args in [&["man"][..], &["man", "plan"], &["man", "build"], &["man", "verify"]] {
        let page = run(dus(Path::new(".")), args).done().stdout;
        let th = page.lines().find(|line| line.starts_with(".TH ")).expect("a title line");
        assert!(th.contains(env!("CARGO_PKG_VERSION")), "dus {}: {th}", args.join(" "));
    }
}
