//! Disks that are full, and files that may not be read.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use testkit::{Survey, raw};

use crate::case::Case;

/// Four of them are less than ext4's longest file; six are more than most disks.
const LAYER_BYTES: u64 = 4_000_000_000_000;

/// A base of four layers in four sparse shards, 16 TB; `None` where the file system has no such files.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn huge_case() -> Option<Case> {
    let case = Case::without_base().flags(&["--copy", "stream"]);
    fs::create_dir(case.base()).unwrap();
    let mut weight_map = serde_json::Map::new();
    for layer in 0..4 {
        let shard = format!("model-0000{}-of-00004.safetensors", layer + 1);
        let tensor = format!("h.{layer}.mlp.weight");
        if let Err(error) = raw::write_sparse(&case.file(&shard), &[(tensor.clone(), LAYER_BYTES)])
        {
            eprintln!("skipped: a sparse file of 4 TB cannot be made: {error}");
            return None;
        }
        weight_map.insert(tensor, shard.into());
    }
    let index = json!({ "weight_map": weight_map });
    raw::write_json(&case.file("model.safetensors.index.json"), &index);
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 4 });
    raw::write_json(&case.file("config.json"), &config);

    let stat = rustix::fs::statvfs(case.dir()).unwrap();
    if stat.f_bavail * stat.f_frsize > 6 * LAYER_BYTES {
        eprintln!("skipped: the disk has room for 24 TB");
        return None;
    }
    Some(case)
}

#[test]
fn too_little_space_is_known_before_the_first_byte() {
    let Some(case) = huge_case() else { return };
    let dir = case.dir().display().to_string();
    case.refused(&[&dir, " free", "24.00 TB"]);
    // Folders that do not exist yet are looked for no further than the first that does.
    case.to("new/folders/out").refused(&[&dir, " free", "24.00 TB"]);
}

#[test]
fn all_obstacles_are_named() {
    let Some(case) = huge_case() else { return };
    fs::create_dir(case.out()).unwrap();
    fs::write(case.out().join("notes.txt"), "mine").unwrap();
    let case = case.plan("0..3 + 1..3 + mix(0.5*2, 0.5*3)");
    let output = case.run("plan", &[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["not empty", " free", "24.00 TB", "mix"] {
        assert!(stderr.contains(part), "{part:?} is missing: {stderr}");
    }
    let output = case.run("plan", &["--json"]);
    assert_eq!(output.status.code(), Some(2));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["obstacles"].as_array().map(Vec::len), Some(3), "{plan:#}");
}

/// Takes all permissions from a file of the base, which another user then cannot read.
fn lock(case: &Case, name: &str) {
    fs::set_permissions(case.file(name), fs::Permissions::from_mode(0o000)).unwrap();
}

#[test]
fn a_file_that_cannot_be_read() {
    for name in ["model-00002-of-00003.safetensors", "config.json", "model.safetensors.index.json"]
    {
        let case = Case::sharded().by_nobody();
        lock(&case, name);
        case.refused(&[&case.file(name).display().to_string(), "Permission denied"]);
    }
}

#[test]
fn a_side_file_that_cannot_be_read() {
    for out in ["out", "new/folders/out"] {
        let case = Case::new().to(out).by_nobody();
        lock(&case, "tokenizer.json");
        let before = Survey::of(case.dir());
        let output = case.run("build", &["--quiet"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&case.file("tokenizer.json").display().to_string()), "{stderr}");
        assert!(stderr.contains("Permission denied"), "{stderr}");
        // It may be found after something was written, which is gone again.
        assert_eq!(Survey::of(case.dir()).changes_since(&before, false), "");
    }
}

#[test]
fn a_folder_that_cannot_be_listed() {
    let case = Case::new().by_nobody();
    fs::set_permissions(case.base(), fs::Permissions::from_mode(0o000)).unwrap();
    case.refused(&[&case.base().display().to_string(), "Permission denied"]);
    fs::set_permissions(case.base(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_output_where_nothing_may_be_written() {
    let case = Case::new().to("locked/out").by_nobody();
    let locked = case.dir().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let before = Survey::of(case.dir());
    let output = case.run("build", &["--quiet"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("locked") && stderr.contains("Permission denied"), "{stderr}");
    assert_eq!(Survey::of(case.dir()).changes_since(&before, true), "");
}
