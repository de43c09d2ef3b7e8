//! Where an output may lie: in folders to be made, at an empty folder, behind a link.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use testkit::{Survey, TinyModel};

use crate::dus::{Said, assert_spliced, dus, run};
use crate::under_way::check_names;

fn with_base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    dir
}

/// Builds to `out`, whose folder then is `real`.
#[track_caller]
fn check_built(dir: &TempDir, out: &str, real: &str) {
    run(dus(dir.path()), &["plan", "base", "--layers", "dus(1)", "-o", out]).done();
    run(dus(dir.path()), &["build", "base", "--layers", "dus(1)", "-q", "-o", out]).done();
    let real = dir.path().join(real);
    assert!(real.is_dir() && !real.is_symlink(), "{}", real.display());
    let base = TinyModel::default().tensors_by_name();
    assert_spliced(&real, &base, [0, 1, 2, 1, 2, 3]);
    run(dus(dir.path()), &["verify", out]).done();
}

#[test]
fn an_empty_folder_is_fine() {
    let dir = with_base();
    fs::create_dir(dir.path().join("out")).unwrap();
    check_built(&dir, "out", "out");
    check_names(dir.path(), &["base", "out"]);
}

#[test]
fn folders_above_are_made() {
    let dir = with_base();
    check_built(&dir, "new/folders/out", "new/folders/out");
    check_built(&dir, "new/./other/../other/out/", "new/other/out");
    check_names(dir.path(), &["base", "new"]);
    check_names(&dir.path().join("new"), &["folders", "other"]);
}

#[test]
fn a_link_to_an_empty_folder_stays_and_the_folder_is_filled() {
    let dir = with_base();
    fs::create_dir_all(dir.path().join("far/away")).unwrap();
    symlink("far/away", dir.path().join("out")).unwrap();
    check_built(&dir, "out", "far/away");
    assert_eq!(fs::read_link(dir.path().join("out")).unwrap().display().to_string(), "far/away");
    check_names(dir.path(), &["base", "far", "out"]);
    check_names(&dir.path().join("far"), &["away"]);

    // Again, over the build that now is there.
    let again = ["build", "base", "--layers", "stack(2)", "--force", "-q", "-o", "out"];
    run(dus(dir.path()), &again).done();
    let base = TinyModel::default().tensors_by_name();
    assert_spliced(&dir.path().join("far/away"), &base, (0..4).chain(0..4));
    assert!(dir.path().join("out").is_symlink());
    check_names(&dir.path().join("far"), &["away"]);
}

#[test]
fn a_link_in_the_path_is_followed() {
    let dir = with_base();
    fs::create_dir(dir.path().join("disk")).unwrap();
    symlink("disk", dir.path().join("link")).unwrap();
    check_built(&dir, "link/new/out", "disk/new/out");
}

/// Plans and builds to an output in a new folder whose name has `length` bytes.
fn with_long_name(length: usize) -> (TempDir, [Said; 2]) {
    let dir = with_base();
    let out = format!("new/{}", "o".repeat(length));
    let args = ["base", "--layers", "dus(1)", "-o", &out];
    let plan = run(dus(dir.path()), &[&["plan"], &args[..]].concat());
    let build = run(dus(dir.path()), &[&["build", "-q"], &args[..]].concat());
    (dir, [plan, build])
}

/// The hidden folder's name is longer than the output's, which may itself be short enough.
#[test]
fn a_name_that_is_too_long_is_refused_without_a_trace() {
    for length in [200, 242, 243, 255, 256] {
        let (dir, [_, build]) = with_long_name(length);
        if build.code == Some(0) {
            check_names(&dir.path().join("new"), &["o".repeat(length).as_str()]);
        } else {
            assert!(length > 200, "{build:#?}");
            build.refused(&["File name too long"]);
            check_names(dir.path(), &["base"]);
        }
    }
}

#[test]
fn a_plan_knows_that_a_name_is_too_long() {
    for length in [200, 242, 243, 255, 256] {
        let (_dir, [plan, build]) = with_long_name(length);
        assert_eq!(plan.code, build.code, "{length}: {plan:#?} {build:#?}");
    }
}

/// The name that a build writes to first belongs to something else.
#[test]
fn a_file_with_the_hidden_folder_s_name_is_not_removed() {
    let dir = with_base();
    fs::write(dir.path().join(".out.dus-partial"), "mine").unwrap();
    let args = ["build", "base", "--layers", "dus(1)", "-q", "-o", "out"];
    run(dus(dir.path()), &args).refused(&[".out.dus-partial"]);
    assert_eq!(fs::read_to_string(dir.path().join(".out.dus-partial")).unwrap(), "mine");
    check_names(dir.path(), &[".out.dus-partial", "base"]);

    // A pipe is not waited for.
    fs::remove_file(dir.path().join(".out.dus-partial")).unwrap();
    let made =
        std::process::Command::new("mkfifo").arg(dir.path().join(".out.dus-partial")).status();
    assert!(made.unwrap().success());
    run(dus(dir.path()), &args).refused(&[".out.dus-partial"]);

    // Nor is what a link of that name leads to.
    fs::remove_file(dir.path().join(".out.dus-partial")).unwrap();
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/thesis.tex"), "mine").unwrap();
    symlink("mine", dir.path().join(".out.dus-partial")).unwrap();
    let before = Survey::of(&dir.path().join("mine"));
    let _ = run(dus(dir.path()), &args);
    assert_eq!(Survey::of(&dir.path().join("mine")).changes_since(&before, true), "");
}

#[test]
fn outputs_side_by_side_do_not_meet() {
    let dir = with_base();
    for out in ["out", "out2", ".out", "out.dus-partial"] {
        check_built(&dir, out, out);
    }
    check_names(dir.path(), &[".out", "base", "out", "out.dus-partial", "out2"]);
}
