//! The cache's folders, links and locks, laid out as Python's `huggingface_hub` lays them out.
//!
//! ```text
//! models--owner--name/refs/main                       the commit that `main` was when it was asked for
//! models--owner--name/blobs/<etag>                    a file under its hash
//! models--owner--name/snapshots/<commit>/config.json  a link: ../../blobs/<etag>
//! .locks/models--owner--name/<etag>.lock              who holds it may write the blob
//! ```

use std::path::PathBuf;

use super::id::ModelId;
use super::{HubId, Location};

/// The cache at a folder, which need not exist.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The snapshot of `id`, which may lack files.
    pub(super) fn snapshot(&self, id: &ModelId) -> Option<Location> {
        let model = self.model(&id.repo);
        let commit = match std::fs::read_to_string(model.join("refs").join(&id.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => id.revision.clone(),
        };
        let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
        let dir = model.join("snapshots").join(&commit);
        let there = plain && dir.is_dir();
        there.then(|| Location { path: dir, hub: Some(HubId { repo: id.repo.clone(), commit }) })
    }

    fn model(&self, repo: &str) -> PathBuf {
        self.dir.join(model_folder(repo))
    }
}

fn model_folder(repo: &str) -> String {
    format!("models--{}", repo.replace('/', "--"))
}

#[cfg(feature = "hub")]
mod write {
    use std::fs::{self, File, OpenOptions, TryLockError};
    use std::io;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use super::{Cache, PathBuf, model_folder};
    use crate::error::{Error, Result};
    use crate::hub::watch::Watch;

    /// The right to write a blob, until it is dropped.
    #[derive(Debug)]
    pub(in crate::hub) struct Lock {
        _file: File,
    }

    impl Cache {
        pub(in crate::hub) fn dir(&self) -> &Path {
            &self.dir
        }

        pub(in crate::hub) fn blobs(&self, repo: &str) -> PathBuf {
            self.model(repo).join("blobs")
        }

        pub(in crate::hub) fn snapshot_dir(&self, repo: &str, commit: &str) -> PathBuf {
            self.model(repo).join("snapshots").join(commit)
        }

        /// Notes that `revision` is `commit` now.
        pub(in crate::hub) fn note(&self, repo: &str, revision: &str, commit: &str) -> Result<()> {
            let path = self.model(repo).join("refs").join(revision);
            if revision == commit || fs::read_to_string(&path).is_ok_and(|now| now == commit) {
                return Ok(());
            }
            make_parent(&path)?;
            let partial = beside(&path);
            let written = fs::write(&partial, commit).and_then(|()| fs::rename(&partial, &path));
            written.map_err(|e| {
                // Among the refs it would be taken for a branch.
                let _ = fs::remove_file(&partial);
                Error::io(&path, "written", e)
            })
        }

        /// Makes `file` of the snapshot a link to the blob `etag`.
        pub(in crate::hub) fn link(
            &self,
            repo: &str,
            commit: &str,
            file: &str,
            etag: &str,
        ) -> Result<()> {
            let path = self.snapshot_dir(repo, commit).join(file);
            make_parent(&path)?;
            let climb = "../".repeat(file.split('/').count() + 1);
            let target = Path::new(&climb).join("blobs").join(etag);
            // A link is made aside and renamed, so that no reader ever finds none.
            let partial = beside(&path);
            let made = symlink(&target, &partial).and_then(|()| fs::rename(&partial, &path));
            made.map_err(|e| {
                let _ = fs::remove_file(&partial);
                Error::io(&path, "linked", e)
            })
        }

        /// Waits for the right to write the blob `etag`, as `huggingface_hub` does.
        pub(in crate::hub) fn lock(&self, repo: &str, etag: &str, watch: Watch) -> Result<Lock> {
            let path =
                self.dir.join(".locks").join(model_folder(repo)).join(format!("{etag}.lock"));
            make_parent(&path)?;
            loop {
                let mut options = OpenOptions::new();
                // Others who share the cache must be able to lock it too.
                options.read(true).write(true).create(true).truncate(false).mode(0o664);
                let file = options.open(&path).map_err(|e| Error::io(&path, "opened", e))?;
                match file.try_lock() {
                    Ok(()) if is_at(&file, &path) => return Ok(Lock { _file: file }),
                    // It was removed between opening and locking, and another may hold the new one.
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => {
                        watch.check()?;
                        thread::sleep(Duration::from_millis(50));
                    }
                    // No locks on this file system: hashes are checked in any case.
                    Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                        return Ok(Lock { _file: file });
                    }
                    Err(TryLockError::Error(e)) => return Err(Error::io(&path, "locked", e)),
                }
            }
        }
    }

    fn is_at(file: &File, path: &Path) -> bool {
        let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (Ok(open), Ok(there)) = (file.metadata(), path.metadata()) else { return false };
        of(open) == of(there)
    }

    pub(in crate::hub) fn make_parent(path: &Path) -> Result<()> {
        let parent = path.parent().expect("a path below a folder");
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, "made", e))
    }

    /// A name beside `path` that no other process or thread uses.
    fn beside(path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.{}.tmp", unique()))
    }

    /// What tells this call apart from every other one.
    fn unique() -> String {
        use std::hash::{BuildHasher, RandomState};
        format!("{:016x}", RandomState::new().hash_one(std::process::id()))
    }
}

#[cfg(feature = "hub")]
pub(super) use write::{Lock, make_parent};
