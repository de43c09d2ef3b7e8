//! The hidden neighbours of an output: `.NAME.dus-partial`, which a build writes into, and
//! `.NAME.dus-old`, where an earlier build waits while it is replaced.
//!
//! A neighbour is a folder. What has such a name and is none (a file, a pipe, a link) was not left by
//! a build, and is neither opened nor followed nor removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Error, OutputError, Result};

/// The longest name of a file, in bytes, on the file systems that there are.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// The kinds of neighbours.
pub(crate) const KINDS: [&str; 2] = ["partial", "old"];

/// The neighbour `.NAME.dus-KIND` of the output `out`; of a very long name, its beginning.
pub(crate) fn neighbour(out: &Path, kind: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES - 32)];
    out.with_file_name(format!(".{name}.dus-{kind}"))
}

/// The name of the output whose neighbour is called `name`, or the beginning of it.
pub(crate) fn output_of(name: &str) -> Option<&str> {
    let (out, kind) = name.strip_prefix('.')?.rsplit_once(".dus-")?;
    (!out.is_empty() && KINDS.contains(&kind)).then_some(out)
}

/// Makes the folder `dir`, or takes one that a killed build left, and takes its lock.
pub(crate) fn lock_or_create(dir: &Path) -> Result<File> {
    let failed = |doing| move |source| Error::Io { path: dir.to_owned(), doing, source };
    loop {
        let created = match fs::create_dir(dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match dir.symlink_metadata() {
                    Ok(there) if there.is_dir() => false,
                    Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                    _ => return Err(failed("created")(error)),
                }
            }
            Err(error) => return Err(failed("created")(error)),
        };
        match lock(dir) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => {}
            Err(error) => {
                // Where another build was faster to lock it, it is that one's, empty as it may be yet.
                let is_theirs = matches!(error, Error::Output(OutputError::Busy { .. }));
                if created && !is_theirs {
                    let _ = fs::remove_dir(dir);
                }
                return Err(error);
            }
        }
    }
}

/// Takes the lock of the folder `dir`; `None` if there is none, or no longer.
///
/// The lock is worth something only if the folder locked is the one that stands there: another
/// process may have removed or renamed it between the opening and the locking.
pub(crate) fn lock(dir: &Path) -> Result<Option<File>> {
    let failed = |doing| move |source| Error::Io { path: dir.to_owned(), doing, source };
    let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    match dir.symlink_metadata() {
        Ok(there) if there.is_dir() => {}
        Ok(_) => return Err(failed("opened")(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read")(error)),
    }
    let lock = match File::open(dir) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opened")(error)),
    };
    if !disk::lock(&lock).map_err(failed("locked"))? {
        return Err(OutputError::Busy { partial: dir.to_owned() }.into());
    }
    let locked = lock.metadata().map_err(failed("read"))?;
    match dir.symlink_metadata() {
        Ok(there) if id(&there) == id(&locked) => Ok(Some(lock)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read")(error)),
    }
}

/// Removes all that is in the folder `dir` but what `is_kept`; of a link it is told as of a link.
pub(crate) fn empty(dir: &Path, is_kept: impl Fn(&Path, &fs::Metadata) -> bool) -> Result<()> {
    let failed = |doing| move |source| Error::Io { path: dir.to_owned(), doing, source };
    for entry in dir.read_dir().map_err(failed("listed"))? {
        let entry = entry.map_err(failed("listed"))?;
        let path = entry.path();
        let removed = match path.symlink_metadata() {
            Ok(metadata) if is_kept(&path, &metadata) => Ok(()),
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.map_err(failed("emptied"))?;
    }
    Ok(())
}

/// The bytes that the folder `dir`, and all below, takes on the disk; links are not followed.
pub(crate) fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    let metadata = dir.symlink_metadata()?;
    // `st_blocks` counts in 512 bytes, whatever the file system's blocks are.
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in dir.read_dir()? {
            bytes += allocated_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}
