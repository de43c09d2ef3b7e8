//! A hub and an empty cache for one test.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use checkpoint::Result;
use checkpoint::hub::{Found, Hub, ModelId, Progress, Settings, Watch};
use tempfile::TempDir;
use testkit::HubServer;

/// The repository of the tests.
pub(crate) const REPO: &str = "owner/name";

/// What a build does not need.
pub(crate) const NOT_NEEDED: &[&str] = &[".gitattributes", "pytorch_model.bin", "picture.png"];

pub(crate) struct Place {
    pub(crate) server: HubServer,
    pub(crate) dir: TempDir,
}

impl Place {
    /// A hub that holds nothing.
    pub(crate) fn empty() -> Self {
        Self { server: HubServer::start(), dir: tempfile::tempdir().unwrap() }
    }

    /// A hub that holds one small model with a large file of these bytes.
    pub(crate) fn with_weights(weights: &[u8]) -> Self {
        let place = Self::empty();
        let _ = place.server.commit(REPO, &model(weights));
        place
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            endpoint: self.server.endpoint().to_owned(),
            cache: Some(self.cache()),
            token: Some("hf_test".to_owned()),
            certificates: None,
            offline: false,
            timeout: Duration::from_secs(5),
            connections: 4,
            part_bytes: 64 << 20,
            retries: 3,
            first_wait: Duration::from_millis(2),
            longest_wait: Duration::from_secs(2),
        }
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    pub(crate) fn find(&self) -> Result<Found> {
        self.hub().find(&id(), Watch::nobody())
    }

    /// Where a file of the newest snapshot lies.
    pub(crate) fn snapshot(&self) -> PathBuf {
        let model = self.cache().join("models--owner--name");
        let commit = std::fs::read_to_string(model.join("refs/main")).unwrap();
        model.join("snapshots").join(commit)
    }

    /// The names of files below `blobs` that are not whole.
    pub(crate) fn incomplete(&self) -> Vec<String> {
        let blobs = self.cache().join("models--owner--name/blobs");
        let names = blobs.read_dir().into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".incomplete")).collect()
    }
}

pub(crate) fn id() -> ModelId {
    ModelId::parse(REPO).unwrap()
}

/// The files of a model's repository; its weights are no safetensors, which a download does not ask.
pub(crate) fn model(weights: &[u8]) -> Vec<(&'static str, &[u8])> {
    vec![
        (".gitattributes", b"*.safetensors filter=lfs"),
        ("README.md", b"---\nlicense: mit\n---\n"),
        ("config.json", b"{\"model_type\": \"llama\"}"),
        ("empty.txt", b""),
        ("model.safetensors", weights),
        ("picture.png", b"PNG"),
        ("pytorch_model.bin", b"pickle"),
        ("sub/code.py", b"pass"),
        ("tokenizer.json", b"{}"),
    ]
}

/// Bytes that differ everywhere.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state: u32 = 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Adds up what a call tells.
#[derive(Default)]
pub(crate) struct Tally {
    told: Mutex<(u64, u64, u64)>,
}

impl Tally {
    pub(crate) fn hear(&self, progress: Progress) {
        let mut told = self.told.lock().unwrap();
        match progress {
            Progress::Begin { bytes, .. } => told.0 += bytes,
            Progress::Done(bytes) => told.1 += bytes,
            Progress::Lost(bytes) => told.2 += bytes,
            Progress::Waiting(_) => {}
        }
    }

    /// Bytes announced, and bytes done that were not lost again.
    pub(crate) fn sums(&self) -> (u64, u64) {
        let (begun, done, lost) = *self.told.lock().unwrap();
        (begun, done - lost)
    }

    pub(crate) fn done(&self) -> u64 {
        self.told.lock().unwrap().1
    }
}
