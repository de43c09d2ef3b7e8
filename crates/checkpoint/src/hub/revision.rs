//! What a repository holds at one commit.

use super::{HubId, Location};
use crate::error::{Error, Result};
use crate::hub_error::HubError;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Git's hash of it (for a large file: of the pointer that git holds in its place).
    pub oid: String,
    /// The SHA-256 of a large file, which lies outside git.
    pub sha256: Option<String>,
}

impl RemoteFile {
    /// The name of its blob in the cache, and the hash that its content must have.
    #[must_use]
    pub fn etag(&self) -> &str {
        self.sha256.as_ref().unwrap_or(&self.oid)
    }
}

/// What a repository holds at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// `owner/name`.
    pub repo: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it is now.
    pub commit: String,
    /// The files, in the hub's order.
    pub files: Vec<RemoteFile>,
}

impl Revision {
    /// The file at `path`.
    pub fn file(&self, path: &str) -> Result<&RemoteFile> {
        self.files.iter().find(|file| file.path == path).ok_or_else(|| {
            let (repo, revision) = (self.repo.clone(), self.revision.clone());
            HubError::FileNotFound { repo, revision, file: path.to_owned() }.into()
        })
    }

    /// The repository and the commit.
    #[must_use]
    pub fn hub_id(&self) -> HubId {
        HubId { repo: self.repo.clone(), commit: self.commit.clone() }
    }
}

/// A model that is in the cache, and what to tell the user about how it came there.
#[derive(Debug)]
pub struct Found {
    /// Where it lies.
    pub location: Location,
    /// Why the hub could not be asked whether the copy in the cache is still the newest.
    pub notice: Option<Error>,
}

/// Where a model of the hub can be read.
#[derive(Debug)]
pub enum Standing {
    /// The cache has all that a build needs of it.
    Cached(Found),
    /// The hub, which holds this.
    OnHub(Revision),
}
