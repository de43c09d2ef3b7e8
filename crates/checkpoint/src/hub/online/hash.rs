//! What a file must be: the SHA-256 of a large file, git's hash of a small one.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::error::{Error, Result};
use crate::hub::revision::RemoteFile;
use crate::hub::watch::Watch;
use crate::hub_error::HubError;

/// A hash in the making.
pub(super) struct Hash(Context);

impl Hash {
    pub(super) fn sha256() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Git's hash of a file of this length.
    pub(super) fn git(bytes: u64) -> Self {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {bytes}\0").as_bytes());
        Self(context)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes in all that `file` holds, from where it stands.
    pub(super) fn read(
        mut self,
        path: &Path,
        mut file: impl Read,
        watch: Watch,
        told: &dyn Fn(u64),
    ) -> Result<String> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            watch.check()?;
            match file.read(&mut buffer) {
                Ok(0) => return Ok(self.finish()),
                Ok(read) => {
                    self.update(&buffer[..read]);
                    told(read as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(path, "read", e)),
            }
        }
    }

    /// The hash in hexadecimal digits.
    pub(super) fn finish(self) -> String {
        self.0.finish().as_ref().iter().fold(String::new(), |mut digits, byte| {
            write!(digits, "{byte:02x}").expect("a string takes all that is written");
            digits
        })
    }

    fn of(file: &RemoteFile) -> Self {
        if file.sha256.is_some() { Self::sha256() } else { Self::git(file.bytes) }
    }
}

/// The hash of a file of the hub, made as its bytes come in, in their order.
pub struct FileHash {
    hash: Hash,
    repo: String,
    file: RemoteFile,
}

impl FileHash {
    pub(super) fn new(repo: &str, file: &RemoteFile) -> Self {
        Self { hash: Hash::of(file), repo: repo.to_owned(), file: file.clone() }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// Checks, after the last byte, that the file is the one that the hub lists.
    pub fn check(self) -> Result<()> {
        compare(&self.repo, &self.file, self.hash.finish())
    }
}

impl fmt::Debug for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("FileHash").field(&self.file.path).finish()
    }
}

/// Checks that the file at `path` is the one that the hub lists as `expected`.
pub(super) fn check(repo: &str, expected: &RemoteFile, path: &Path, watch: Watch) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, "opened", e))?;
    compare(repo, expected, Hash::of(expected).read(path, file, watch, &|_| {})?)
}

/// Checks that `bytes` are the file that the hub lists as `expected`.
pub(super) fn check_bytes(repo: &str, expected: &RemoteFile, bytes: &[u8]) -> Result<()> {
    let mut hash = Hash::of(expected);
    hash.update(bytes);
    compare(repo, expected, hash.finish())
}

fn compare(repo: &str, file: &RemoteFile, found: String) -> Result<()> {
    if found.eq_ignore_ascii_case(file.etag()) {
        return Ok(());
    }
    let expected = file.etag().to_owned();
    Err(HubError::Hash { repo: repo.to_owned(), file: file.path.clone(), expected, found }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_gits_and_sha_256() {
        // `printf 'hello\n' | git hash-object --stdin`, `printf 'hello\n' | sha256sum`
        let mut git = Hash::git(6);
        git.update(b"hello\n");
        assert_eq!(git.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
        let mut sha256 = Hash::sha256();
        sha256.update(b"hello\n");
        let expected = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(sha256.finish(), expected);
    }
}
