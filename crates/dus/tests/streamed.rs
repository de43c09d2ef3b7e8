//! Builds of a base that lies on the hub and is never kept (`--no-cache`). The hub is one on this
//! machine.

#![cfg(feature = "hub")]
#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a file that is shared says why a test is skipped")]

#[path = "command_line/dus.rs"]
mod dus;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

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
        dus.env("TMPDIR", self.dir.path().join("tmp"));
        dus
    }

    fn build(&self, flags: &[&str]) -> Said {
        self.build_plan(PLAN, flags)
    }

    fn build_plan(&self, plan: &str, flags: &[&str]) -> Said {
        run(self.dus(), &[&BUILD[..], &["--layers", plan], flags].concat())
    }

    /// Begins a build that can be gone on with, and stops it by ^C in the second file of the base.
    fn interrupt(&self) {
        let second = self.base.path().join("model-00002-of-00002.safetensors");
        // The storage calls an object by its hash.
        let hash = hub_server::sha256(&fs::read(&second).unwrap());
        self.hub.fail(Host::Storage, &hash, 999, Fault::Slow(Duration::from_millis(20)));
        let mut dus = self.dus();
        dus.args(BUILD).args(["--layers", PLAN, "--resume"]);
        let mut child = dus.stderr(Stdio::piped()).spawn().unwrap();
        let journal = self.dir.path().join(".out.dus-partial/.dus-journal");
        let num_stretches = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
        while num_stretches() < 3 {
            assert!(child.try_wait().unwrap().is_none(), "it came to an end");
            thread::sleep(Duration::from_millis(5));
        }
        let kill = format!("kill -INT {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("--resume"), "{stderr}");
        self.hub.clear_faults();
        self.hub.forget_requests();
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

/// Also of layers that no new layer is: without them a file has no hash.
#[test]
fn a_plan_that_drops_layers_is_checked_too() {
    let place = Place::new();
    place.build_plan("0..1", &[]).done();
    let base = weights::read(place.base.path());
    let expected = splice::expected(&base, &[0], "model.layers");
    splice::assert_same(&weights::read(&place.out()), &expected);
    fs::remove_dir_all(place.out()).unwrap();
    place.hub.fail_later(Host::Storage, "", 2, 99, Fault::WrongBytes);
    place.build_plan("0..1", &[]).refused(&[REPO]);
    assert!(!place.out().exists());
}

#[test]
fn faults_end_in_the_right_bytes_or_in_an_error() {
    #[track_caller]
    fn check(fault: Fault, times: usize, refused: Option<&str>) {
        let place = Place::new();
        // Each of the two files is asked for its header first.
        place.hub.fail_later(Host::Storage, "", 2, times, fault);
        let said = place.build(&[]);
        match refused {
            None => {
                said.done();
                place.check_built();
            }
            Some(expected) => {
                said.refused(&[expected]);
                assert_eq!(names(place.dir.path()), ["tmp"]);
            }
        }
        place.check_nothing_kept();
    }
    check(Fault::Drop(100_000), 5, None);
    check(Fault::Longer(9), 1, None);
    check(Fault::Status(503, vec![("retry-after", "0")]), 3, None);
    check(Fault::Status(429, vec![("retry-after", "1")]), 3, None);
    check(Fault::WrongBytes, 999, Some("arrived damaged"));
    check(Fault::OtherTag, 999, Some("changed while it was read"));
    check(Fault::IgnoreRange, 999, Some("does not send parts of files"));
    check(Fault::OtherRange, 999, Some("does not send parts of files"));
    check(Fault::Shorter(5), 2, None);
    check(Fault::Status(404, vec![]), 999, Some("404"));
}

/// What an earlier run had is not asked for again; what it had not, is.
#[test]
fn a_build_that_broke_off_goes_on() {
    let place = Place::new();
    place.interrupt();
    let built = place.build(&["--resume", "--json"]).done().json();
    place.check_built();
    place.check_nothing_kept();
    let resumed = built["resumed_bytes"].as_u64().unwrap();
    assert!(resumed > 0, "{built:#}");
    let notes = built["notes"].to_string();
    assert!(notes.contains("dus verify --no-cache"), "{notes}");
    assert!(place.hub.bytes_from_storage() < place.base_bytes() * 3 / 4);
}

/// What arrived damaged is not gone on with, either.
#[test]
fn a_damaged_base_leaves_nothing_to_go_on_with() {
    let place = Place::new();
    place.hub.fail_later(Host::Storage, "", 2, 99, Fault::WrongBytes);
    place.build(&["--resume"]).refused(&["arrived damaged"]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

/// A branch that moved is another base.
#[test]
fn a_base_that_moved_is_not_gone_on_with() {
    let place = Place::new();
    place.interrupt();
    TinyModel { seed: 9, num_shards: Some(2), ..TinyModel::default() }.write(place.base.path());
    let _ = place.hub.commit_folder(REPO, place.base.path());
    place.build(&["--resume"]).refused(&["its `base` was", "and now is"]);
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
