//! A hub with one model, and an empty folder to work in.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testkit::hub_server::HubServer;
use testkit::{TinyModel, splice, weights};

use crate::dus::dus;

/// The repository of the tests.
pub(crate) const REPO: &str = "owner/tiny";

/// Six layers of its four.
pub(crate) const PLAN: &str = "0..3 + 1..4";

pub(crate) struct Place {
    pub(crate) hub: HubServer,
    pub(crate) model: TinyModel,
    pub(crate) dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(TinyModel { num_shards: Some(2), ..TinyModel::default() })
    }

    /// With a model that takes a while to send.
    pub(crate) fn with_large_model() -> Self {
        Self::with(TinyModel {
            num_shards: Some(2),
            hidden_size: 128,
            intermediate_size: 256,
            head_dim: 32,
            ..TinyModel::default()
        })
    }

    fn with(model: TinyModel) -> Self {
        let (hub, dir) = (HubServer::start(), tempfile::tempdir().unwrap());
        let folder = tempfile::tempdir().unwrap();
        model.write(folder.path());
        let _ = hub.commit_folder(REPO, folder.path());
        Self { hub, model, dir }
    }

    /// The program, which asks this hub.
    pub(crate) fn dus(&self) -> Command {
        let mut dus = dus(self.dir.path());
        dus.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HUB_OFFLINE", "0");
        dus.env("TMPDIR", self.dir.path().join("tmp"));
        fs::create_dir_all(self.dir.path().join("tmp")).unwrap();
        dus
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    /// The files of the cache's `blobs`, by name.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        let blobs = self.cache().join("models--owner--tiny/blobs");
        let mut files: Vec<PathBuf> =
            blobs.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Asserts that the build at `out` is the right one.
    #[track_caller]
    pub(crate) fn assert_built(&self) {
        let tensors = self.model.tensors_by_name();
        let expected = splice::expected(&tensors, &[0, 1, 2, 1, 2, 3], "model.layers");
        splice::assert_same(&weights::read(&self.out()), &expected);
    }
}
