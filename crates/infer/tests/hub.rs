//! A model by its hub id: fetched once, then found in the cache. The hub is one on this machine.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use testkit::hub_server::{Fault, Host, git_hash, sha256};
use testkit::{Family, HubServer, TinyModel};

const REPO: &str = "owner/tiny";

/// `infer logits` of a model on `hub`, with `cache` for what comes from there.
fn logits(hub: &HubServer, cache: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_infer"));
    program.args(["logits", REPO, "--ids", "1,2,3", "--json"]);
    program.env("HF_ENDPOINT", hub.endpoint()).env("HF_HUB_OFFLINE", "0");
    program.env("HF_HUB_CACHE", cache).current_dir(cache);
    program
}

/// A hub with a model of two shards, of some hundred kilobytes each.
fn hub_with_large_model() -> HubServer {
    let (hub, folder) = (HubServer::start(), tempfile::tempdir().unwrap());
    let model = TinyModel {
        num_shards: Some(2),
        hidden_size: 128,
        intermediate_size: 256,
        head_dim: 32,
        ..TinyModel::default()
    };
    model.write(folder.path());
    let _ = hub.commit_folder(REPO, folder.path());
    hub
}

#[test]
fn a_model_is_fetched_and_then_found_in_the_cache() {
    let (hub, cache) = (HubServer::start(), tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    TinyModel { num_shards: Some(2), ..TinyModel::of(Family::Qwen3) }.write(folder.path());
    let _ = hub.commit_folder(REPO, folder.path());
    let call = |command: &str, model: &str, offline: &str| -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_infer"));
        program.args([command, model, "depth", "--json"]);
        program.env("HF_ENDPOINT", hub.endpoint()).env("HF_HUB_OFFLINE", offline);
        program.env("HF_HUB_CACHE", cache.path()).current_dir(cache.path()).output().unwrap()
    };
    // Tokens need no weights: none are fetched.
    let tokens = call("tokens", REPO, "0");
    assert!(tokens.status.success(), "{tokens:?}");
    assert!(String::from_utf8(tokens.stdout).unwrap().contains("\"depth\""));
    assert_eq!(cache.path().read_dir().unwrap().count(), 0);

    let logits = |model: &str, offline: &str| call("logits", model, offline);
    let expected = logits(folder.path().to_str().unwrap(), "1");
    assert!(expected.status.success(), "{expected:?}");
    for offline in ["0", "1"] {
        let found = logits(REPO, offline);
        assert_eq!(found.stdout, expected.stdout, "{found:?}");
    }
    let missing = logits("owner/missing", "0");
    assert_eq!(missing.status.code(), Some(2));
    let stderr = String::from_utf8(missing.stderr).unwrap();
    assert!(stderr.contains("owner/missing") && stderr.contains("no such path exists"), "{stderr}");
}

#[test]
fn an_interrupted_download_is_gone_on_with() {
    let (hub, cache) = (hub_with_large_model(), tempfile::tempdir().unwrap());
    hub.fail(Host::Storage, "/", 99, Fault::Slow(Duration::from_millis(20)));
    let mut infer = logits(&hub, cache.path());
    let mut child = infer.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let blobs = cache.path().join("models--owner--tiny/blobs");
    let has_weights = || {
        let files = blobs.read_dir().into_iter().flatten().flatten();
        files.into_iter().any(|file| {
            file.file_name().to_string_lossy().ends_with(".dus.incomplete")
                && file.metadata().is_ok_and(|metadata| metadata.blocks() >= 64)
        })
    };
    while !has_weights() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was seen");
        assert!(start.elapsed() < Duration::from_mins(1), "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let mut num_begun = 0;
    for file in blobs.read_dir().unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        num_begun += usize::from(name.ends_with(".incomplete"));
        let is_whole = sha256(&bytes) == name || git_hash(&bytes) == name;
        assert!(is_whole || name.ends_with(".incomplete"), "{name} looks finished");
    }
    assert!(num_begun > 0);

    hub.clear_faults();
    hub.forget_requests();
    let done = logits(&hub, cache.path()).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let files = hub.files(REPO, "main").unwrap();
    let shards = files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let whole: usize = shards.map(|(_, bytes)| bytes.len()).sum();
    assert!(hub.bytes_from_storage() < whole, "all of it came again");
    // The same as of a model that came at once.
    let elsewhere = tempfile::tempdir().unwrap();
    let expected = logits(&hub, elsewhere.path()).output().unwrap();
    assert_eq!(done.stdout, expected.stdout, "{expected:?}");
}

/// On a terminal, which `script` plays.
#[test]
fn who_looks_sees_that_the_hub_is_waited_for() {
    if !Command::new("script").arg("--version").output().is_ok_and(|said| said.status.success()) {
        eprintln!("skipped: `script` is not installed");
        return;
    }
    let (hub, cache) = (hub_with_large_model(), tempfile::tempdir().unwrap());
    hub.fail(Host::Hub, "/tree/", 1, Fault::Status(429, vec![("Retry-After", "1")]));
    let infer = logits(&hub, cache.path());
    let args: Vec<&str> = infer.get_args().map(|arg| arg.to_str().unwrap()).collect();
    let call = format!("{} {}", infer.get_program().display(), args.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &call, "/dev/null"]).current_dir(cache.path()).stdin(Stdio::null());
    script.envs(infer.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = script.env("TERM", "xterm").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("the hub is busy or out of reach; it is asked again in 1 s"), "{text}");
    assert!(text.contains("\"top\""), "{text}");
}
