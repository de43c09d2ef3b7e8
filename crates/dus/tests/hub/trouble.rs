//! What comes between a build and its download: full disks, ^C, a hub that is busy.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::Disk;
use testkit::hub_server::{Fault, Host, git_hash, sha256};

use crate::dus::run;
use crate::place::{PLAN, Place, REPO};
use crate::under_way::UnderWay;

const BUILD: [&str; 6] = ["build", REPO, "--layers", PLAN, "-o", "out"];

/// Asserts that whatever has a blob's name is the file of that hash.
#[track_caller]
fn assert_no_false_blob(place: &Place) {
    for path in place.blobs() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        let right = sha256(&bytes) == name || git_hash(&bytes) == name;
        assert!(right || name.ends_with(".incomplete"), "{name} is wrong");
    }
}

#[test]
fn a_cache_without_room_is_told_before_the_download() {
    let place = Place::with_large_model();
    let Some(disk) = Disk::mount(&place.cache(), 1 << 20) else { return };
    let hog = disk.fill(50_000);
    let path = place.cache().display().to_string();
    run(place.dus(), &BUILD).refused(&[&path, "have to be downloaded", "hint: set HF_HUB_CACHE"]);
    assert!(!place.out().exists());
    assert_eq!(place.hub.bytes_from_storage(), 0);
    assert_no_false_blob(&place);

    fs::remove_file(hog).unwrap();
    let _disk = disk;
    let larger = place.dir.path().join("larger");
    let mut dus = place.dus();
    dus.env("HF_HUB_CACHE", larger);
    run(dus, &BUILD).done();
    place.assert_built();
}

#[test]
fn a_cache_that_fills_up_on_the_way() {
    let place = Place::with_large_model();
    let Some(disk) = Disk::mount(&place.cache(), 8 << 20) else { return };
    place.hub.fail(Host::Storage, "/", 99, Fault::Slow(Duration::from_millis(5)));
    let under_way = UnderWay::start(place.dus(), &BUILD, |_| has_bytes(&place));
    let hog = disk.fill(0);
    let said = under_way.end();
    let path = place.cache().display().to_string();
    said.refused(&[&path, "cannot be written", "No space left on device"]);
    assert!(!place.out().exists());
    assert_no_false_blob(&place);
    assert!(!place.cache().join("models--owner--tiny/refs/main").exists());

    // With room again, the rest is fetched and no more.
    fs::remove_file(hog).unwrap();
    place.hub.clear_faults();
    place.hub.forget_requests();
    run(place.dus(), &BUILD).done();
    place.assert_built();
    assert!(place.hub.requests_for("Signature").iter().any(|r| r.header("range").is_some()));
}

/// Whether the disk has something of a large file that is not there whole.
fn has_bytes(place: &Place) -> bool {
    let begun = |path: &Path| {
        path.to_string_lossy().ends_with(".dus.incomplete")
            && path.metadata().is_ok_and(|metadata| metadata.blocks() >= 64)
    };
    // A file may have got its name between the listing and now.
    let blobs = place.cache().join("models--owner--tiny/blobs");
    let entries = blobs.read_dir().into_iter().flatten().flatten();
    entries.into_iter().any(|entry| begun(&entry.path()))
}

#[track_caller]
fn check_stopped(signal: &str, code: i32) {
    let place = Place::with_large_model();
    place.hub.fail(Host::Storage, "/", 99, Fault::Slow(Duration::from_millis(20)));
    let under_way = UnderWay::start(place.dus(), &BUILD, |_| has_bytes(&place));
    let start = Instant::now();
    let said = under_way.send(signal).end();
    assert_eq!(said.code, Some(code), "{said:#?}");
    assert_eq!((&*said.stdout, &*said.stderr), ("", ""), "{said:#?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!place.out().exists());
    assert_no_false_blob(&place);
    let journals = place.blobs();
    let journals =
        journals.iter().filter(|path| path.to_string_lossy().ends_with(".dus.journal.incomplete"));
    let lines = journals.map(|path| fs::read_to_string(path).unwrap().lines().count());
    assert!(lines.max().unwrap_or(0) >= 2, "what came is noted");

    place.hub.clear_faults();
    place.hub.forget_requests();
    run(place.dus(), &BUILD).done();
    place.assert_built();
    run(place.dus(), &["verify", "out"]).done();
    let asked = place.hub.requests_for("Signature");
    let later = asked.iter().filter_map(|request| request.range(usize::MAX));
    assert!(later.into_iter().any(|(start, _)| start > 0), "{asked:#?}");
    let files = place.hub.files(REPO, "main").unwrap();
    let shards = files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let whole: usize = shards.map(|(_, bytes)| bytes.len()).sum();
    assert!(place.hub.bytes_from_storage() < whole);
}

#[test]
fn an_interrupted_download_is_gone_on_with() {
    check_stopped("INT", 130);
}

#[test]
fn a_terminated_download_is_gone_on_with() {
    check_stopped("TERM", 143);
}

/// The hub says for how long it wants to be left alone, between the first shard and the last.
#[test]
fn a_hub_that_is_busy_in_the_midst_of_it_is_waited_for() {
    for host in [Host::Hub, Host::Storage] {
        let place = Place::with_large_model();
        let busy = Fault::Status(429, vec![("Retry-After", "1")]);
        // The storage breaks off first, so that the refusal comes to who asks for the rest.
        place.hub.fail(Host::Storage, "/", 1, Fault::Drop(100_000));
        let target = if host == Host::Hub { "model-00002" } else { "/" };
        place.hub.fail(host, target, 2, busy);
        let start = Instant::now();
        let said = run(place.dus(), &BUILD).done();
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert_eq!(said.stderr, "", "where nobody looks, nothing is shown");
        place.assert_built();
        let refused = place.hub.requests();
        assert_eq!(refused.iter().filter(|(_, request)| request.status == 429).count(), 2);
        place.hub.assert_token_stayed();
    }
}

/// On a terminal, which `script` plays.
#[test]
fn who_looks_sees_that_the_hub_is_waited_for() {
    if !Command::new("script").arg("--version").output().is_ok_and(|said| said.status.success()) {
        eprintln!("skipped: `script` is not installed");
        return;
    }
    let place = Place::new();
    place.hub.fail(Host::Hub, "/tree/", 1, Fault::Status(429, vec![("Retry-After", "1")]));
    let dus = place.dus();
    let call =
        format!("{} {} '{PLAN}' {}", dus.get_program().display(), BUILD[..3].join(" "), "-o out");
    let mut script = Command::new("script");
    script.args(["-qec", &call, "/dev/null"]).current_dir(place.dir.path());
    script.envs(dus.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = script.env("TERM", "xterm").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("the hub is busy or out of reach; it is asked again in 1 s"), "{text}");
    place.assert_built();
}

/// A server that falls silent is waited for, but not for longer than a silence may last; a second ^C
/// waits for nothing.
#[test]
fn a_silent_hub_does_not_hold_up_an_interrupted_download() {
    let stalled = |timeout: &str| {
        let place = Place::with_large_model();
        place.hub.fail(Host::Storage, "/", 99, Fault::Stall(100_000));
        let mut dus = place.dus();
        dus.env("HF_HUB_DOWNLOAD_TIMEOUT", timeout);
        let under_way = UnderWay::start(dus, &BUILD, |_| has_bytes(&place));
        // What the hub sends before it is silent is read by then: a signal between two reads ends it by itself.
        std::thread::sleep(Duration::from_millis(300));
        (place, under_way.send("INT"), Instant::now())
    };
    let (place, under_way, start) = stalled("2");
    let said = under_way.end();
    assert_eq!(said.code, Some(130), "{said:#?}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(!place.out().exists());

    let (place, under_way, start) = stalled("60");
    std::thread::sleep(Duration::from_millis(100));
    let said = under_way.send("INT").end();
    // The signal itself ended it.
    assert_eq!(said.code, None, "{said:#?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!place.out().exists());
    assert_no_false_blob(&place);
}
