//! The cache under stress: two processes at once, and a full disk.

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use checkpoint::hub::{Hub, Settings, Watch};
use testkit::hub_server::Host;
use testkit::{Disk, Fault};

use crate::place::{Place, REPO, id, model, noise};

/// Set for the process that [`two_processes_at_once`] starts.
const CHILD: &str = "CHECKPOINT_TEST_HUB_CHILD";

#[test]
fn two_processes_at_once() {
    if let Ok(endpoint) = env::var(CHILD) {
        let settings = Settings { endpoint, part_bytes: 100_000, ..Settings::from_env() };
        Hub::new(settings).unwrap().find(&id(), Watch::nobody()).unwrap();
        return;
    }
    let weights = noise(900_000);
    let place = Place::with_weights(&weights);
    // Slow enough that the two meet.
    place.server.fail(Host::Storage, "/", usize::MAX, Fault::Slow(Duration::from_millis(2)));
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["cache::two_processes_at_once", "--exact"])
        .env(CHILD, place.server.endpoint())
        .env("HF_HUB_CACHE", place.cache())
        .env_remove("HF_HUB_OFFLINE")
        .spawn()
        .unwrap();
    let hub = Hub::new(Settings { part_bytes: 100_000, ..place.settings() }).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| hub.find(&id(), Watch::nobody()).unwrap());
        }
    });
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
    assert!(place.incomplete().is_empty());
    // The lock let one of them fetch it, and the others wait.
    assert_eq!(place.server.bytes_from_storage(), weights.len());
}

#[test]
fn a_download_that_is_killed_goes_on() {
    if let Ok(endpoint) = env::var(CHILD) {
        let settings = Settings { endpoint, connections: 1, ..Settings::from_env() };
        let _ = Hub::new(settings).unwrap().find(&id(), Watch::nobody());
        return;
    }
    let weights = noise(12 << 20);
    let place = Place::with_weights(&weights);
    place.server.fail(Host::Storage, "/", 1, Fault::Slow(Duration::from_micros(300)));
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["cache::a_download_that_is_killed_goes_on", "--exact"])
        .env(CHILD, place.server.endpoint())
        .env("HF_HUB_CACHE", place.cache())
        .env_remove("HF_HUB_OFFLINE")
        .spawn()
        .unwrap();
    let name = format!("{}.dus.journal.incomplete", testkit::hub_server::sha256(&weights));
    let journal = || {
        let blobs = place.cache().join("models--owner--name/blobs");
        fs::read_to_string(blobs.join(&name)).unwrap_or_default().lines().count()
    };
    while journal() < 2 && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(journal() >= 2, "the child was to be killed under way");
    // What it asked for is still on its way into nowhere.
    thread::sleep(Duration::from_millis(200));
    place.server.forget_requests();
    place.find().unwrap();
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
    assert!(place.server.bytes_from_storage() <= 8 << 20);
}

#[test]
fn damage_to_what_was_left_is_found() {
    let weights = noise(600_000);
    let sha256 = testkit::hub_server::sha256(&weights);
    let leave = |place: &Place, data: &[u8], journal: &str| {
        let blobs = place.cache().join("models--owner--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{sha256}.dus.incomplete")), data).unwrap();
        fs::write(blobs.join(format!("{sha256}.dus.journal.incomplete")), journal).unwrap();
        // An older Python's: a beginning that is none of ours.
        fs::write(blobs.join(format!("{sha256}.incomplete")), b"junk").unwrap();
    };
    let wrong = vec![7; weights.len()];
    for (data, journal) in [
        (&wrong[..], "600000\n0 600000\n"),
        (&wrong, "600000\n0 1000\n5000 6000\n"),
        (&wrong, "600001\n0 1000\n"),
        (&wrong, "600000\n0 1000\n2000 30"),
        (&wrong[..500], "600000\n0 1000\n"),
        (&weights, "600000\n0 600000\n"),
        (&weights, "600000\n0 400000\n400000 50"),
        (&weights, "\u{0}\u{0}"),
    ] {
        let place = Place::with_weights(&weights);
        leave(&place, data, journal);
        place.find().unwrap();
        assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
        assert_eq!(place.incomplete(), [format!("{sha256}.incomplete")]);
        if data == weights && journal.ends_with("0 600000\n") {
            assert_eq!(place.server.bytes_from_storage(), 0);
        }
    }
}

#[test]
fn a_disk_without_room_is_told_before_the_download() {
    let place = Place::with_weights(&noise(2_000_000));
    let Some(_disk) = Disk::mount(&place.cache(), 1_000_000) else { return };
    let error = place.find().unwrap_err();
    let said = error.to_string();
    assert!(said.contains("bytes, but 2000"), "{said}");
    assert!(error.hint().unwrap().starts_with("set HF_HUB_CACHE"));
    assert_eq!(place.server.bytes_from_storage(), 0);
}

#[test]
fn a_disk_that_fills_up_on_the_way() {
    let weights = noise(600_000);
    let place = Place::with_weights(&weights);
    let Some(_disk) = Disk::mount(&place.cache(), 1 << 20) else { return };
    let hog = place.cache().join("hog");
    let fill = |progress| {
        if matches!(progress, checkpoint::hub::Progress::Done(bytes) if bytes > 1000) {
            let _ = fs::write(&hog, vec![0; 1 << 20]);
        }
    };
    place.server.fail(Host::Storage, "/", 1, Fault::Slow(Duration::from_micros(100)));
    let error = place.hub().find(&id(), Watch { progress: &fill, ..Watch::nobody() }).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().ends_with("cannot be written"), "{error}");
    assert!(source.contains("No space left"), "{source}");

    fs::remove_file(&hog).unwrap();
    place.server.clear_faults();
    place.server.forget_requests();
    place.find().unwrap();
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
    assert!(place.server.bytes_from_storage() < weights.len());
}

/// A branch that moved is noted last: a disk that is full by then leaves no stray ref, which Python
/// would take for a branch of a commit that is not there.
#[test]
fn a_disk_that_is_full_at_the_very_end() {
    let weights = noise(300_000);
    let place = Place::with_weights(&weights);
    let Some(disk) = Disk::mount(&place.cache(), 1 << 20) else { return };
    place.find().unwrap();
    let refs = place.cache().join("models--owner--name/refs");
    let before = fs::read(refs.join("main")).unwrap();
    let moved = [&model(&weights)[..], &[("other.png", b"PNG")]].concat();
    let _ = place.server.commit(REPO, &moved);

    let hog = disk.fill(0);
    let error = place.find().unwrap_err();
    assert_eq!(error.to_string(), format!("{}/main cannot be written", refs.display()));
    assert_eq!(fs::read(refs.join("main")).unwrap(), before);
    assert_eq!(refs.read_dir().unwrap().count(), 1);
    fs::remove_file(&hog).unwrap();
    place.find().unwrap();
    assert_ne!(fs::read(refs.join("main")).unwrap(), before);
}
