//! What is said of models on the hub, and of plans that have one on the hub and one on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::TinyModel;

use crate::dus::{Said, names, run};
use crate::image::Image;
use crate::{Place, REPO};

#[test]
fn blocks_on_the_hub_cannot_be_shared() {
    let place = Place::new();
    let said = place.build(&["--copy", "reflink"]);
    said.refused(&["owner/tiny@", "is on the hub, so none of its blocks", "hint: "]);
    assert_eq!(names(place.dir.path()), ["tmp"]);
}

/// A recipe of a model on the hub and one at `x`, beside it.
fn write_recipe(dir: &Path) -> PathBuf {
    let path = dir.join("r.toml");
    let recipe = format!("layers = \"a:0..3 + x:1..4\"\n[models]\na = \"{REPO}\"\nx = \"x\"\n");
    fs::write(&path, recipe).unwrap();
    path
}

#[test]
fn a_model_here_is_joined_with_one_on_the_hub() {
    let place = Place::new();
    copy(place.base.path(), &place.dir.path().join("x"));
    write_recipe(place.dir.path());
    run(place.dus(), &["build", "r.toml", "--no-cache", "-o", "out"]).done();
    place.check_built();
    place.check_nothing_kept();
}

/// Whether blocks can be shared is a question to the model that is here.
#[test]
fn a_model_here_is_shared_beside_one_on_the_hub() {
    #[track_caller]
    fn check(image: &Image, check: impl Fn(Said)) {
        let place = Place::new();
        copy(place.base.path(), &image.path().join("x"));
        let (recipe, out) = (write_recipe(&image.path()), image.path().join("out"));
        let args = ["build", recipe.to_str().unwrap(), "--no-cache", "-o", out.to_str().unwrap()];
        let flags = ["--copy", "reflink", "--shard-layout", "source", "--json"];
        check(run(place.dus(), &[&args[..], &flags].concat()));
    }
    if let Some(image) = Image::mounted(&["mkfs.xfs", "-q", "-m", "reflink=1"], 400) {
        check(&image, |said| {
            let built = said.done().json();
            assert!(built["shared_bytes"].as_u64().unwrap() > 0, "{built:#}");
            assert!(built["streamed_bytes"].as_u64().unwrap() > 0, "{built:#}");
        });
    }
    if let Some(image) = Image::tmpfs(100) {
        check(&image, |said| {
            let file = image.path().join("x/model-00001-of-00002.safetensors");
            said.refused(&[file.to_str().unwrap(), "can be shared with files in"]);
        });
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
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
