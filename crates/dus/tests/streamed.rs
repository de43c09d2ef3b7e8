//! Builds of a base that lies on the hub and is never kept (`--no-cache`). The hub is one on this
//! machine.

#![cfg(feature = "hub")]
#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a file that is shared says why a test is skipped")]

#[path = "streamed/damage.rs"]
mod damage;
#[path = "command_line/dus.rs"]
mod dus;
#[path = "streamed/here_and_there.rs"]
mod here_and_there;
#[path = "movement/image.rs"]
mod image;
#[path = "streamed/resume.rs"]
mod resume;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dus::{Said, dus, names, run};
use testkit::hub_server::{self, Fault, Host, HubServer};
use testkit::{TinyModel, splice, weights};

const REPO: &str = "owner/tiny";
const BUILD: [&str; 5] = ["build", REPO, "--no-cache", "-o", "out"];
/// Each layer is used, some twice.
const PLAN: &str = "0..3 + 1..4";
const LAYERS: [usize; 6] = [0, 1, 2, 1, 2, 3];

/// A hub with a model of several windows a shard, and an empty folder to work in.
struct Place {
    hub: HubServer,
    base: tempfile::TempDir,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let model = TinyModel {
            hidden_size: 256,
            intermediate_size: 640,
            num_attention_heads: 16,
            head_dim: 16,
            vocab_size: 6000,
            num_shards: Some(2),
            side_files: true,
            ..TinyModel::default()
        };
        let (hub, dir, base) =
            (HubServer::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model.write(base.path());
        let _ = hub.commit_folder(REPO, base.path());
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Self { hub, base, dir }
    }

    fn dus(&self) -> Command {
        let mut dus = dus(self.dir.path());
        dus.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HUB_OFFLINE", "0");
        dus.env("HF_HUB_DOWNLOAD_TIMEOUT", "3");
        dus.env("TMPDIR", self.dir.path().join("tmp"));
        dus
    }

    fn build(&self, flags: &[&str]) -> Said {
        self.build_plan(PLAN, flags)
    }

    fn build_plan(&self, plan: &str, flags: &[&str]) -> Said {
        run(self.dus(), &[&BUILD[..], &["--layers", plan], flags].concat())
    }

    /// The hash of the base's first or second weight file, by which the storage calls it.
    fn hash(&self, number: usize) -> String {
        let name = format!("model-0000{number}-of-00002.safetensors");
        hub_server::sha256(&fs::read(self.base.path().join(name)).unwrap())
    }

    /// The commit that the cache holds.
    fn commit(&self) -> String {
        let main = self.dir.path().join("hub/models--owner--tiny/refs/main");
        fs::read_to_string(main).unwrap()
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// The length of the base's weight files.
    fn base_bytes(&self) -> usize {
        let shards = names(self.base.path());
        let shards = shards.iter().filter(|name| name.ends_with(".safetensors"));
        shards.map(|name| self.base.path().join(name).metadata().unwrap().len() as usize).sum()
    }

    /// Asserts that the output has the base's tensors where the plan wants them.
    #[track_caller]
    fn check_built(&self) {
        let base = weights::read(self.base.path());
        let expected = splice::expected(&base, &LAYERS, "model.layers");
        splice::assert_same(&weights::read(&self.out()), &expected);
    }

    /// Asserts that neither the cache nor the folder for temporary files holds anything.
    #[track_caller]
    fn check_nothing_kept(&self) {
        assert!(!self.dir.path().join("hub").exists(), "nothing comes into the cache");
        assert_eq!(names(&self.dir.path().join("tmp")), [""; 0], "headers are not left behind");
    }
}

/// Builds by `plan` with `flags` from the folder itself, and from the hub.
#[track_caller]
fn check_same_as_local(plan: &str, flags: &[&str]) {
    let place = Place::new();
    place.build_plan(plan, flags).done();
    let base = place.base.path().to_str().unwrap();
    let args = ["build", base, "--layers", plan, "-o", "local"];
    run(dus(place.dir.path()), &[&args, flags].concat()).done();
    let local = place.dir.path().join("local");
    assert_eq!(names(&local), names(&place.out()));
    // The card and the manifest name the base, each by its own name.
    let files = names(&local).into_iter().filter(|n| n != "README.md" && n != "dus.json");
    for name in files.filter(|name| local.join(name).is_file()) {
        let read = |dir: &Path| fs::read(dir.join(&name)).unwrap();
        assert!(read(&local) == read(&place.out()), "{name} differs");
    }
    place.check_nothing_kept();
    run(place.dus(), &["verify", "out", "--no-cache"]).done();
}

#[test]
fn each_byte_comes_once_and_none_is_kept() {
    let place = Place::new();
    let built = place.build(&["--json"]).done().json();
    place.check_built();
    place.check_nothing_kept();
    assert_eq!(built["streamed_bytes"], built["bytes"]);
    let (sent, base) = (place.hub.bytes_from_storage(), place.base_bytes());
    // Headers come once to be planned from, and once as part of what is hashed.
    assert!(sent >= base && sent < base + base / 20, "{sent} for {base}");
    place.hub.assert_token_stayed();

    run(place.dus(), &["verify", "out", "--no-cache"]).done();
    place.check_nothing_kept();
}

#[test]
fn it_is_what_a_local_base_gives() {
    check_same_as_local(PLAN, &["--max-shard-size", "1MB", "--dtype", "float32"]);
    check_same_as_local("0..3 + (1..4){new *: noise 0.1 seed=1, o_proj: zero}", &[]);
}

/// The cache is used if it has what was asked for.
#[test]
fn a_whole_copy_in_the_cache_is_not_fetched_again() {
    let place = Place::new();
    run(place.dus(), &["build", REPO, "--layers", PLAN, "-o", "first"]).done();
    place.hub.forget_requests();
    place.build(&[]).done();
    place.check_built();
    assert_eq!(place.hub.bytes_from_storage(), 0);
    // Also where the hub cannot say whether it is the newest.
    fs::remove_dir_all(place.out()).unwrap();
    let mut far = place.dus();
    far.env("HF_ENDPOINT", "http://127.0.0.1:9");
    let said = run(far, &[&BUILD[..], &["--layers", PLAN]].concat()).done();
    assert!(said.stderr.contains("the cache's copy is used"), "{said:#?}");
    // Without the hub it still is.
    fs::remove_dir_all(place.out()).unwrap();
    let mut offline = place.dus();
    offline.env("HF_HUB_OFFLINE", "1");
    run(offline, &[&BUILD[..], &["--layers", PLAN]].concat()).done();
}

/// Python's `AutoModel` alone brings weights and config, and no tokenizer.
#[test]
fn a_copy_in_the_cache_without_tokenizer_is_not_used() {
    let place = Place::new();
    run(place.dus(), &["build", REPO, "--layers", PLAN, "-o", "first"]).done();
    for snapshot in place.dir.path().join("hub/models--owner--tiny/snapshots").read_dir().unwrap() {
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            fs::remove_file(snapshot.as_ref().unwrap().path().join(name)).unwrap();
        }
    }
    place.build(&[]).done();
    assert_eq!(names(&place.out()), names(&place.dir.path().join("first")));
    place.check_built();
    // So it is of a commit, of which the cache alone would have to tell.
    fs::remove_dir_all(place.out()).unwrap();
    let commit = place.commit();
    let pinned = format!("{REPO}@{commit}");
    let args = ["build", &pinned, "--no-cache", "--layers", PLAN, "-o", "out"];
    run(place.dus(), &args).done();
    assert_eq!(names(&place.out()), names(&place.dir.path().join("first")));
}

/// Where the cache has all, nobody waits for a hub that is busy, and none is asked of a commit.
#[test]
fn a_whole_copy_in_the_cache_needs_no_patience() {
    let place = Place::new();
    run(place.dus(), &["build", REPO, "--layers", PLAN, "-o", "first"]).done();
    place.hub.forget_requests();
    place.hub.fail(Host::Hub, "", 99, Fault::Status(503, vec![]));
    let said = place.build(&[]).done();
    assert!(said.stderr.contains("the cache's copy is used"), "{said:#?}");
    assert_eq!(place.hub.requests().len(), 1);

    fs::remove_dir_all(place.out()).unwrap();
    place.hub.forget_requests();
    let pinned = format!("{REPO}@{}", place.commit());
    let args = ["build", &pinned, "--no-cache", "--layers", PLAN, "-o", "out"];
    run(place.dus(), &args).done();
    assert_eq!(place.hub.requests().len(), 0);
}
