//! What `plan` draws and says.

use serde_json::json;
use testkit::TinyModel;

use crate::dus::{dus, project, run};

/// What `plan` says of models in `examples/`, but for what depends on the disk.
#[track_caller]
fn plan(args: &[&str]) -> String {
    let said = run(dus(&project()), &[&["plan", "--copy", "stream"], args].concat()).done();
    assert_eq!(said.stderr, "");
    let line = |line: &str| {
        let line = line.replace(" could be shared, but not on this disk", " [can] be shared");
        let line = line.replace(" can be shared", " [can] be shared");
        let is_disk = line.starts_with("disk ") && line.contains(" needed, ");
        if is_disk { "disk        [some] needed, [some] free\n".to_owned() } else { line + "\n" }
    };
    said.stdout.lines().map(line).collect()
}

#[test]
fn solar() {
    let text = plan(&["examples/tiny-mistral-32l", "--layers", "dus(8)"]);
    insta::assert_snapshot!(text);
    for same in ["dus(s=48)", "0..24 + 8..32", "0..n-8 + 8..n"] {
        assert_eq!(plan(&["examples/tiny-mistral-32l", "--layers", same]), text);
    }
}

#[test]
fn solar_in_shards_and_another_type() {
    insta::assert_snapshot!(plan(&[
        "configs/tiny-solar.toml",
        "--dtype",
        "float32",
        "--max-shard-size",
        "10MB",
        "--shard-layout",
        "source",
    ]));
}

#[test]
fn llama_pro() {
    let layers = "insert(0..n, every=4, copy{o_proj: zero, down_proj: zero})";
    insta::assert_snapshot!(plan(&["examples/tiny-mistral-32l", "--layers", layers]));
}

#[test]
fn interleaved() {
    let layers = "interleave(0..24, 8..32)";
    insta::assert_snapshot!(plan(&["examples/tiny-mistral-32l", "--layers", layers]));
}

#[test]
fn two_models() {
    insta::assert_snapshot!(plan(&[
        "--model",
        "a=examples/tiny-mistral-32l",
        "--model",
        "b=examples/tiny-mistral-32l",
        "--layers",
        "a:0..16 + b:8..24{*: scale 0.5} + a:17..32",
    ]));
}

#[test]
fn all_obstacles_are_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let extra_config = vec![("mascots", json!(["yak", "emu", "gnu", "asp"]))];
    TinyModel { extra_config, ..TinyModel::default() }.write(&dir.path().join("base"));
    std::fs::create_dir(dir.path().join("out")).unwrap();
    std::fs::write(dir.path().join("out/notes.txt"), "mine").unwrap();

    let args = ["plan", "base", "--layers", "0..4 + mix(0.5*1, 0.5*2)", "-o", "out"];
    let parts = ["not empty", "mix", "mascots"];
    let said = run(dus(dir.path()), &args);
    assert_eq!(said.code, Some(2), "{said:#?}");
    assert_eq!(said.stderr.matches("error: a build would fail\n").count(), 3, "{said:#?}");
    assert!(parts.iter().all(|part| said.stderr.contains(part)), "{said:#?}");
    assert!(said.stdout.contains("0..4 + mix"), "the plan is drawn all the same: {said:#?}");

    let said = run(dus(dir.path()), &[&args[..], &["--json"]].concat());
    assert_eq!(said.code, Some(2), "{said:#?}");
    let plan = said.json();
    let obstacles: Vec<&str> =
        plan["obstacles"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
    assert_eq!(obstacles.len(), 3, "{obstacles:#?}");
    for part in parts {
        assert!(obstacles.iter().any(|obstacle| obstacle.contains(part)), "{obstacles:#?}");
    }

    let build = [&["build"], &args[1..]].concat();
    run(dus(dir.path()), &build).refused(&["cannot build out"]);
    assert_eq!(crate::dus::names(dir.path()), ["base", "out"]);
}
