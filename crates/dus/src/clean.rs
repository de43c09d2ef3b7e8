//! Removes what interrupted builds left beside an output; never the output itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hidden;
use crate::output;

/// A folder that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Where it was.
    pub path: PathBuf,
    /// What it took on the disk.
    pub bytes: u64,
}

/// Removes what interrupted builds left beside `out`, and says what that was.
///
/// Nothing is removed while a build is under way there. Where nothing stands at `out`, an earlier
/// build that was moved aside may be the only copy of it, and is removed only by `force`.
pub fn clean(out: &Path, force: bool) -> Result<Vec<Removed>> {
    let failed = |source| Error::Io { path: out.to_owned(), doing: "resolved", source };
    let out = output::resolve(out).map_err(failed)?;
    // All locks are taken before anything is removed, and held until all is.
    let mut found: Vec<(PathBuf, File)> = Vec::new();
    for kind in ["partial", "old"] {
        let dir = hidden::neighbour(&out, kind);
        if let Some(lock) = hidden::lock(&dir)? {
            found.push((dir, lock));
        }
    }
    let aside = hidden::neighbour(&out, "old");
    let is_there = |(dir, _): &(PathBuf, File)| *dir == aside;
    if !force && found.iter().any(is_there) && out.symlink_metadata().is_err() {
        return Err(Error::OnlyCopy { out, aside });
    }
    let mut removed = Vec::new();
    for (path, _lock) in &found {
        let failed = |source| Error::Io { path: path.clone(), doing: "removed", source };
        let bytes = hidden::allocated_bytes(path).map_err(failed)?;
        fs::remove_dir_all(path).map_err(failed)?;
        removed.push(Removed { path: path.clone(), bytes });
    }
    Ok(removed)
}
