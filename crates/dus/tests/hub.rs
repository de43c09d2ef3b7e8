//! Models that are on the hub only: planned from headers, fetched for a build. The hub is one on this
//! machine.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "command_line/dus.rs"]
mod dus;
#[path = "hub/place.rs"]
mod place;
#[path = "hub/trouble.rs"]
mod trouble;
#[path = "interruption/under_way.rs"]
mod under_way;

use std::fs;
use std::path::Path;

use dus::{dus, run};
use place::{PLAN, Place, REPO};
use testkit::gguf::TinyGguf;
use testkit::hub_server::{Fault, Host};
use testkit::{splice, weights};

#[test]
fn a_plan_reads_headers_only() {
    let place = Place::new();
    let args = ["plan", REPO, "--layers", PLAN, "--json"];
    let plan = run(place.dus(), &args).done().json();
    assert_eq!(plan["num_hidden_layers"], 6);
    assert_eq!(plan["obstacles"], serde_json::json!([]));

    let local = tempfile::tempdir().unwrap();
    place.model.write(&local.path().join("base"));
    let args = ["plan", "base", "--layers", PLAN, "--json"];
    let same = run(dus(local.path()), &args).done().json();
    for key in ["bytes", "num_parameters", "num_tensors", "layers", "shards"] {
        assert_eq!(plan[key], same[key], "{key}");
    }
    assert!(!place.dir.path().join("hub").exists(), "nothing comes into the cache");
    let left = place.dir.path().join("tmp").read_dir().unwrap().count();
    assert_eq!(left, 0, "headers are not left behind");
    place.hub.assert_token_stayed();
}

/// The tokenizer is part of a GGUF file: to plan one, it is read, and the weights are not.
#[test]
fn a_plan_of_a_gguf_file_reads_the_tokenizer_too() {
    let place = Place::new();
    let _ = place.hub.commit_folder(REPO, &dus::tiny_mistral());
    for flags in [&["--to", "gguf"][..], &["-o", "x.gguf"]] {
        let args = [&["plan", REPO, "--layers", "dus(8)", "--json"][..], flags].concat();
        let plan = run(place.dus(), &args).done().json();
        assert_eq!(plan["num_hidden_layers"], 48);
    }
    // Two times the headers of three shards, of 12 MB.
    assert!(place.hub.bytes_from_storage() < 1_000_000, "{}", place.hub.bytes_from_storage());
    assert!(!place.cache().exists(), "nothing comes into the cache");
}

#[test]
fn a_build_fetches_its_base_and_is_proved() {
    let place = Place::new();
    let args = ["build", REPO, "--layers", PLAN, "-o", "out"];
    run(place.dus(), &args).done();
    let expected =
        splice::expected(&place.model.tensors_by_name(), &[0, 1, 2, 1, 2, 3], "model.layers");
    assert_eq!(weights::read(&place.out()), expected);
    run(place.dus(), &["verify", "out"]).done();
    // What is in the cache now serves without the hub.
    let mut offline = place.dus();
    offline.env("HF_HUB_OFFLINE", "1");
    run(offline, &["verify", "out"]).done();
}

#[test]
fn a_connection_that_breaks_is_taken_up_again() {
    let place = Place::new();
    place.hub.fail(Host::Storage, "", 2, Fault::Drop(1000));
    run(place.dus(), &["build", REPO, "--layers", PLAN, "-o", "out"]).done();
    run(place.dus(), &["verify", "out"]).done();
}

#[test]
fn what_the_hub_refuses_is_named_and_leaves_nothing() {
    let check = |prepare: &dyn Fn(&Place), repo: &str, expected: &[&str]| {
        let place = Place::new();
        prepare(&place);
        for command in ["plan", "build"] {
            let args = [command, repo, "--layers", PLAN, "-o", "out"];
            run(place.dus(), &args).refused(expected);
            assert!(!place.out().exists());
        }
    };
    check(&|_| {}, "owner/missing", &["owner/missing", "no such path exists"]);
    check(&|_| {}, "owner/tiny@nothing", &["nothing"]);
    check(&|place| place.hub.hide(REPO, "hf_secret", true), REPO, &[REPO]);
    let wrong = |place: &Place| place.hub.fail(Host::Storage, "", 99, Fault::WrongBytes);
    let place = Place::new();
    wrong(&place);
    run(place.dus(), &["build", REPO, "--layers", PLAN, "-o", "out"]).refused(&[REPO]);
    assert!(!place.out().exists());
}

#[test]
fn without_a_network_the_cache_is_all_there_is() {
    let place = Place::new();
    let mut offline = place.dus();
    offline.env("HF_HUB_OFFLINE", "1");
    let args = ["build", REPO, "--layers", PLAN, "-o", "out"];
    run(offline, &args).refused(&[REPO, "no such path exists", "HF_HUB_OFFLINE"]);
    assert_eq!(place.hub.requests().len(), 0);
    assert!(!Path::new(&place.out()).exists());
}

#[test]
fn a_build_is_uploaded_without_the_paths_of_this_machine() {
    let place = Place::new();
    place.model.write(&place.dir.path().join("secret/base"));
    let args = ["build", "secret/base", "--layers", PLAN, "-o", "out"];
    run(place.dus(), &args).done();
    let repo = "owner/deep";
    run(place.dus(), &["push", "out", repo]).refused(&["token"]);
    let mut dus = place.dus();
    dus.env("HF_TOKEN", "hf_token");
    let pushed = run(dus, &["push", "out", repo, "--private", "--json"]).done().json();
    assert!(pushed["sent_bytes"].as_u64().unwrap() > 0);

    let sent = place.hub.files(repo, "main").unwrap();
    for name in ["config.json", "model.safetensors"] {
        assert!(sent[name] == fs::read(place.out().join(name)).unwrap(), "{name}");
    }
    for name in ["dus.json", "README.md"] {
        let text = std::str::from_utf8(&sent[name]).unwrap();
        assert!(text.contains("\"base\"") && !text.contains("secret"), "{text}");
    }
    // What was sent is a base like any other.
    place.hub.forget_requests();
    let mut dus = place.dus();
    dus.env("HF_TOKEN", "hf_token");
    run(dus, &["build", repo, "--layers", "0..n", "-o", "again"]).done();
    let again = weights::read(&place.dir.path().join("again"));
    assert_eq!(again, weights::read(&place.out()));
    place.hub.assert_token_stayed();
}

#[test]
fn a_config_is_uploaded_without_the_paths_of_this_machine() {
    let place = Place::new();
    let base = place.dir.path().join("base");
    place.model.write(&base);
    for name in ["config.json", "tokenizer_config.json"] {
        let key = if name == "config.json" { "_name_or_path" } else { "name_or_path" };
        testkit::raw::edit_json(&base.join(name), |config| config[key] = "/home/me/step-5".into());
    }
    run(place.dus(), &["build", "base", "--layers", PLAN, "-o", "out"]).done();
    // A card that its owner removed is not missed.
    fs::remove_file(place.out().join("README.md")).unwrap();
    let mut dus = place.dus();
    dus.env("HF_TOKEN", "hf_token");
    run(dus, &["push", "out", "owner/deep"]).done();
    let sent = place.hub.files("owner/deep", "main").unwrap();
    for name in ["config.json", "tokenizer_config.json"] {
        let here = fs::read_to_string(place.out().join(name)).unwrap();
        let there = std::str::from_utf8(&sent[name]).unwrap();
        assert_eq!(there, here.replace("/home/me/step-5", "step-5"));
        assert_ne!(there, here);
    }
    assert!(!sent.contains_key("README.md"));
}

/// What was sent differs from the file in the base's path alone, and no byte moved.
#[test]
fn a_gguf_file_is_uploaded_with_a_card_and_without_the_paths_of_this_machine() {
    let place = Place::new();
    let at = |name: &str| place.dir.path().join(name);
    fs::create_dir(at("secrèt")).unwrap();
    TinyGguf::default().write(&at("secrèt/base.gguf"));
    run(place.dus(), &["build", "secrèt/base.gguf", "--layers", PLAN, "-o", "deep.gguf"]).done();
    let built = fs::read(at("deep.gguf")).unwrap();
    let push = |repo: &str| {
        let mut dus = place.dus();
        dus.env("HF_TOKEN", "hf_token");
        run(dus, &["push", "deep.gguf", repo, "--json"]).done().json()
    };
    assert_eq!(push("owner/deep")["sent_bytes"], built.len());

    let sent = place.hub.files("owner/deep", "main").unwrap();
    assert_eq!(sent.keys().collect::<Vec<_>>(), ["README.md", "deep.gguf"]);
    let (file, card) = (&sent["deep.gguf"], std::str::from_utf8(&sent["README.md"]).unwrap());
    for text in [&file[..], card.as_bytes()] {
        assert!(!text.windows(4).any(|part| part == b"secr"), "{card}");
    }
    let differ = built.iter().zip(file).filter(|(here, there)| here != there).count();
    assert!(built.len() == file.len() && differ <= "\"secrèt/base.gguf\"".len(), "{differ}");
    assert!(card.contains("base = \"base.gguf\"") && card.contains("plan: 0..3 + 1..4"), "{card}");

    // It is a build like any other, and the card's recipe makes it again.
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/deep.gguf"), file).unwrap();
    fs::copy(at("secrèt/base.gguf"), at("other/base.gguf")).unwrap();
    run(place.dus(), &["verify", "other/deep.gguf"]).done();
    let recipe = card.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(at("other/recipe.toml"), recipe).unwrap();
    run(place.dus(), &["build", "other/recipe.toml", "-o", "again.gguf"]).done();
    assert!(fs::read(at("again.gguf")).unwrap()[file.len() - 64..] == file[file.len() - 64..]);

    // Again, nothing is sent; a card that is there is its owner's.
    assert_eq!(push("owner/deep")["commit"], serde_json::Value::Null);
    let _ = place.hub.commit("owner/mine", &[("README.md", b"# mine")]);
    push("owner/mine");
    let sent = place.hub.files("owner/mine", "main").unwrap();
    assert_eq!((&*sent["README.md"], sent["deep.gguf"] == *file), (&b"# mine"[..], true));
    place.hub.assert_token_stayed();
}
