//! Uploads.

use std::collections::BTreeMap;
use std::fs;

use checkpoint::Result;
use checkpoint::hub::{Content, Hub, Push, Pushed, Settings, Upload, Watch};
use testkit::Fault;
use testkit::hub_server::Host;

use crate::place::{Place, REPO, Tally, noise};

fn push() -> Push {
    Push {
        repo: REPO.to_owned(),
        branch: "main".to_owned(),
        private: false,
        message: "48 layers".to_owned(),
    }
}

fn upload(path: &str, bytes: &[u8]) -> Upload {
    Upload { path: path.to_owned(), content: Content::Bytes(bytes.to_vec()), yields: false }
}

/// A built model's files: two large, two small, one of them made up on the way.
fn files(place: &Place) -> Vec<Upload> {
    let dir = place.dir.path().join("out");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    fs::write(dir.join("a.safetensors"), noise(700_000)).unwrap();
    fs::write(dir.join("b.safetensors"), noise(250_000)).unwrap();
    fs::write(dir.join("empty.safetensors"), "").unwrap();
    let mut files = Upload::folder(&dir).unwrap();
    files.push(upload("README.md", b"# card"));
    files
}

fn sent(place: &Place, files: &[Upload]) -> Result<Pushed> {
    place.hub().push(&push(), files, Watch::nobody())
}

#[track_caller]
fn assert_arrived(place: &Place) {
    let expected: BTreeMap<String, Vec<u8>> = [
        ("README.md", b"# card".to_vec()),
        ("a.safetensors", noise(700_000)),
        ("b.safetensors", noise(250_000)),
        ("config.json", b"{}".to_vec()),
        ("empty.safetensors", Vec::new()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    assert_eq!(place.server.files(REPO, "main").unwrap(), expected);
    place.server.assert_token_stayed();
}

#[test]
fn a_folder_arrives_in_one_commit() {
    for part_bytes in [None, Some(100_000)] {
        let place = Place::empty();
        if let Some(part_bytes) = part_bytes {
            place.server.split_uploads(part_bytes);
        }
        let files = files(&place);
        let tally = Tally::default();
        let watch = Watch { progress: &|progress| tally.hear(progress), ..Watch::nobody() };
        let pushed = place.hub().push(&push(), &files, watch).unwrap();
        assert!(pushed.commit.is_some());
        assert_eq!((pushed.sent, pushed.kept), (950_000, 0));
        assert_eq!(pushed.url, format!("{}/owner/name", place.server.endpoint()));
        let (begun, done) = tally.sums();
        assert_eq!((begun, done), (2 * 950_000 + 8, 2 * 950_000 + 8));
        assert_arrived(&place);
        let puts = place.server.requests_for("/upload/").len();
        assert_eq!(puts, if part_bytes.is_some() { 10 } else { 2 });
    }
}

#[test]
fn a_file_with_another_beginning_arrives_as_it_is_told() {
    for part_bytes in [usize::MAX, 100_000] {
        let place = Place::empty();
        place.server.split_uploads(part_bytes);
        place.server.fail(Host::Storage, "/upload/", 2, Fault::Status(500, vec![]));
        let path = place.dir.path().join("a.gguf");
        fs::write(&path, noise(350_000)).unwrap();
        let head = vec![7; 150_000];
        let expected = [&head[..], &noise(350_000)[150_000..]].concat();
        let content = Content::Headed { head: head.into(), path };
        let _ = sent(&place, &[Upload { content, ..upload("a.gguf", b"") }]).unwrap();
        assert!(place.server.files(REPO, "main").unwrap()["a.gguf"] == expected);
    }
}

#[test]
fn what_the_hub_has_is_not_sent_again() {
    let place = Place::empty();
    let files = files(&place);
    sent(&place, &files).unwrap();
    place.server.forget_requests();
    let again = sent(&place, &files).unwrap();
    assert_eq!((again.commit, again.sent, again.kept), (None, 0, 950_000));
    assert!(place.server.requests_for("/commit/").is_empty());

    let mut changed = files.clone();
    changed[4].content = Content::Bytes(b"# card".to_vec());
    changed.push(upload("new.ignored", b"x"));
    changed.push(upload("new.txt", b"new"));
    // A card that is there is its owner's.
    changed.push(Upload { yields: true, ..upload("README.md", b"# other") });
    changed.push(Upload { yields: true, ..upload("other.md", b"# other") });
    let pushed = sent(&place, &changed).unwrap();
    assert!(pushed.commit.is_some());
    assert_eq!((pushed.sent, pushed.ignored), (0, vec!["new.ignored".to_owned()]));
    let held = place.server.files(REPO, "main").unwrap();
    assert_eq!(held["new.txt"], b"new");
    assert_eq!((&*held["README.md"], &*held["other.md"]), (&b"# card"[..], &b"# other"[..]));
    assert!(place.server.requests_for("/upload/").is_empty());
}

#[test]
fn an_upload_that_broke_goes_on() {
    let place = Place::empty();
    let files = files(&place);
    place.server.fail(Host::Hub, "/commit/", usize::MAX, Fault::Status(500, vec![]));
    let error = sent(&place, &files).unwrap_err().to_string();
    assert!(error.ends_with("/commit/main answers 500"), "{error}");
    assert!(place.server.files(REPO, "main").is_none());
    place.server.clear_faults();
    let pushed = sent(&place, &files).unwrap();
    assert_eq!((pushed.sent, pushed.kept), (0, 950_000));
    assert_arrived(&place);
}

#[test]
fn uploads_survive_a_busy_or_broken_storage() {
    for fault in [Fault::Status(500, vec![]), Fault::Status(503, vec![("Retry-After", "0")])] {
        for part_bytes in [usize::MAX, 100_000] {
            let place = Place::empty();
            place.server.split_uploads(part_bytes);
            place.server.fail(Host::Storage, "/upload/", 3, fault.clone());
            let tally = Tally::default();
            let watch = Watch { progress: &|progress| tally.hear(progress), ..Watch::nobody() };
            place.hub().push(&push(), &files(&place), watch).unwrap();
            let (begun, done) = tally.sums();
            assert_eq!(begun, done);
            assert_arrived(&place);
        }
    }
    let place = Place::empty();
    place.server.fail(Host::Storage, "/upload/", usize::MAX, Fault::Status(403, vec![]));
    let error = sent(&place, &files(&place)).unwrap_err().to_string();
    assert!(error.contains("answers 403"), "{error}");
    assert!(place.server.files(REPO, "main").is_none());
}

#[test]
fn who_may_not_upload_hears_why() {
    let place = Place::empty();
    let files = files(&place);
    let nobody = Hub::new(Settings { token: None, ..place.settings() }).unwrap();
    let error = nobody.push(&push(), &files, Watch::nobody()).unwrap_err();
    assert_eq!(error.to_string(), "uploading to owner/name needs a token");
    assert!(place.server.requests().is_empty());

    let forbidden = [("X-Error-Message", "You don't have the rights to create a model")];
    place.server.fail(Host::Hub, "create", 1, Fault::Status(403, forbidden.to_vec()));
    let error = sent(&place, &files).unwrap_err();
    let expected =
        "the hub denies access to owner/name: You don't have the rights to create a model";
    assert_eq!(error.to_string(), expected);

    // The token may not make repositories, but this one is there.
    let _ = place.server.commit(REPO, &[("old.txt", b"old")]);
    place.server.fail(Host::Hub, "create", 1, Fault::Status(403, vec![]));
    sent(&place, &files).unwrap();
    assert_eq!(place.server.files(REPO, "main").unwrap()["old.txt"], b"old");

    let offline = Hub::new(Settings { offline: true, ..place.settings() }).unwrap();
    assert!(offline.push(&push(), &files, Watch::nobody()).is_err());
}

#[test]
fn a_name_that_is_no_repositorys_is_refused() {
    let place = Place::empty();
    let files = files(&place);
    for repo in
        ["name", "owner/name@branch", "../../x", "owner/na me", "owner/name?x=1", "/x", "a/b/c"]
    {
        let push = Push { repo: repo.to_owned(), ..push() };
        let error = place.hub().push(&push, &files, Watch::nobody()).unwrap_err();
        let expected = "is not the name of a repository, which has the form owner/name";
        assert_eq!(error.to_string(), format!("{repo} {expected}"));
        assert_eq!(error.hint().is_some(), repo.contains('@'));
    }
    assert!(place.server.requests().is_empty());
}

#[test]
fn a_cancelled_upload_makes_no_commit() {
    let place = Place::empty();
    let files = files(&place);
    let tally = Tally::default();
    let cancelled = || tally.done() > 1_200_000;
    let watch = Watch { progress: &|progress| tally.hear(progress), is_cancelled: &cancelled };
    let error = place.hub().push(&push(), &files, watch).unwrap_err();
    assert_eq!(error.to_string(), "cancelled");
    assert!(place.server.files(REPO, "main").is_none());
}
