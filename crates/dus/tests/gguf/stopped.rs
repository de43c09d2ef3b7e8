//! Builds that are stopped, disks that are full, and the memory that a build takes.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Survey;
use testkit::gguf::TinyGguf;

use crate::dus::dus;
use crate::image::Image;
use crate::place::Place;

/// A base of 340 MB in four layers, of which none are on the disk.
fn large() -> TinyGguf {
    TinyGguf { feed_forward_length: 192 << 10, ..TinyGguf::default() }
}

fn with_large_base() -> Place {
    let place = Place::empty();
    large().write_sparse(&place.path("base.gguf"));
    place
}

/// A build of six layers, half a gigabyte, byte by byte, which may be stopped once it has begun.
#[track_caller]
fn begun(place: &Place, flags: &[&str]) -> Child {
    let args = ["build", "base.gguf", "--layers", "dus(1)", "--copy", "stream", "-o", "out.gguf"];
    let mut command = dus(place.dir());
    command.args(args).args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while !place.path(".out.gguf.dus-partial/model.gguf").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was seen");
        assert!(start.elapsed() < Duration::from_mins(1), "it does not begin");
        std::thread::sleep(Duration::from_micros(200));
    }
    child
}

fn send(child: &Child, signal: &str) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

#[test]
fn a_stopped_build_leaves_nothing_and_an_earlier_one_as_it_was() {
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let place = with_large_base();
        TinyGguf::default().write(&place.path("small.gguf"));
        let small = ["build", "small.gguf", "--layers", "dus(1)", "-q", "-o", "out.gguf"];
        for has_old in [false, true] {
            let mut flags = Vec::new();
            if has_old {
                place.dus(&small).done();
                flags.push("--force");
            }
            let before = Survey::of(place.dir());
            let child = begun(&place, &flags);
            send(&child, signal);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), code);
            if code.is_some() {
                assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
                assert_eq!(Survey::of(place.dir()).changes_since(&before, false), "");
            } else {
                let partial = place.path(".out.gguf.dus-partial");
                assert!(partial.is_dir());
                assert_eq!(place.path("out.gguf").exists(), has_old);
                fs::remove_dir_all(partial).unwrap();
            }
            if has_old {
                place.verified(&["out.gguf"]);
            }
        }
    }
}

/// What a killed build left is removed by the next.
#[test]
fn the_next_build_removes_what_a_killed_one_left() {
    let place = Place::with(&TinyGguf::default());
    fs::create_dir(place.path(".out.gguf.dus-partial")).unwrap();
    fs::write(place.path(".out.gguf.dus-partial/model.gguf"), "half").unwrap();
    place.build(&[]);
    assert_eq!(place.names(), ["out.gguf"]);
}

#[test]
fn a_full_disk_is_known_before_the_first_byte() {
    let Some(image) = Image::tmpfs(64) else { return };
    let place = with_large_base();
    let out = image.path().join("out.gguf").display().to_string();
    let before = Survey::of(&image.path());
    for command in ["plan", "build"] {
        let args = [command, "base.gguf", "--layers", "dus(1)", "-o", &out];
        let said = place.dus(&args);
        assert_eq!(said.code, Some(2), "{said:#?}");
        for part in [" free", "the build needs"] {
            assert!(said.stderr.contains(part), "{part:?} is missing: {said:#?}");
        }
    }
    assert_eq!(Survey::of(&image.path()).changes_since(&before, true), "");
}

/// The high-water mark of a process's memory in bytes, read until it ends.
fn high_water(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut mark = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kilobytes) = line.and_then(|line| line.split_whitespace().next()) {
            mark = kilobytes.parse::<u64>().unwrap() * 1024;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    mark
}

/// Half a gigabyte goes through no more memory than a build may use, copied or computed.
#[test]
fn memory_does_not_grow_with_the_model() {
    if !Path::new("/proc/self/status").exists() {
        eprintln!("skipped: there is no /proc");
        return;
    }
    for plan in ["dus(1)", "dus(1){new down_proj: scale 0.5}"] {
        let place = with_large_base();
        let mut command = dus(place.dir());
        let args = ["build", "base.gguf", "--layers", plan, "--copy", "stream", "-q"];
        command.args(args).args(["-o", "out.gguf"]);
        let mut child = command.spawn().unwrap();
        let mark = high_water(&mut child);
        assert!(child.wait().unwrap().success());
        let bytes = place.path("out.gguf").metadata().unwrap().len();
        assert!(bytes > 480_000_000, "{bytes}");
        assert!(0 < mark && mark < 64_000_000, "{mark} bytes for {plan}");
    }
}
