//! File systems with shared extents: XFS and btrfs, each in a file. Needs root.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Survey, Tensors, splice, weights};

use crate::dus::{Said, dus, dus_under_strace, has_strace, names, run};
use crate::fill;
use crate::image::Image;

/// A plan of 12 layers of the base's 8: 1.5 times its size.
const PLAN: [&str; 3] = ["base", "--layers", "dus(2)"];

fn layers() -> Vec<usize> {
    (0..6).chain(2..8).collect()
}

fn call(dir: &Path, command: &str, out: &str, flags: &[&str]) -> Said {
    run(dus(dir), &[&[command], &PLAN[..], &["--json", "-o", out], flags].concat())
}

#[track_caller]
fn check_content(dir: &Path, out: &str, base: &Tensors) {
    let expected = splice::expected(base, &layers(), "h");
    splice::assert_same(&weights::read(&dir.join(out)), &expected);
    run(dus(dir), &["verify", out]).done();
}

fn bytes(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value:#}"))
}

/// Builds with `flags` and checks that what the plan said could be shared was shared, that all bytes
/// are accounted for and right, and that no more room was taken than what was not shared and 1 %.
#[track_caller]
fn check_shared(image: &Image, base: &Tensors, out: &str, flags: &[&str]) -> Value {
    let dir = image.path();
    let plan = call(&dir, "plan", out, flags).done().json();
    let before = image.used_bytes();
    let built = call(&dir, "build", out, flags).done().json();
    let grown = image.used_bytes().saturating_sub(before);

    let layout = built["shard_layout"].as_str().unwrap();
    assert_eq!(plan["can_share"], true);
    assert_eq!(built["shared_bytes"], plan["shareable_bytes"][layout], "{flags:?}");
    assert_eq!(built["bytes"], plan["bytes"]);
    let [all, shared, kernel, streamed] =
        ["bytes", "shared_bytes", "kernel_bytes", "streamed_bytes"].map(|key| bytes(&built, key));
    assert_eq!((shared + kernel + streamed, built["computed_bytes"].clone()), (all, json!(0)));
    assert!(grown <= all - shared + all / 100, "{grown} bytes more in use: {built:#}");
    assert!(bytes(&plan, "needed_bytes") <= all - shared + (2 << 20), "{plan:#}");
    check_content(&dir, out, base);
    built
}

#[track_caller]
fn check_file_system(mkfs: &[&str]) {
    let Some(image) = Image::mounted(mkfs, 512) else { return };
    let dir = image.path();
    let base = fill::write_base(&dir.join("base"));
    let survey = Survey::of(&dir.join("base"));

    // By size, what happens to fit is shared.
    let built = check_shared(&image, &base, "size", &["--max-shard-size", "100MB"]);
    assert!(bytes(&built, "shared_bytes") > 0, "{built:#}");
    fs::remove_dir_all(dir.join("size")).unwrap();

    // By source, nearly all is.
    for (out, copy) in [("auto", "auto"), ("reflink", "reflink")] {
        let flags = ["--shard-layout", "source", "--max-shard-size", "100MB", "--copy", copy];
        let built = check_shared(&image, &base, out, &flags);
        let share = bytes(&built, "shared_bytes") as f64 / bytes(&built, "bytes") as f64;
        assert!(share >= 0.99, "{share} of it was shared: {built:#}");
    }

    // What is shared is copied when it is written to: the base and the other build stay as they are.
    for name in names(&dir.join("auto")).iter().filter(|name| name.ends_with(".safetensors")) {
        let file = OpenOptions::new().write(true).open(dir.join("auto").join(name)).unwrap();
        let length = file.metadata().unwrap().len();
        for offset in (1 << 16..length - 8).step_by(1 << 20) {
            file.write_all_at(b"spoilt!!", offset).unwrap();
        }
    }
    assert_eq!(run(dus(&dir), &["verify", "auto"]).code, Some(1));
    check_content(&dir, "reflink", &base);
    assert_eq!(Survey::of(&dir.join("base")).changes_since(&survey, true), "");
    splice::assert_same(&weights::read(&dir.join("base")), &base);
    fs::remove_dir_all(dir.join("auto")).unwrap();
    fs::remove_dir_all(dir.join("reflink")).unwrap();

    check_room(&image, &base);
    check_stream(&image);
    check_other_disk(&image);
}

/// There is no room for a copy, but enough where blocks are shared.
#[track_caller]
fn check_room(image: &Image, base: &Tensors) {
    let dir = image.path();
    let before = Survey::of(&dir);
    let room = ["free", "needs"];
    for flags in [&["--copy", "stream"][..], &["--copy", "kernel", "--shard-layout", "source"]] {
        let plan = call(&dir, "plan", "out", flags);
        assert_eq!(plan.code, Some(2), "{plan:#?}");
        assert!(room.iter().all(|part| plan.stderr.contains(part)), "{plan:#?}");
        let plan = plan.json();
        assert!(bytes(&plan, "needed_bytes") > bytes(&plan, "free_bytes"), "{plan:#}");
        call(&dir, "build", "out", flags).refused(&room);
        assert_eq!(Survey::of(&dir).changes_since(&before, true), "", "nothing was begun");
    }
    call(&dir, "build", "out", &["--shard-layout", "source"]).done();
    check_content(&dir, "out", base);
    fs::remove_dir_all(dir.join("out")).unwrap();
}

/// Read and written, nothing is shared, also where it could be.
#[track_caller]
fn check_stream(image: &Image) {
    let dir = image.path();
    let before = image.used_bytes();
    let args = ["build", "base", "--layers", "0..2", "--copy", "stream", "--json", "-o", "stream"];
    let built = run(dus(&dir), &args).done().json();
    let grown = image.used_bytes() - before;
    assert_eq!((&built["shared_bytes"], &built["kernel_bytes"]), (&json!(0), &json!(0)));
    assert_eq!(built["streamed_bytes"], built["bytes"]);
    assert!(grown >= bytes(&built, "bytes") / 100 * 99, "{grown} bytes more in use: {built:#}");
}

/// Blocks are not shared with another disk: `auto` copies, `reflink` says so.
#[track_caller]
fn check_other_disk(image: &Image) {
    let dir = tempfile::tempdir().unwrap();
    let base = image.path().join("base").display().to_string();
    let args = [&base, "--layers", "0..2", "--json", "-o", "out"];
    for command in ["plan", "build"] {
        let said = run(dus(dir.path()), &[&[command], &args[..], &["--copy", "reflink"]].concat());
        assert_eq!(said.code, Some(2), "{said:#?}");
        for part in ["no blocks of ", &base, &dir.path().display().to_string(), "hint: "] {
            assert!(said.stderr.contains(part), "{part:?} is missing: {said:#?}");
        }
        assert_eq!(names(dir.path()), [""; 0]);
    }
    let built = run(dus(dir.path()), &[&["build"], &args[..]].concat()).done().json();
    assert_eq!(built["shared_bytes"], 0);
    assert_eq!(bytes(&built, "kernel_bytes") + bytes(&built, "streamed_bytes"), built["bytes"]);
    run(dus(dir.path()), &["verify", "out"]).done();
}

#[test]
fn on_xfs() {
    check_file_system(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
}

#[test]
fn on_btrfs() {
    check_file_system(&["mkfs.btrfs", "-q"]);
}

/// What was shared is shared again, and what was copied and can be shared is shared now.
#[test]
fn an_interrupted_build_is_gone_on_with() {
    if !has_strace() {
        return;
    }
    let Some(image) = Image::mounted(&["mkfs.xfs", "-q", "-m", "reflink=1"], 700) else { return };
    let dir = image.path();
    let base = fill::write_base(&dir.join("base"));
    let source = ["--shard-layout", "source", "--max-shard-size", "100MB"];
    for first in ["auto", "stream"] {
        // The first sync comes when all weights are written.
        let strace = ["-e", "trace=fsync", "-e", "inject=fsync:signal=KILL:when=1"];
        let args = [&["build"], &PLAN[..], &["-o", "out", "--copy", first], &source].concat();
        let killed = run(dus_under_strace(&dir, &strace), &args);
        assert!(killed.code != Some(0) && dir.join(".out.dus-partial").is_dir(), "{killed:#?}");
        let before = image.used_bytes();
        let built = call(&dir, "build", "out", &[&source[..], &["--resume"]].concat()).done();
        let [all, shared, kept] =
            ["bytes", "shared_bytes", "resumed_bytes"].map(|key| bytes(&built.json(), key));
        assert!(shared >= all / 100 * 99 && kept == all - shared, "{built:#?}");
        if first == "stream" {
            assert!(before - image.used_bytes() >= shared / 100 * 99, "the room was given back");
        }
        check_content(&dir, "out", &base);
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

/// A disk with blocks of another size, and one that cannot share.
#[test]
fn on_xfs_made_otherwise() {
    let options = [
        (&["mkfs.xfs", "-q", "-b", "size=1024"][..], true),
        (&["mkfs.xfs", "-q", "-m", "reflink=0"], false),
    ];
    for (mkfs, shares) in options {
        let Some(image) = Image::mounted(mkfs, 512) else { return };
        let dir = image.path();
        let base = fill::write_base(&dir.join("base"));
        let args = ["base", "--layers", "0..2", "--shard-layout", "source", "--json", "-o", "out"];
        let plan = run(dus(&dir), &[&["plan"], &args[..]].concat()).done().json();
        assert_eq!(plan["can_share"], shares);
        let built = run(dus(&dir), &[&["build"], &args[..]].concat()).done().json();
        let shareable = if shares { plan["shareable_bytes"]["source"].clone() } else { json!(0) };
        assert_eq!(built["shared_bytes"], shareable, "{mkfs:?}");
        let expected = splice::expected(&base, &[0, 1], "h");
        splice::assert_same(&weights::read(&dir.join("out")), &expected);
    }
}
