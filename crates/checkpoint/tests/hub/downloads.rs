//! Downloads where nothing goes wrong, and what they ask for.

use std::fs;
use std::path::Path;

use checkpoint::hub::{self, Hub, HubError, HubId, ModelId, Settings, Watch};
use checkpoint::{Checkpoint, Error};
use testkit::hub_server::{Host, git_hash, sha256};
use testkit::{TinyModel, weights};

use crate::place::{NOT_NEEDED, Place, REPO, Tally, id, model, noise};

#[test]
fn what_a_build_needs_is_fetched_and_no_more() {
    let weights = noise(300_000);
    let place = Place::with_weights(&weights);
    let tally = Tally::default();
    let watch = Watch { progress: &|progress| tally.hear(progress), ..Watch::nobody() };
    let found = place.hub().find(&id(), watch).unwrap();
    assert!(found.notice.is_none());
    let dir = found.location.path;
    assert_eq!(dir, place.snapshot());

    let mut expected_bytes = 0;
    for (name, bytes) in model(&weights) {
        let path = dir.join(name);
        assert_eq!(path.exists(), !NOT_NEEDED.contains(&name), "{name}");
        if path.exists() {
            assert_eq!(fs::read(path).unwrap(), bytes, "{name}");
            expected_bytes += bytes.len() as u64;
        }
    }
    assert_eq!(tally.sums(), (expected_bytes, expected_bytes));
    assert!(place.incomplete().is_empty());
    place.server.assert_token_stayed();
    for request in place.server.requests_for("/api/") {
        assert_eq!(request.header("authorization"), Some("Bearer hf_test"));
    }
    assert!(place.server.requests_for("pytorch_model.bin").is_empty());
}

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let weights = noise(200_000);
    let place = Place::with_weights(&weights);
    place.find().unwrap();
    let snapshot = place.snapshot();
    let link = |name: &str| fs::read_link(snapshot.join(name)).unwrap();
    let blob = |hash: String| Path::new("../../blobs").join(hash);
    assert_eq!(link("model.safetensors"), blob(sha256(&weights)));
    assert_eq!(link("tokenizer.json"), blob(git_hash(b"{}")));
    assert_eq!(link("sub/code.py"), Path::new("..").join(blob(git_hash(b"pass"))));
    let lock = format!(".locks/models--owner--name/{}.lock", sha256(&weights));
    assert!(place.cache().join(lock).is_file());
    let temporary = |dir: &Path| {
        let entries = dir.read_dir().unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().contains("tmp")).count()
    };
    assert_eq!(
        temporary(&snapshot) + temporary(&place.cache().join("models--owner--name/refs")),
        0
    );
}

#[test]
fn a_model_arrives_as_it_is() {
    let place = Place::empty();
    let tiny = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    tiny.write(&place.dir.path().join("plain"));
    let _ = place.server.commit_folder(REPO, &place.dir.path().join("plain"));
    let found = place.find().unwrap();
    Checkpoint::open(&found.location.path).unwrap();
    assert_eq!(weights::read(&found.location.path), tiny.tensors_by_name());
}

#[test]
fn a_large_file_comes_in_parts_at_once() {
    let weights = noise(1_000_000);
    let place = Place::with_weights(&weights);
    let settings = Settings { part_bytes: 150_000, ..place.settings() };
    Hub::new(settings).unwrap().find(&id(), Watch::nobody()).unwrap();
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
    let requests = place.server.requests();
    let storage = requests.iter().filter(|(host, _)| *host == Host::Storage);
    assert_eq!(storage.count(), 7);
    assert_eq!(place.server.bytes_from_storage(), weights.len());
    // The address that the hub gave is asked for again, rather than the hub.
    assert!(place.server.requests_for("resolve").iter().filter(|r| r.status == 302).count() < 7);
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let place = Place::with_weights(&noise(200_000));
    place.find().unwrap();
    place.server.forget_requests();
    place.find().unwrap();
    assert_eq!(place.server.bytes_from_storage(), 0);
    assert!(place.server.requests_for("resolve").is_empty());

    // A new commit with the same weights brings the rest.
    let weights = noise(200_000);
    let mut files = model(&weights);
    files.push(("new.txt", b"new"));
    let commit = place.server.commit(REPO, &files);
    let found = place.find().unwrap();
    assert_eq!(found.location.hub, Some(HubId { repo: REPO.to_owned(), commit }));
    assert_eq!(fs::read(found.location.path.join("new.txt")).unwrap(), b"new");
    assert_eq!(fs::read(found.location.path.join("model.safetensors")).unwrap(), weights);
    assert_eq!(place.server.bytes_from_storage(), 0);
}

#[test]
fn a_pinned_commit_in_the_cache_asks_nobody() {
    let place = Place::empty();
    let commit = place.server.commit(REPO, &model(&noise(10)));
    let pinned = ModelId { revision: commit.clone(), ..id() };
    let hub = place.hub();
    hub.find(&pinned, Watch::nobody()).unwrap();
    assert!(!place.cache().join("models--owner--name/refs").join(&commit).exists());
    place.server.forget_requests();
    hub.find(&pinned, Watch::nobody()).unwrap();
    assert!(place.server.requests().is_empty());
}

#[test]
fn a_branch_is_found_by_its_name() {
    let place = Place::empty();
    let commit = place.server.commit(REPO, &model(&noise(10)));
    place.server.branch(REPO, "refs/pr/1", &commit);
    let branch = ModelId { revision: "refs/pr/1".to_owned(), ..id() };
    let found = place.hub().find(&branch, Watch::nobody()).unwrap();
    assert_eq!(found.location.hub.unwrap().commit, commit);
    let noted = place.cache().join("models--owner--name/refs/refs/pr/1");
    assert_eq!(fs::read_to_string(noted).unwrap(), commit);
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let place = Place::with_weights(&noise(10));
    let offline = Hub::new(Settings { offline: true, ..place.settings() }).unwrap();
    let error = offline.find(&id(), Watch::nobody()).unwrap_err();
    assert_eq!(error.to_string(), "owner/name needs the hub, but HF_HUB_OFFLINE is set");
    assert!(offline.resolve(&id(), Watch::nobody()).is_err());
    assert!(place.server.requests().is_empty());

    place.find().unwrap();
    place.server.forget_requests();
    let found = offline.find(&id(), Watch::nobody()).unwrap();
    assert_eq!(found.location.path, place.snapshot());
    assert!(found.notice.is_none());
    assert!(place.server.requests().is_empty());
}

#[test]
fn without_the_hub_the_cache_answers_with_a_notice() {
    let place = Place::with_weights(&noise(10));
    place.find().unwrap();
    place.server.fail(Host::Hub, "/revision/", 1, testkit::Fault::Status(503, vec![]));
    let found = place.find().unwrap();
    assert_eq!(found.location.path, place.snapshot());
    let notice = found.notice.unwrap().to_string();
    assert!(notice.ends_with("answers 503"), "{notice}");

    let nobody = Settings { endpoint: "http://127.0.0.1:1".to_owned(), ..place.settings() };
    let found = Hub::new(nobody).unwrap().find(&id(), Watch::nobody()).unwrap();
    assert_eq!(found.notice.unwrap().to_string(), "127.0.0.1:1 cannot be reached");
}

#[test]
fn half_a_copy_does_not_stand_in_for_the_hub() {
    let place = Place::with_weights(&noise(10));
    place.find().unwrap();
    fs::remove_file(place.snapshot().join("model.safetensors")).unwrap();
    let nobody = Settings { endpoint: "http://127.0.0.1:1".to_owned(), ..place.settings() };
    let error = Hub::new(nobody).unwrap().find(&id(), Watch::nobody()).unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1:1 cannot be reached");
    // The blob is still there.
    place.server.forget_requests();
    place.find().unwrap();
    assert_eq!(place.server.bytes_from_storage(), 0);
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), noise(10));
}

#[test]
fn a_revision_that_is_gone_is_an_error_whatever_the_cache_holds() {
    let place = Place::with_weights(&noise(10));
    place.find().unwrap();
    let header = ("X-Error-Code", "RevisionNotFound");
    place.server.fail(Host::Hub, "/revision/", 1, testkit::Fault::Status(404, vec![header]));
    let error = place.find().unwrap_err();
    assert_eq!(error.to_string(), "owner/name has no revision main");
}

#[test]
fn paths_come_before_hub_ids() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("owner/name")).unwrap();
    let location = hub::locate(REPO, dir.path()).unwrap();
    assert_eq!(location.path, dir.path().join(REPO));
    assert_eq!(location.hub, None);
}

#[test]
fn a_cancelled_download_goes_on_later() {
    let weights = noise(600_000);
    let place = Place::with_weights(&weights);
    let tally = Tally::default();
    let hub = Hub::new(Settings { connections: 1, ..place.settings() }).unwrap();
    let cancelled = || tally.done() > 300_000;
    let watch = Watch { progress: &|progress| tally.hear(progress), is_cancelled: &cancelled };
    let error = hub.find(&id(), watch).unwrap_err();
    assert!(matches!(&error, Error::Hub(hub) if matches!(**hub, HubError::Cancelled)), "{error}");
    assert_eq!(place.incomplete().len(), 2);
    let first = tally.done();

    place.server.forget_requests();
    place.find().unwrap();
    assert_eq!(fs::read(place.snapshot().join("model.safetensors")).unwrap(), weights);
    let sent = place.server.bytes_from_storage() as u64;
    assert!(sent <= weights.len() as u64 - (first - 100_000), "{sent} bytes came again");
    assert!(place.incomplete().is_empty());
}
