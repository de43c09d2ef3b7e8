//! A weight file of a model that a build is made from: here, or on the hub.

use std::sync::Arc;

use checkpoint::Checkpoint;
use checkpoint::hub::{FileHash, Remote};

use crate::error::Result;
use crate::open_file::OpenFile;
use crate::progress::Watch;
use crate::sources::with_hub_watch;

/// A weight file that can be read.
#[derive(Debug)]
pub enum OpenSource {
    /// An open file of this machine.
    Here(OpenFile),
    /// A file of the hub, of which no copy is kept.
    OnHub(HubFile),
}

/// A file of the hub.
#[derive(Debug)]
pub struct HubFile {
    /// The repository that it is in.
    pub remote: Arc<Remote>,
    /// Its path there.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

impl OpenSource {
    /// The open file, if it is one of this machine.
    #[must_use]
    pub fn here(&self) -> Option<&OpenFile> {
        match self {
            Self::Here(open) => Some(open),
            Self::OnHub(_) => None,
        }
    }

    /// The file of the hub, if it is one.
    #[must_use]
    pub fn on_hub(&self) -> Option<&HubFile> {
        match self {
            Self::Here(_) => None,
            Self::OnHub(file) => Some(file),
        }
    }

    /// Fills `bytes` from the file, beginning at `offset`.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64, watch: &Watch) -> Result<()> {
        match self {
            Self::Here(open) => open.read_exact_at(bytes, offset),
            Self::OnHub(file) => file.read_exact_at(bytes, offset, watch),
        }
    }
}

impl HubFile {
    /// Fills `bytes` from the file, beginning at `offset`, with one request if all goes well.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64, watch: &Watch) -> Result<()> {
        with_hub_watch(watch, |watch| self.remote.read_at(&self.name, offset, bytes, watch))
    }

    /// The hash that all of it must have.
    pub fn hash(&self) -> Result<FileHash> {
        Ok(self.remote.hash(&self.name)?)
    }
}

/// Opens the weight files of `checkpoint`, in its order; those of a `remote` model are on the hub.
pub fn open_sources(
    checkpoint: &Checkpoint,
    remote: Option<&Arc<Remote>>,
) -> Result<Vec<OpenSource>> {
    let open = |file: &checkpoint::WeightFile| match remote {
        None => OpenFile::open(file.path.clone()).map(OpenSource::Here),
        Some(remote) => {
            let (remote, name) = (Arc::clone(remote), file.name.clone());
            Ok(OpenSource::OnHub(HubFile { remote, name, bytes: file.bytes }))
        }
    };
    checkpoint.files().iter().map(open).collect()
}
