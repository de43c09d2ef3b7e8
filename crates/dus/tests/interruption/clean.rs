//! `dus clean`: removes what was left beside an output, and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use testkit::{Survey, TinyModel};

use crate::dus::{Said, dus, run};
use crate::under_way::{BUILD, UnderWay, check_names, with_large_base};

fn clean(dir: &Path, flags: &[&str]) -> Said {
    run(dus(dir), &[&["clean", "out"], flags].concat())
}

/// A folder with what a killed build left beside a finished one.
fn with_leftover() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-q", "-o", "out"]).done();
    fs::create_dir(dir.path().join(".out.dus-partial")).unwrap();
    fs::write(dir.path().join(".out.dus-partial/model.safetensors"), vec![1; 100_000]).unwrap();
    dir
}

/// Moves the finished build to where an earlier one waits while it is replaced.
fn move_aside(dir: &Path) {
    fs::rename(dir.join("out"), dir.join(".out.dus-old")).unwrap();
}

#[test]
fn where_nothing_is_left_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let said = clean(dir.path(), &[]).done();
    assert_eq!((&*said.stdout, &*said.stderr), ("out: nothing was left beside it\n", ""));
    let said = clean(dir.path(), &["--json"]).done();
    assert_eq!(said.json(), json!({ "output": "out", "removed": [] }));
    check_names(dir.path(), &[]);
}

/// A slip of the keyboard is not taken for a clean disk.
#[test]
fn a_folder_that_does_not_exist_is_named() {
    let dir = with_leftover();
    let before = Survey::of(dir.path());
    for (out, folder) in [("no/such/folder/out", "no/such/folder"), ("outs/../typo/out", "typo")] {
        let folder = dir.path().canonicalize().unwrap().join(folder);
        let named = format!("the folder {} does not exist", folder.display());
        run(dus(dir.path()), &["clean", out]).refused(&["cannot clean", &named]);
    }
    // A file is no folder.
    run(dus(dir.path()), &["clean", "base/config.json/out"]).refused(&["config.json"]);
    assert_eq!(Survey::of(dir.path()).changes_since(&before, true), "");
}

#[test]
fn what_was_left_of_outputs_in_a_folder_is_named() {
    let dir = with_leftover();
    let check = |expected: &[&str]| {
        let before = Survey::of(dir.path());
        for args in [&["clean", "."][..], &["clean", ".", "--force", "--json"]] {
            run(dus(dir.path()), args).refused(expected);
        }
        assert_eq!(Survey::of(dir.path()).changes_since(&before, true), "");
    };
    check(&[".out.dus-partial was left", "hint: `dus clean ./out` removes it"]);
    fs::create_dir(dir.path().join(".deep.gguf.dus-partial")).unwrap();
    fs::create_dir(dir.path().join(".out.dus-old")).unwrap();
    // What has such a name and is no folder was not left by a build.
    fs::write(dir.path().join(".mine.dus-old"), "mine").unwrap();
    check(&[
        "in it .deep.gguf.dus-partial, .out.dus-old, .out.dus-partial were left",
        "hint: `dus clean ./deep.gguf`, `dus clean ./out` remove them",
    ]);
    run(dus(dir.path()), &["clean", "./deep.gguf"]).done();
    run(dus(dir.path()), &["clean", "./out"]).done();
    assert!(run(dus(dir.path()), &["clean", "."]).done().stdout.contains("nothing was left"));
    check_names(dir.path(), &[".mine.dus-old", "base", "out"]);
}

#[test]
fn what_was_left_is_removed_and_the_output_stays() {
    let dir = with_leftover();
    let before = Survey::of(&dir.path().join("out"));
    let said = clean(dir.path(), &[]).done();
    assert!(said.stdout.contains(".out.dus-partial (10"), "{said:#?}");
    assert_eq!(Survey::of(&dir.path().join("out")).changes_since(&before, true), "");
    check_names(dir.path(), &["base", "out"]);
    assert!(clean(dir.path(), &[]).done().stdout.contains("nothing was left"));
}

#[test]
fn json_says_what_was_removed() {
    let dir = with_leftover();
    let said = clean(dir.path(), &["--json"]).done().json();
    let removed = said["removed"].as_array().unwrap();
    assert_eq!(removed.len(), 1);
    let partial = dir.path().canonicalize().unwrap().join(".out.dus-partial");
    assert_eq!(removed[0]["path"], partial.display().to_string());
    assert!(removed[0]["bytes"].as_u64() >= Some(100_000), "{said:#}");
}

#[test]
fn an_earlier_build_is_removed_only_beside_a_newer_one() {
    let dir = with_leftover();
    move_aside(dir.path());
    let before = Survey::of(dir.path());
    let said = clean(dir.path(), &[]);
    said.refused(&["cannot clean out", ".out.dus-old may be all", "hint: `mv ", "--force"]);
    assert_eq!(Survey::of(dir.path()).changes_since(&before, true), "");
    let said = clean(dir.path(), &["--force", "--json"]).done().json();
    assert_eq!(said["removed"].as_array().unwrap().len(), 2, "{said:#}");
    check_names(dir.path(), &["base"]);

    let dir = with_leftover();
    fs::create_dir(dir.path().join(".out.dus-old")).unwrap();
    clean(dir.path(), &[]).done();
    check_names(dir.path(), &["base", "out"]);
}

/// Of the hidden name, but not a folder: no build made it.
#[test]
fn what_is_not_a_folder_is_not_followed_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join(".out.dus-partial");
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/thesis.tex"), "mine").unwrap();
    symlink("mine", &partial).unwrap();
    let check = || {
        let before = Survey::of(dir.path());
        clean(dir.path(), &[]).refused(&[".out.dus-partial"]);
        assert_eq!(Survey::of(dir.path()).changes_since(&before, true), "");
        fs::remove_file(&partial).unwrap();
    };
    check();
    fs::write(&partial, "mine").unwrap();
    check();
    assert!(std::process::Command::new("mkfifo").arg(&partial).status().unwrap().success());
    check();
}

/// A link in what was left is removed; what it leads to stays.
#[test]
fn links_in_what_was_left_are_not_followed() {
    let dir = with_leftover();
    let out = dir.path().join("out");
    symlink(&out, dir.path().join(".out.dus-partial/link")).unwrap();
    let before = Survey::of(&out);
    clean(dir.path(), &[]).done();
    assert_eq!(Survey::of(&out).changes_since(&before, true), "");
    check_names(dir.path(), &["base", "out"]);
}

#[test]
fn an_output_behind_a_link_is_found() {
    let dir = with_leftover();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink("../out", dir.path().join("elsewhere/link")).unwrap();
    run(dus(dir.path()), &["clean", "elsewhere/link/"]).done();
    check_names(dir.path(), &["base", "elsewhere", "out"]);
}

#[test]
fn a_build_under_way_is_left_alone() {
    let dir = with_large_base();
    let partial = dir.path().join(".out.dus-partial");
    let args = [&BUILD[..], &["-o", "out"]].concat();
    let under_way = UnderWay::build(dus(dir.path()), &args, &partial).send("STOP");
    for flags in [&[][..], &["--force"]] {
        clean(dir.path(), flags).refused(&["another build is writing", ".out.dus-partial"]);
    }
    let said = under_way.send("CONT").end();
    assert_eq!(said.code, Some(0), "{said:#?}");
    run(dus(dir.path()), &["verify", "out"]).done();
}
