//! Repositories that are read where they lie.

use std::fs;
use std::os::unix::fs::MetadataExt;

use checkpoint::Checkpoint;
use checkpoint::hub::{Hub, Remote, Settings, Watch};
use testkit::hub_server::Host;
use testkit::{Fault, TinyModel};

use crate::place::{Place, REPO, id, model, noise};

fn remote(place: &Place) -> Remote {
    let hub = place.hub();
    let revision = hub.resolve(&id(), Watch::nobody()).unwrap();
    hub.remote(revision)
}

#[test]
fn ranges_are_read_as_they_are() {
    let weights = noise(400_000);
    let place = Place::with_weights(&weights);
    let remote = remote(&place);
    let mut buffer = vec![0; 1000];
    for offset in [0, 1, 250_000, 399_000] {
        remote.read_at("model.safetensors", offset, &mut buffer, Watch::nobody()).unwrap();
        assert_eq!(buffer, weights[offset as usize..][..1000]);
    }
    assert_eq!(place.server.bytes_from_storage(), 4000);
    assert_eq!(place.server.requests_for("resolve").len(), 1);
    remote.read_at("model.safetensors", 7, &mut [], Watch::nobody()).unwrap();
    assert!(remote.read_at("model.safetensors", 399_001, &mut buffer, Watch::nobody()).is_err());
    assert!(remote.read_at("nothing", 0, &mut buffer, Watch::nobody()).is_err());
    assert_eq!(
        remote.read("config.json", Watch::nobody()).unwrap(),
        b"{\"model_type\": \"llama\"}"
    );
    place.server.assert_token_stayed();
    assert!(!place.cache().exists());
}

#[test]
fn reads_survive_what_downloads_survive() {
    let weights = noise(400_000);
    let place = Place::with_weights(&weights);
    let remote = remote(&place);
    let mut buffer = vec![0; 200_000];
    place.server.fail(Host::Storage, "/", 3, Fault::Drop(50_000));
    place.server.fail(Host::Hub, "resolve", 2, Fault::Status(503, vec![]));
    remote.read_at("model.safetensors", 100_000, &mut buffer, Watch::nobody()).unwrap();
    assert_eq!(buffer, weights[100_000..300_000]);
    assert_eq!(place.server.bytes_from_storage(), 200_000);
}

#[track_caller]
fn check(fault: &Fault, expected: &str) {
    let place = Place::with_weights(&noise(400_000));
    let remote = remote(&place);
    let mut buffer = vec![0; 1000];
    remote.read_at("model.safetensors", 0, &mut buffer, Watch::nobody()).unwrap();
    place.server.fail(Host::Storage, "/", 9, fault.clone());
    let read = remote.read_at("model.safetensors", 1000, &mut buffer, Watch::nobody());
    let said = read.unwrap_err().to_string();
    assert!(said.contains(expected), "{said}");
}

#[test]
fn reads_that_cannot_be_trusted_are_errors() {
    check(&Fault::OtherTag, "model.safetensors of owner/name changed while it was read");
    check(&Fault::OtherRange, "does not send parts of files");
    check(&Fault::IgnoreRange, "does not send parts of files");
    check(&Fault::Drop(0), "cannot be reached");
}

#[test]
fn a_file_read_whole_is_checked() {
    let place = Place::with_weights(b"x");
    let remote = remote(&place);
    place.server.fail(Host::Hub, "config.json", 1, Fault::WrongBytes);
    let error = remote.read("config.json", Watch::nobody()).unwrap_err().to_string();
    assert!(error.starts_with("config.json of owner/name arrived damaged"), "{error}");
}

#[test]
fn an_outline_opens_as_the_model() {
    let place = Place::empty();
    let plain = place.dir.path().join("plain");
    let tiny = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    tiny.write(&plain);
    fs::write(plain.join("tokenizer.json"), noise(50_000)).unwrap();
    let commit = place.server.commit_folder(REPO, &plain);
    let remote = remote(&place);
    place.server.forget_requests();

    let outline = place.dir.path().join("outline");
    let location = remote.outline(&outline, false, Watch::nobody()).unwrap();
    assert_eq!(location.hub.unwrap().commit, commit);
    let (found, expected) =
        (Checkpoint::open(&outline).unwrap(), Checkpoint::open(&plain).unwrap());
    let describe = |checkpoint: &Checkpoint| {
        let tensors = checkpoint.tensors().iter();
        tensors
            .map(|t| {
                format!(
                    "{} {:?} {:?} {} {:?}",
                    t.name,
                    t.encoding.dtype().unwrap(),
                    t.shape,
                    t.file,
                    t.range
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(describe(&found), describe(&expected));
    let config = |dir: &std::path::Path| fs::read(dir.join("config.json")).unwrap();
    assert_eq!(config(&outline), config(&plain));
    // The tokenizer was not fetched, and has its length.
    assert!(place.server.requests_for("tokenizer.json").is_empty());
    assert_eq!(fs::metadata(outline.join("tokenizer.json")).unwrap().len(), 50_000);

    // What a tensor holds is read at its place.
    for tensor in found.tensors() {
        let name = &found.files()[tensor.file].name;
        let mut bytes = vec![0; tensor.bytes() as usize];
        remote.read_at(name, tensor.range.start, &mut bytes, Watch::nobody()).unwrap();
        let file = fs::read(plain.join(name)).unwrap();
        assert_eq!(bytes, file[tensor.range.start as usize..tensor.range.end as usize]);
    }

    remote.outline(&outline, true, Watch::nobody()).unwrap();
    assert_eq!(fs::read(outline.join("tokenizer.json")).unwrap(), noise(50_000));
}

#[test]
fn an_outline_brings_headers_and_no_weights() {
    let header = br#"{"w":{"dtype":"U8","shape":[5000000],"data_offsets":[0,5000000]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    weights.resize(weights.len() + 5_000_000, 1);
    let place = Place::with_weights(&weights);
    let outline = place.dir.path().join("outline");
    remote(&place).outline(&outline, false, Watch::nobody()).unwrap();
    assert!(place.server.bytes_from_storage() <= 64 << 10);
    let written = fs::metadata(outline.join("model.safetensors")).unwrap();
    assert_eq!(written.len(), weights.len() as u64);
    assert!(written.blocks() * 512 <= 128 << 10, "it takes {} blocks", written.blocks());
    assert_eq!(Checkpoint::open(&outline).unwrap().tensors().len(), 1);
    assert!(!outline.join("pytorch_model.bin").exists());
}

#[test]
fn headers_longer_than_the_first_request() {
    let tensors: Vec<String> = (0..5000)
        .map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    let header = format!("{{{}}}", tensors.join(","));
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header.as_bytes());
    weights.resize(weights.len() + 5000, 1);
    let place = Place::with_weights(&weights);
    let outline = place.dir.path().join("outline");
    remote(&place).outline(&outline, false, Watch::nobody()).unwrap();
    assert_eq!(Checkpoint::open(&outline).unwrap().tensors().len(), 5000);
}

#[test]
fn weights_that_are_none_are_told_when_they_are_opened() {
    for weights in [&b""[..], b"short", b"version https://git-lfs.github.com/spec/v1\n"] {
        let place = Place::empty();
        let _ = place.server.commit(REPO, &model(weights));
        let outline = place.dir.path().join("outline");
        remote(&place).outline(&outline, false, Watch::nobody()).unwrap();
        assert_eq!(fs::read(outline.join("model.safetensors")).unwrap(), weights);
        assert!(Checkpoint::open(&outline).is_err());
    }
}

#[test]
fn offline_nothing_is_read() {
    let place = Place::with_weights(b"x");
    let revision = place.hub().resolve(&id(), Watch::nobody()).unwrap();
    let offline = Hub::new(Settings { offline: true, ..place.settings() }).unwrap();
    let read = offline.remote(revision).read("config.json", Watch::nobody());
    assert!(read.unwrap_err().to_string().contains("HF_HUB_OFFLINE"));
}
