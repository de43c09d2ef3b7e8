//! A repository that is read where it lies.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::client::Hub;
use super::hash::{self, FileHash};
use super::needs;
use super::source::{Fault, Pinned, Source, StartOver};
use crate::error::{Error, Result};
use crate::header;
use crate::hub::Location;
use crate::hub::cache;
use crate::hub::revision::{RemoteFile, Revision};
use crate::hub::watch::Watch;
use crate::hub_error::HubError;

/// A repository at one commit, read by ranges.
///
/// Every answer is checked to be of the file that the listing names: it has its length, and its `ETag`
/// stays the same from the first read to the last. Reads may come from several threads at once.
#[derive(Debug)]
pub struct Remote {
    hub: Hub,
    revision: Revision,
    pinned: Mutex<HashMap<String, Arc<Mutex<Pinned>>>>,
}

impl Hub {
    /// Opens `revision` for reading by ranges.
    #[must_use]
    pub fn remote(&self, revision: Revision) -> Remote {
        Remote { hub: self.clone(), revision, pinned: Mutex::default() }
    }
}

impl Remote {
    /// What it holds.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Reads the file at `path` whole, and checks its hash. It should be small.
    pub fn read(&self, path: &str, watch: Watch) -> Result<Vec<u8>> {
        let file = self.revision.file(path)?;
        let mut bytes = vec![0; file.bytes as usize];
        self.read_range(file, 0, &mut bytes, watch)?;
        hash::check_bytes(&self.revision.repo, file, &bytes)?;
        Ok(bytes)
    }

    /// Fills `buffer` from the file at `path`, beginning at `offset`.
    pub fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8], watch: Watch) -> Result<()> {
        self.read_range(self.revision.file(path)?, offset, buffer, watch)
    }

    /// The hash that all of the file at `path` must have; [`read_at`](Self::read_at) cannot check it.
    pub fn hash(&self, path: &str) -> Result<FileHash> {
        Ok(FileHash::new(&self.revision.repo, self.revision.file(path)?))
    }

    /// How many reads may be under way at once.
    #[must_use]
    pub fn num_connections(&self) -> usize {
        self.hub.settings().connections.max(1)
    }

    /// Makes the folder `dir` look like the model, without its weights.
    ///
    /// Config, index and card are there whole. Each weight file has its header and its length, and a
    /// hole where the tensors would be; so do the other files, unless `side_files` asks for them.
    /// Whoever opens the folder learns all that headers tell; the weights' bytes are in
    /// [`read_at`](Self::read_at), at the same offsets.
    pub fn outline(&self, dir: &Path, side_files: bool, watch: Watch) -> Result<Location> {
        let paths: BTreeSet<String> = self.revision.files.iter().map(|f| f.path.clone()).collect();
        let needs = needs::needs(&self.revision.repo, &paths, &|path| self.read(path, watch))?;
        let files: Vec<&RemoteFile> =
            self.revision.files.iter().filter(|file| needs.contain(&file.path)).collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let stop = || lock(&failed).is_some() || (watch.is_cancelled)();
        let watch = Watch { progress: watch.progress, is_cancelled: &stop };
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let is_weight = needs.weights.contains(&file.path);
                let beginning = if is_weight {
                    self.beginning(file, watch)
                } else if side_files || is_described(&file.path) {
                    self.read(&file.path, watch)
                } else {
                    Ok(Vec::new())
                };
                let path = dir.join(&file.path);
                if let Err(error) = beginning.and_then(|bytes| write(&path, &bytes, file.bytes)) {
                    lock(&failed).get_or_insert(error);
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.num_connections() {
                scope.spawn(work);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Location { path: dir.to_owned(), hub: Some(self.revision.hub_id()) }),
        }
    }

    /// The length and the header of a safetensors file; what is none comes as far as it was read.
    fn beginning(&self, file: &RemoteFile, watch: Watch) -> Result<Vec<u8>> {
        /// Most headers are shorter, so that one request is enough.
        const GUESS: u64 = 64 << 10;
        const LENGTH_BYTES: usize = 8;
        let mut bytes = vec![0; file.bytes.min(GUESS) as usize];
        self.read_range(file, 0, &mut bytes, watch)?;
        let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(bytes) };
        let header = u64::from_le_bytes(*length);
        if header > header::MAX_HEADER_BYTES || header > file.bytes - LENGTH_BYTES as u64 {
            return Ok(bytes);
        }
        let (end, have) = (LENGTH_BYTES + header as usize, bytes.len());
        bytes.resize(end, 0);
        if end > have {
            self.read_range(file, have as u64, &mut bytes[have..], watch)?;
        }
        Ok(bytes)
    }

    fn read_range(
        &self,
        file: &RemoteFile,
        offset: u64,
        buffer: &mut [u8],
        watch: Watch,
    ) -> Result<()> {
        self.hub.refuse_offline(&self.revision.repo)?;
        let range = offset..offset + buffer.len() as u64;
        if range.end > file.bytes {
            return Err(self.too_short(file, &range));
        }
        let pinned = lock(&self.pinned).entry(file.path.clone()).or_default().clone();
        let source = Source::new(&self.hub, &self.revision, file, &pinned);
        let mut sink = |at: u64, bytes: &[u8]| {
            let start = (at - offset) as usize;
            buffer[start..start + bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        source.stream(range, &mut sink, watch).map_err(|fault| match fault {
            Fault::Fatal(error) => error,
            Fault::StartOver(StartOver::Changed) => source.changed(),
            Fault::StartOver(StartOver::NoRanges { host }) => {
                HubError::NoRanges { host, file: file.path.clone() }.into()
            }
        })
    }

    fn too_short(&self, file: &RemoteFile, range: &Range<u64>) -> Error {
        HubError::Size {
            repo: self.revision.repo.clone(),
            file: file.path.clone(),
            expected: range.end,
            found: file.bytes,
        }
        .into()
    }
}

/// Writes a file that begins with `beginning` and is a hole from there on.
fn write(path: &Path, beginning: &[u8], bytes: u64) -> Result<()> {
    cache::make_parent(path)?;
    let made = File::create(path).and_then(|file| {
        file.write_all_at(beginning, 0)?;
        file.set_len(bytes)
    });
    made.map_err(|e| Error::io(path, "written", e))
}

/// Whether a file is one that says what the model is.
fn is_described(path: &str) -> bool {
    let (name, end) = path.rsplit_once('.').unwrap_or((path, ""));
    name == "README" || (end == "json" && !name.starts_with("tokenizer") && name != "vocab")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
