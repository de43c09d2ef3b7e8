//! A model laid out as `huggingface_hub` lays out its cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::model::TinyModel;
use crate::tensor::Random;

/// Writes `model` into the cache at `cache` as `repo` (`owner/name`) at `commit`, and returns the snapshot.
///
/// The files are blobs with names of 64 digits; the snapshot holds links to them, `../../blobs/…`, and
/// `refs/main` names the commit. A second commit of the same repository is added, and becomes `main`.
#[must_use]
pub fn cache(cache: &Path, repo: &str, commit: &str, model: &TinyModel) -> PathBuf {
    let root = cache.join(format!("models--{}", repo.replace('/', "--")));
    let (blobs, snapshot) = (root.join("blobs"), root.join("snapshots").join(commit));
    for dir in [&blobs, &snapshot, &root.join("refs")] {
        fs::create_dir_all(dir).expect("a folder of the cache can be made");
    }
    fs::write(root.join("refs/main"), commit).expect("refs/main can be written");

    let plain = root.join("plain");
    model.write(&plain);
    for entry in fs::read_dir(&plain).expect("the model was written") {
        let entry = entry.expect("the folder can be listed");
        let name = entry.file_name();
        let mut random = Random::new(&format!("{commit} {}", name.display()));
        let blob = [(); 4].map(|()| format!("{:016x}", random.next())).concat();
        fs::rename(entry.path(), blobs.join(&blob)).expect("a file can be moved");
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name))
            .expect("a link can be made");
    }
    fs::remove_dir(plain).expect("all files were moved");
    snapshot
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights;

    #[test]
    fn a_snapshot_reads_as_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
        let snapshot = cache(dir.path(), "owner/name", "0123abcd", &model);
        assert_eq!(snapshot, dir.path().join("models--owner--name/snapshots/0123abcd"));
        assert_eq!(weights::read(&snapshot), model.tensors_by_name());
        assert!(fs::read_link(snapshot.join("config.json")).unwrap().starts_with("../../blobs"));
    }
}
