//! What is said of models on the hub, and of plans that have one on the hub and one on this machine.

use std::fs;

use testkit::TinyModel;

use crate::dus::{names, run};
use crate::{Place, REPO};

#[test]
fn blocks_on_the_hub_cannot_be_shared() {
    let place = Place::new();
    let said = place.build(&["--copy", "reflink"]);
    said.refused(&["owner/tiny@", "is on the hub, so none of its blocks", "hint: "]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

#[test]
fn a_model_here_is_joined_with_one_on_the_hub() {
    let place = Place::new();
    let here = place.base.path().to_str().unwrap();
    let recipe =
        format!("layers = \"a:0..3 + x:1..4\"\n[models]\na = \"{REPO}\"\nx = \"{here}\"\n");
    fs::write(place.dir.path().join("r.toml"), recipe).unwrap();
    let args = ["build", "r.toml", "--no-cache", "-o", "out"];
    run(place.dus(), &args).done();
    place.check_built();
    place.check_nothing_kept();
    fs::remove_dir_all(place.out()).unwrap();

    // Whether blocks can be shared is a question to the model that is here.
    let said = run(place.dus(), &[&args[..], &["--copy", "reflink", "--json"]].concat());
    if said.code == Some(0) {
        place.check_built();
        assert!(said.json()["shared_bytes"].as_u64().unwrap() > 0);
    } else {
        said.refused(&[here, "can be shared with files in"]);
    }
}

#[test]
fn a_difference_names_the_model_on_the_hub() {
    let place = Place::new();
    place.build(&[]).done();
    let commit =
        place.hub.requests_for("/resolve/")[0].target.split('/').nth(4).unwrap().to_owned();
    let shard =
        names(&place.out()).into_iter().find(|name| name.ends_with(".safetensors")).unwrap();
    let shard = place.out().join(shard);
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let said = run(place.dus(), &["verify", "out", "--no-cache"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stdout.contains(&format!(" of {REPO}@{commit}, first at byte")), "{said:#?}");

    let other = tempfile::tempdir().unwrap();
    TinyModel { num_shards: Some(3), ..TinyModel::default() }.write(other.path());
    let _ = place.hub.commit_folder("owner/other", other.path());
    let args = ["verify", "out", "--no-cache", "--base", "owner/other"];
    run(place.dus(), &args).refused(&["owner/other@", " is not the base"]);
}
