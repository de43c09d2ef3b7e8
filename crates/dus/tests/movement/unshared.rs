//! Where blocks cannot be shared, and where there is no room.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use testkit::{Survey, TinyModel};

use crate::dus::{dus, dus_under_strace, has_strace, run, tiny_mistral};
use crate::image::Image;

/// Whether `dir` is there and not on the disk of temporary files.
fn is_other_disk(dir: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    let other = dir.is_dir() && device(dir) != device(&std::env::temp_dir());
    if !other {
        eprintln!("skipped: {} is not there, or the disk of temporary files", dir.display());
    }
    other
}

#[test]
fn reflink_is_refused_on_tmpfs() {
    let shm = Path::new("/dev/shm");
    if !is_other_disk(shm) {
        return;
    }
    let dir = tempfile::tempdir_in(shm).unwrap();
    TinyModel { vocab_size: 1024, ..TinyModel::default() }.write(&dir.path().join("base"));
    check_refused(dir.path(), "base");
}

/// Two disks share nothing, whatever they are.
#[test]
fn reflink_is_refused_between_disks() {
    let shm = Path::new("/dev/shm");
    if !is_other_disk(shm) {
        return;
    }
    let dir = tempfile::tempdir_in(shm).unwrap();
    check_refused(dir.path(), &tiny_mistral().display().to_string());
}

#[track_caller]
fn check_refused(dir: &Path, base: &str) {
    let before = Survey::of(dir);
    let args = [base, "--layers", "dus(1)", "--copy", "reflink", "-o", "new/out"];
    for command in ["plan", "build"] {
        let said = run(dus(dir), &[&[command], &args[..]].concat());
        assert_eq!(said.code, Some(2), "{said:#?}");
        let dir = dir.display().to_string();
        let expected =
            ["no blocks of ", "can be shared with files in ", &dir, "hint: ", "--copy auto"];
        for part in expected {
            assert!(said.stderr.contains(part), "{part:?} is missing: {said:#?}");
        }
    }
    assert_eq!(Survey::of(dir).changes_since(&before, true), "");
    // Anything else copies.
    for copy in ["auto", "kernel", "stream"] {
        let args = ["build", base, "--layers", "dus(1)", "--copy", copy, "--json", "-o", copy];
        let built = run(dus(dir), &args).done().json();
        assert_eq!(built["shared_bytes"], 0);
        let bytes = ["kernel_bytes", "streamed_bytes"].map(|key| built[key].as_u64().unwrap());
        assert_eq!(Some(bytes[0] + bytes[1]), built["bytes"].as_u64());
        assert!(copy != "stream" || bytes[0] == 0, "{built:#}");
        run(dus(dir), &["verify", copy]).done();
    }
}

#[test]
fn a_disk_that_is_too_small_is_known_before_the_first_byte() {
    let Some(image) = Image::tmpfs(16) else { return };
    let base = tiny_mistral().display().to_string();
    let before = Survey::of(&image.path());
    let args = [&base, "--layers", "dus(8)", "-o", "out"];
    for command in ["plan", "build"] {
        let said = run(dus(&image.path()), &[&[command], &args[..]].concat());
        assert_eq!(said.code, Some(2), "{said:#?}");
        for part in ["16.78 MB free", "the build needs ", "mnt"] {
            assert!(said.stderr.contains(part), "{part:?} is missing: {said:#?}");
        }
    }
    assert_eq!(Survey::of(&image.path()).changes_since(&before, true), "");
    // Half as much fits.
    let args = ["build", &base, "--layers", "0..24", "-q", "-o", "out"];
    run(dus(&image.path()), &args).done();
    run(dus(&image.path()), &["verify", "out"]).done();
}

/// What an interrupted build holds is room for the next one, whether that goes on with it or not.
#[test]
fn what_an_interrupted_build_holds_is_room() {
    if !has_strace() {
        return;
    }
    for resume in [&["--resume"][..], &[]] {
        let Some(image) = Image::tmpfs(24) else { return };
        let base = tiny_mistral().display().to_string();
        let args =
            ["build", &base, "--layers", "dus(8)", "--copy", "stream", "--json", "-o", "out"];
        let strace = ["-e", "trace=fsync", "-e", "inject=fsync:signal=KILL:when=1"];
        let killed = run(dus_under_strace(&image.path(), &strace), &args);
        assert_ne!(killed.code, Some(0), "{killed:#?}");
        assert!(image.used_bytes() > 17_000_000);
        run(dus(&image.path()), &["plan", &base, "--layers", "dus(8)", "-o", "out"]).done();
        let built = run(dus(&image.path()), &[&args[..], resume].concat()).done().json();
        let kept = if resume.is_empty() { 0 } else { built["bytes"].as_u64().unwrap() };
        assert_eq!(built["resumed_bytes"], kept, "{built:#}");
        run(dus(&image.path()), &["verify", "out"]).done();
    }
}

/// More files than a process may have open: the limit is lifted where that is allowed.
#[test]
fn more_shards_than_files_may_be_open() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    let before = Survey::of(dir.path());
    let build_with_limit = |limit: &str| {
        let args = "base --layers 'stack(8)' --max-shard-size 1kB -q -o new/out";
        let dus = env!("CARGO_BIN_EXE_dus");
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit {limit} 64; exec {dus} build {args}")]);
        limited.current_dir(dir.path());
        run(limited, &[])
    };
    build_with_limit("-n").refused(&["model-000", "Too many open files"]);
    assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "");

    build_with_limit("-Sn").done();
    run(dus(dir.path()), &["verify", "new/out"]).done();
}
