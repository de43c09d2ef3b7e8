//! `--force`: the old build stands until the new one does.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use testkit::{Survey, TinyModel};

use crate::dus::{assert_spliced, dus, dus_under_strace, has_strace, run};
use crate::under_way::{BUILD, UnderWay, check_names, with_large_base};

/// The base and an earlier build of it, of six layers.
fn with_old_build() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-q", "-o", "out"]).done();
    dir
}

const REBUILD: [&str; 8] = ["build", "base", "--layers", "stack(2)", "-q", "--force", "-o", "out"];

#[track_caller]
fn check_is_new(dir: &Path) {
    let base = TinyModel::default().tensors_by_name();
    assert_spliced(&dir.join("out"), &base, (0..4).chain(0..4));
    check_names(dir, &["base", "out"]);
}

#[test]
fn an_old_build_is_replaced_whole() {
    let dir = with_old_build();
    fs::write(dir.path().join("out/notes.txt"), "of the old build").unwrap();
    run(dus(dir.path()), &REBUILD).done();
    check_is_new(dir.path());
    assert!(!dir.path().join("out/notes.txt").exists());
    run(dus(dir.path()), &["verify", "out"]).done();
}

#[test]
fn an_old_build_stays_when_the_new_one_is_interrupted() {
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let dir = with_large_base();
        TinyModel::default().write(&dir.path().join("small"));
        let old = ["build", "small", "--layers", "dus(1)", "-q", "-o", "out"];
        run(dus(dir.path()), &old).done();
        let before = Survey::of(&dir.path().join("out"));
        let args = [&BUILD[..], &["--force", "-o", "out"]].concat();
        let partial = dir.path().join(".out.dus-partial");
        let said = UnderWay::build(dus(dir.path()), &args, &partial).send(signal).end();
        assert_eq!(said.code, code, "{said:#?}");
        assert_eq!(Survey::of(&dir.path().join("out")).changes_since(&before, true), "");
        let left: &[&str] = if code.is_none() { &[".out.dus-partial", "base"] } else { &["base"] };
        check_names(dir.path(), &[left, &["out", "small"]].concat());
        run(dus(dir.path()), &["verify", "out"]).done();
        run(dus(dir.path()), &[&old[..], &["--force"]].concat()).done();
        check_names(dir.path(), &["base", "out", "small"]);
    }
}

#[test]
fn an_old_build_stays_when_the_new_one_fails() {
    if !has_strace() {
        return;
    }
    for inject in [
        "fsync,fdatasync:error=EIO:when=1",
        "fsync,fdatasync:error=EIO:when=5",
        "ftruncate:error=ENOSPC",
        "copy_file_range:error=EIO:when=1",
        "copy_file_range:error=ENOSPC:when=1",
        // The two cannot change places.
        "?renameat2:error=EIO",
    ] {
        let dir = with_old_build();
        let before = Survey::of(&dir.path().join("out"));
        let calls = inject.split(':').next().unwrap();
        let args = [format!("trace={calls}"), format!("inject={inject}")];
        let strace = ["-e", &args[0], "-e", &args[1]];
        let said = run(
            dus_under_strace(dir.path(), &strace),
            &[&REBUILD[..], &["--copy", "kernel"]].concat(),
        );
        let call = format!("{inject}: {said:#?}");
        assert_eq!(said.code, Some(2), "{call}");
        assert!(said.stderr.contains("cannot build out"), "{call}");
        assert_eq!(Survey::of(&dir.path().join("out")).changes_since(&before, false), "", "{call}");
        check_names(dir.path(), &["base", "out"]);
        run(dus(dir.path()), &REBUILD).done();
        check_is_new(dir.path());
    }
}

/// Where two folders cannot change places in one step, the old build is moved aside first.
#[test]
fn an_old_build_is_replaced_in_two_steps_where_one_is_not_supported() {
    if !has_strace() {
        return;
    }
    let one_step = "inject=?renameat2:error=EINVAL";
    for (two_steps, code) in [
        (None, 0),
        (Some("inject=?rename,?renameat:error=EIO:when=1"), 2),
        (Some("inject=?rename,?renameat:error=EIO:when=2"), 2),
    ] {
        let dir = with_old_build();
        let before = Survey::of(&dir.path().join("out"));
        let mut strace = vec!["-e", "trace=?rename,?renameat,?renameat2", "-e", one_step];
        strace.extend(two_steps.iter().flat_map(|inject| ["-e", inject]));
        let said = run(dus_under_strace(dir.path(), &strace), &REBUILD);
        assert_eq!(said.code, Some(code), "{two_steps:?}: {said:#?}");
        check_names(dir.path(), &["base", "out"]);
        if code == 0 {
            check_is_new(dir.path());
        } else {
            assert_eq!(Survey::of(&dir.path().join("out")).changes_since(&before, false), "");
        }
    }
}

/// Between two renames nothing stands at the output; what was killed there is put right later.
#[test]
fn a_build_killed_while_it_replaces_leaves_nothing_for_good() {
    if !has_strace() {
        return;
    }
    for when in [1, 2, 3] {
        let dir = with_old_build();
        let renames = "?rename,?renameat,?renameat2";
        // The call itself fails, and then the process is gone.
        let inject = format!("inject={renames}:error=EIO:signal=KILL:when={when}");
        let strace = ["-e", &format!("trace={renames}"), "-e", &inject];
        let said = run(dus_under_strace(dir.path(), &strace), &REBUILD);
        if said.code == Some(0) {
            // There are not so many renames.
            check_is_new(dir.path());
            continue;
        }
        run(dus(dir.path()), &["plan", "base", "--layers", "stack(2)", "--force", "-o", "out"])
            .done();
        run(dus(dir.path()), &REBUILD).done();
        check_is_new(dir.path());
    }
}

#[test]
fn force_is_no_harm_where_nothing_stands() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    run(dus(dir.path()), &REBUILD).done();
    check_is_new(dir.path());
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    run(dus(dir.path()), &REBUILD).done();
    check_is_new(dir.path());
}
