//! A model by its hub id: fetched once, then found in the cache. The hub is one on this machine.

use std::process::{Command, Output};

use testkit::{Family, HubServer, TinyModel};

const REPO: &str = "owner/tiny";

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
