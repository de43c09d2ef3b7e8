//! The cache is shared with Python's `huggingface_hub`, both ways.
//!
//! `DUS_TEST_PYTHON` names an interpreter that has it; else `python3` is tried.

use std::env;
use std::fs;
use std::process::{Command, Output};

use checkpoint::hub::{self, Hub, Settings, Watch};

use crate::place::{Place, id, model, noise};

/// Runs `script` with the hub and the cache of `place`; `None`, with the reason printed, without Python.
fn python(place: &Place, offline: bool, script: &str) -> Option<Output> {
    let python = env::var("DUS_TEST_PYTHON").unwrap_or("python3".to_owned());
    let there = Command::new(&python).args(["-c", "import huggingface_hub"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no huggingface_hub (see DUS_TEST_PYTHON)");
        return None;
    }
    let output = Command::new(&python)
        .args(["-c", script])
        .env("HF_ENDPOINT", place.server.endpoint())
        .env("HF_HOME", place.dir.path())
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

#[test]
fn python_reads_what_was_fetched_here() {
    let weights = noise(300_000);
    let place = Place::with_weights(&weights);
    let found = place.find().unwrap();
    let script = r#"
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache, scan_cache_dir
print(snapshot_download("owner/name", local_files_only=True))
print(hf_hub_download("owner/name", "model.safetensors"))
print(try_to_load_from_cache("owner/name", "sub/code.py"))
print(try_to_load_from_cache("owner/name", "pytorch_model.bin"))
info = scan_cache_dir()
assert not info.warnings, info.warnings
[repo] = info.repos
[revision] = repo.revisions
print(repo.repo_id, sorted(revision.refs), len(revision.files), repo.size_on_disk > 300000)
"#;
    let Some(output) = python(&place, true, script) else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    let dir = found.location.path.display().to_string();
    let expected = format!(
        "{dir}\n{dir}/model.safetensors\n{dir}/sub/code.py\nNone\nowner/name ['main'] 6 True\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn what_python_fetched_is_read_here() {
    let weights = noise(300_000);
    let place = Place::with_weights(&weights);
    let script = "from huggingface_hub import snapshot_download; snapshot_download('owner/name')";
    let Some(_) = python(&place, false, script) else { return };
    place.server.forget_requests();
    let found = place.find().unwrap();
    assert_eq!(place.server.bytes_from_storage(), 0);
    assert!(place.server.requests_for("resolve").is_empty());
    for (name, bytes) in model(&weights) {
        assert_eq!(fs::read(found.location.path.join(name)).unwrap(), bytes, "{name}");
    }
    let offline = Hub::new(Settings { offline: true, ..place.settings() }).unwrap();
    assert_eq!(offline.find(&id(), Watch::nobody()).unwrap().location.path, found.location.path);
    assert!(hub::locate("owner/name", place.dir.path()).is_err(), "that is another cache");
}

#[test]
fn python_and_this_fetch_at_once() {
    let weights = noise(2_000_000);
    let place = Place::with_weights(&weights);
    let slow = testkit::Fault::Slow(std::time::Duration::from_millis(1));
    place.server.fail(testkit::hub_server::Host::Storage, "/", usize::MAX, slow);
    let script = "from huggingface_hub import snapshot_download; snapshot_download('owner/name')";
    std::thread::scope(|scope| {
        let python = scope.spawn(|| python(&place, false, script));
        std::thread::sleep(std::time::Duration::from_millis(300));
        place.find().unwrap();
        let _ = python.join().unwrap();
    });
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
    assert!(place.incomplete().is_empty());
    assert_eq!(place.server.bytes_from_storage(), weights.len());
}
