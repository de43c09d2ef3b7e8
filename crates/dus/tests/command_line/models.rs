//! Models by path and by hub id.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use testkit::{TinyModel, hub, raw};

use crate::dus::{Said, assert_spliced, dus, names, run};

const FIRST: &str = "26bca36bde8333b5d7f72e9ed20ccda6a618af24";
const SECOND: &str = "7231864981174d9bee8c7687c24c8344414eae6b";

fn second() -> TinyModel {
    TinyModel { seed: 2, num_shards: Some(2), ..TinyModel::default() }
}

/// The program with no word in its environment of where the hub's cache lies, and a home in `dir`.
fn dus_at_home(dir: &Path) -> Command {
    let mut dus = dus(dir);
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"] {
        dus.env_remove(name);
    }
    dus.env("HOME", dir.join("home"));
    dus
}

#[test]
fn the_cache_is_where_python_has_it() {
    let vars: [(&str, &[(&str, &str)]); 6] = [
        ("a", &[("HF_HUB_CACHE", "a")]),
        ("b/hub", &[("HF_HOME", "b")]),
        ("c", &[("HF_HUB_CACHE", "c"), ("HF_HOME", "nowhere")]),
        ("d/hub", &[("HF_HUB_CACHE", ""), ("HF_HOME", "d")]),
        ("e/huggingface/hub", &[("XDG_CACHE_HOME", "e")]),
        ("home/.cache/huggingface/hub", &[]),
    ];
    for (cache, vars) in vars {
        let dir = tempfile::tempdir().unwrap();
        let command = || {
            let mut dus = dus_at_home(dir.path());
            for (name, value) in vars {
                let path = dir.path().join(value);
                dus.env(name, if value.is_empty() { PathBuf::new() } else { path });
            }
            dus
        };
        let cache = dir.path().join(cache);
        let args = ["plan", "owner/name", "--layers", "dus(1)", "--json"];
        let searched = cache.display().to_string();
        run(command(), &args).refused(&["owner/name", &searched, "no such path exists", "hint: "]);
        let _ = hub::cache(&cache, "owner/name", FIRST, &TinyModel::default());
        assert_eq!(run(command(), &args).done().json()["num_hidden_layers"], 6);
    }
}

#[test]
fn a_build_from_the_hub_names_id_and_commit_and_no_path() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("hub");
    let base = TinyModel::default();
    let _ = hub::cache(&cache, "owner/name", FIRST, &base);
    let args = ["build", "owner/name", "--layers", "dus(1)", "-q", "-o", "deep/out"];
    run(dus(dir.path()), &args).done();
    let out = dir.path().join("deep/out");
    assert_spliced(&out, &base.tensors_by_name(), [0, 1, 2, 1, 2, 3]);

    let manifest = raw::read_json(&out.join("dus.json"));
    let model = manifest["models"][0].as_object().unwrap();
    let found = (&manifest["models"][0]["hub"], &manifest["models"][0]["revision"]);
    assert_eq!(found, (&json!("owner/name"), &json!(FIRST)));
    assert!(!model.contains_key("path"), "{manifest:#}");
    for name in ["dus.json", "README.md"] {
        let text = fs::read_to_string(out.join(name)).unwrap();
        assert!(text.contains("owner/name") && text.contains(FIRST), "{name}: {text}");
        let here = dir.path().display().to_string();
        for path in [&*here, "../", "snapshots", "models--"] {
            assert!(!text.contains(path), "{name} has {path:?}: {text}");
        }
    }
    for name in names(&out) {
        assert!(!out.join(&name).is_symlink(), "{name} is a link");
    }

    // It is proved against the commit that it was made from, also when the branch has moved on.
    let _ = hub::cache(&cache, "owner/name", SECOND, &second());
    run(dus(dir.path()), &["verify", "deep/out"]).done();
    fs::rename(&cache, dir.path().join("elsewhere")).unwrap();
    run(dus(dir.path()), &["verify", "deep/out"]).refused(&["owner/name", FIRST]);
    let base = format!("elsewhere/models--owner--name/snapshots/{FIRST}");
    run(dus(dir.path()), &["verify", "deep/out", "--base", &base]).done();
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("hub");
    let _ = hub::cache(&cache, "owner/name", FIRST, &TinyModel::default());
    let _ = hub::cache(&cache, "owner/name", SECOND, &second());
    let refs = cache.join("models--owner--name/refs");
    fs::write(refs.join("v0.1"), FIRST).unwrap();
    fs::create_dir(refs.join("pr")).unwrap();
    fs::write(refs.join("pr/7"), format!("{FIRST}\n")).unwrap();

    let recipe = dir.path().join("recipe.toml");
    for (spec, commit) in [
        ("owner/name", SECOND),
        ("owner/name@main", SECOND),
        ("owner/name@v0.1", FIRST),
        ("owner/name@pr/7", FIRST),
        (&format!("owner/name@{FIRST}"), FIRST),
        (&format!("owner/name@{SECOND}"), SECOND),
    ] {
        fs::write(&recipe, format!("base = \"{spec}\"\nlayers = \"dus(1)\"\n")).unwrap();
        let model = if commit == FIRST { TinyModel::default() } else { second() };
        for args in [&[spec, "--layers", "dus(1)"][..], &["recipe.toml"]] {
            let flags = ["-q", "--force", "-o", "out"];
            run(dus(dir.path()), &[&["build"], args, &flags].concat()).done();
            let out = dir.path().join("out");
            assert_spliced(&out, &model.tensors_by_name(), [0, 1, 2, 1, 2, 3]);
            assert_eq!(raw::read_json(&out.join("dus.json"))["models"][0]["revision"], commit);
        }
    }
    for spec in ["owner/name@v9", "owner/name@0123abcd", "owner/other"] {
        let searched = cache.display().to_string();
        let said = run(dus(dir.path()), &["plan", spec, "--layers", "dus(1)"]);
        said.refused(&[spec, &searched, "no such path exists"]);
    }
}

#[test]
fn what_exists_is_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let _ = hub::cache(&dir.path().join("hub"), "owner/name", FIRST, &second());
    TinyModel::default().write(&dir.path().join("owner/name"));
    run(dus(dir.path()), &["build", "owner/name", "--layers", "dus(1)", "-q", "-o", "out"]).done();
    let manifest = raw::read_json(&dir.path().join("out/dus.json"));
    assert_eq!(manifest["models"][0]["path"], "../owner/name");
    let expected = TinyModel::default().tensors_by_name();
    assert_spliced(&dir.path().join("out"), &expected, [0, 1, 2, 1, 2, 3]);
}

#[test]
fn a_tilde_is_the_home() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("home/models/base"));
    fs::write(dir.path().join("recipe.toml"), "base = \"~/models/base\"\nlayers = \"dus(1)\"\n")
        .unwrap();
    for args in [
        &["~/models/base", "--layers", "dus(1)"][..],
        &["--base", "~/models/base", "--layers", "dus(1)"],
        &["--model", "x=~/models/base", "--layers", "dus(1)"],
        &["recipe.toml"],
    ] {
        let args = [&["plan"], args, &["--json"]].concat();
        assert_eq!(run(dus_at_home(dir.path()), &args).done().json()["num_hidden_layers"], 6);
    }
    run(dus_at_home(dir.path()), &["inspect", "~/models/base"]).done();
    let out = ["build", "recipe.toml", "-q", "-o", "out"];
    run(dus_at_home(dir.path()), &out).done();
    run(dus_at_home(dir.path()), &["verify", "out", "--base", "~/models/base"]).done();

    for spec in ["~/nowhere", "~", "~nobody/models/base"] {
        let said = run(dus_at_home(dir.path()), &["plan", spec, "--layers", "dus(1)"]);
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(said.stderr.contains(spec) || spec == "~", "{said:#?}");
    }
    // A folder may be called so.
    TinyModel::default().write(&dir.path().join("~"));
    run(dus_at_home(dir.path()), &["plan", "./~", "--layers", "dus(1)"]).done();
}

#[test]
fn a_misspelt_name_is_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("models/base"));
    fs::write(dir.path().join("recipe.toml"), "base = \"models/bse\"\nlayers = \"dus(1)\"\n")
        .unwrap();
    let plan = |spec: &str| -> Said {
        run(dus(dir.path()), &["plan", spec, "--layers", "dus(1)", "-o", "out"])
    };
    for spec in
        ["bse", "./models/bse", "/models/bse", "recipes.toml", "models/x.toml", "models/x.gguf"]
    {
        plan(spec).refused(&[spec, "does not exist"]);
    }
    // It could be a hub id, so the error says both.
    for spec in ["models/bse", "recipe.toml"] {
        plan(spec).refused(&["models/bse", "hub", "no such path exists"]);
    }
    for spec in ["models/base/x/y", "models/ba se", "models/"] {
        let said = plan(spec);
        assert!(said.code == Some(2) && said.stderr.contains(spec), "{said:#?}");
    }
    run(dus(dir.path()), &["inspect", "bse"]).refused(&["bse", "does not exist"]);
    run(dus(dir.path()), &["verify", "models/base"]).refused(&["models/base", "dus.json"]);
    assert_eq!(names(dir.path()), ["models", "recipe.toml"]);
}

#[test]
fn verify_says_that_a_folder_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    run(dus(dir.path()), &["verify", "solr"]).refused(&["solr", "does not exist"]);
}
