//! System calls that fail, by strace's fault injection: some have another way, some have none.

use std::path::Path;

use tempfile::TempDir;
use testkit::{Survey, TinyModel};

use crate::dus::{Said, assert_spliced, dus, dus_under_strace, has_strace, run, tiny_mistral};

/// A base of four layers in three shards, whose build takes several copies.
fn base() -> TinyModel {
    TinyModel { num_shards: Some(3), ..TinyModel::default() }
}

fn with_base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    base().write(&dir.path().join("base"));
    dir
}

/// Builds with each of `injections`, such as `ioctl:error=EIO`.
fn build(dir: &Path, injections: &[&str], copy: &str) -> Said {
    let mut strace = Vec::new();
    let calls: Vec<&str> =
        injections.iter().map(|injection| injection.split(':').next().unwrap()).collect();
    strace.extend(["-e".to_owned(), format!("trace={}", calls.join(","))]);
    for injection in injections {
        strace.extend(["-e".to_owned(), format!("inject={injection}")]);
    }
    let strace: Vec<&str> = strace.iter().map(String::as_str).collect();
    let args = ["build", "base", "--layers", "dus(1)", "--copy", copy, "--json", "-o", "new/out"];
    run(dus_under_strace(dir, &strace), &args)
}

/// Which ways the bytes of a build went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ways {
    Kernel,
    Streamed,
    /// As the file system has it: `auto` copies in the kernel only where that helps.
    Either,
}

/// Builds under `injections` and checks the bytes, and that each is counted under the way it went.
#[track_caller]
fn check_falls_back(injections: &[&str], copy: &str, ways: Ways) {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let said = build(dir.path(), injections, copy).done();
    let built = said.json();
    let bytes = |key: &str| built[key].as_u64().unwrap();
    let (kernel, streamed) = (bytes("kernel_bytes"), bytes("streamed_bytes"));
    assert_eq!(kernel + streamed, bytes("bytes"), "{injections:?}: {built:#}");
    assert_eq!(bytes("shared_bytes") + bytes("computed_bytes"), 0, "{injections:?}: {built:#}");
    let found = match (kernel, streamed) {
        (_, 0) => Ways::Kernel,
        (0, _) => Ways::Streamed,
        _ => Ways::Either,
    };
    assert!(found == ways || ways == Ways::Either, "{injections:?}: {built:#}");
    let out = dir.path().join("new/out");
    assert_spliced(&out, &base().tensors_by_name(), [0, 1, 2, 1, 2, 3]);
    for name in testkit::side_files::KEPT {
        let [from, to] = [dir.path().join("base"), out.clone()]
            .map(|dir| std::fs::read(dir.join(name)).unwrap());
        assert_eq!(from, to, "{injections:?}: {name}");
    }
}

const UNSUPPORTED: [&str; 6] =
    ["error=ENOSYS", "error=EXDEV", "error=EINVAL", "error=EPERM", "error=EOPNOTSUPP", "retval=0"];

#[test]
fn a_kernel_that_does_not_copy() {
    for how in UNSUPPORTED {
        check_falls_back(&[&format!("copy_file_range:{how}")], "kernel", Ways::Streamed);
    }
}

/// Each call falls back on its own: one that fails says nothing of the next. Which thread makes which
/// call is up to the machine, so that the ways may be either or both.
#[test]
fn a_kernel_that_copies_now_and_then() {
    for how in UNSUPPORTED {
        for when in ["1", "2", "1..6+2", "2..6+3", "2+"] {
            let injection = format!("copy_file_range:{how}:when={when}");
            check_falls_back(&[&injection], "kernel", Ways::Either);
        }
    }
    check_falls_back(&["copy_file_range:error=EINTR:when=1..2"], "kernel", Ways::Kernel);
}

#[test]
fn a_disk_that_does_not_share() {
    for error in ["EOPNOTSUPP", "EXDEV", "EINVAL", "ENOTTY", "EPERM", "ENOSYS", "ETXTBSY"] {
        check_falls_back(&[&format!("ioctl:error={error}")], "auto", Ways::Either);
    }
    let neither = ["ioctl:error=EOPNOTSUPP", "copy_file_range:error=EXDEV"];
    check_falls_back(&neither, "auto", Ways::Streamed);
}

/// `--copy` says which ways are tried at all.
#[test]
fn ways_that_are_not_asked_for_are_not_tried() {
    check_falls_back(&["ioctl:error=EIO"], "kernel", Ways::Kernel);
    check_falls_back(&["ioctl:error=EIO"], "stream", Ways::Streamed);
    // Only what stands beside the weights may be copied otherwise.
    check_falls_back(&["copy_file_range:error=ENOSYS"], "stream", Ways::Streamed);
}

/// Asserts that the build fails for `reason`, and leaves nothing.
#[track_caller]
fn check_fails(injection: &str, copy: &str, reason: &str) {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let before = Survey::of(dir.path());
    let said = build(dir.path(), &[injection], copy);
    assert_eq!(said.code, Some(2), "{injection}: {said:#?}");
    for part in ["cannot build new/out", reason] {
        assert!(said.stderr.contains(part), "{injection}: {part:?} is missing: {said:#?}");
    }
    assert_eq!(said.stdout, "", "{injection}");
    assert_eq!(Survey::of(dir.path()).changes_since(&before, false), "", "{injection}");
}

const EIO: &str = "Input/output error";
const ENOSPC: &str = "No space left on device";

#[test]
fn a_disk_that_breaks_or_fills_does_not_fall_back() {
    for (error, reason) in [("EIO", EIO), ("ENOSPC", ENOSPC), ("EDQUOT", "quota")] {
        for when in ["1", "3", "2+"] {
            let injection = format!("copy_file_range:error={error}:when={when}");
            check_fails(&injection, "kernel", reason);
        }
    }
}

/// Headers, bytes that are read and written, lengths, syncs and renames.
#[test]
fn a_disk_that_breaks_or_fills_anywhere() {
    for when in ["1", "2", "3+"] {
        check_fails(&format!("pwrite64:error=ENOSPC:when={when}"), "stream", ENOSPC);
        check_fails(&format!("pwrite64:error=EIO:when={when}"), "stream", EIO);
    }
    check_fails("ftruncate:error=ENOSPC", "stream", ENOSPC);
    check_fails("ftruncate:error=EFBIG", "stream", "File too large");
    check_fails("?rename,?renameat,?renameat2:error=EIO", "stream", EIO);
    check_fails("?mkdir,?mkdirat:error=EROFS", "stream", "Read-only file system");
    check_fails("?mkdir,?mkdirat:error=ENOSPC:when=3", "stream", ENOSPC);
}

/// As on a network disk without a lock server: the folders that were made for it are gone again.
#[test]
fn a_disk_without_locks() {
    check_fails("flock:error=ENOLCK", "stream", "No locks available");
}

/// Whichever sync fails, the output is whole or not there.
#[test]
fn a_sync_that_fails() {
    if !has_strace() {
        return;
    }
    let base = base().tensors_by_name();
    for when in 1.. {
        assert!(when < 100, "there is no end of syncs");
        let dir = with_base();
        let said = build(dir.path(), &[&format!("fsync:error=EIO:when={when}")], "stream");
        let out = dir.path().join("new/out");
        if out.exists() {
            assert_spliced(&out, &base, [0, 1, 2, 1, 2, 3]);
            assert_eq!(crate::dus::names(&dir.path().join("new")), ["out"]);
        }
        if said.code == Some(0) {
            assert!(out.exists() && when > 3, "{when} syncs are too few to be sure");
            break;
        }
        assert!(said.code == Some(2) && said.stderr.contains(EIO), "{said:#?}");
        if !out.exists() {
            assert_eq!(crate::dus::names(dir.path()), ["base"]);
        }
    }
}

/// A base that cannot be read to its end, by a build and by `verify`.
#[test]
fn a_base_that_cannot_be_read() {
    if !has_strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = tiny_mistral().display().to_string();
    // The loader of programs reads a few times by itself.
    let strace = ["-e", "trace=pread64", "-e", "inject=pread64:error=EIO:when=8+"];
    let args = ["build", &base, "--layers", "dus(8)", "--copy", "stream", "-o", "out"];
    run(dus_under_strace(dir.path(), &strace), &args).refused(&["safetensors cannot be read", EIO]);
    assert_eq!(crate::dus::names(dir.path()), [""; 0]);

    run(dus(dir.path()), &args).done();
    let said = run(dus_under_strace(dir.path(), &strace), &["verify", "out"]);
    said.refused(&["safetensors cannot be read", EIO]);
}

/// Reads and writes that do less than was asked, and such as a signal ends.
#[test]
fn interrupted_calls_go_on() {
    check_falls_back(&["pwrite64:error=EINTR:when=2"], "stream", Ways::Streamed);
    check_falls_back(&["ioctl:error=EINTR:when=2"], "kernel", Ways::Kernel);
}
