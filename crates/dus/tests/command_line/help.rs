//! Help, letter for letter, and what gets a word about it.

use std::path::Path;

use crate::dus::{dus, run};

const COMMANDS: [&str; 9] =
    ["plan", "build", "verify", "inspect", "clean", "push", "demo", "completions", "man"];

#[test]
fn of_the_program() {
    let said = run(dus(Path::new(".")), &["--help"]).done();
    insta::assert_snapshot!("dus", said.stdout);
    assert_eq!(said.stderr, "");
    assert_eq!(run(dus(Path::new(".")), &["help"]).done().stdout, said.stdout);
    let listed: Vec<&str> = said.stdout.lines().skip_while(|line| *line != "Commands:").collect();
    let listed = listed.iter().skip(1).take_while(|line| !line.is_empty());
    let listed: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, [&COMMANDS[..], &["help"]].concat());
}

#[test]
fn of_each_command() {
    for command in COMMANDS {
        let said = run(dus(Path::new(".")), &[command, "--help"]).done();
        insta::assert_snapshot!(command, said.stdout);
        assert_eq!(said.stderr, "");
        assert_eq!(run(dus(Path::new(".")), &["help", command]).done().stdout, said.stdout);
    }
}

#[test]
fn the_version() {
    let said = run(dus(Path::new(".")), &["--version"]).done();
    assert_eq!(said.stdout, format!("dus {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_not_understood_is_named() {
    let check = |args: &[&str], expected: &[&str]| {
        run(dus(Path::new(".")), args).refused(expected);
    };
    check(&[], &["Usage: dus"]);
    check(&["biuld"], &["biuld", "'build'"]);
    check(&["--verbose"], &["--verbose"]);
    check(&["plan", "--layer", "dus(8)"], &["--layer", "--layers"]);
    check(&["build", "base", "--layers", "dus(8)"], &["--output"]);
    check(&["build", "base", "-o"], &["--output"]);
    check(&["plan", "base", "other"], &["other"]);
    check(&["plan", "base", "--copy", "magic"], &["magic", "auto", "reflink", "kernel", "stream"]);
    check(&["plan", "base", "--shard-layout", "x"], &["--shard-layout", "size", "source"]);
    check(&["plan", "--model", "base"], &["--model", "NAME=MODEL"]);
    check(&["plan", "--model", "a-b=base"], &["--model", "NAME=MODEL"]);
    check(&["plan", "--model", "n=base"], &["--model", "NAME=MODEL"]);
    check(&["verify"], &["OUT"]);
    check(&["inspect"], &["MODEL"]);
    check(&["completions", "tcsh"], &["tcsh", "bash"]);
    check(&["man", "biuld"], &["`biuld`"]);
}
