//! Removes what interrupted builds left beside an output; never the output itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, OutputError, Result};
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
/// build that was moved aside may be the only copy of it, and is removed only by `force`. A path at
/// which no build can have been is an error, so that a slip of the keyboard is not taken for a clean
/// disk.
pub fn clean(out: &Path, force: bool) -> Result<Vec<Removed>> {
    let failed = |source| Error::Io { path: out.to_owned(), doing: "resolved", source };
    let typed = out;
    let out = output::resolve(out).map_err(failed)?;
    let above = out.parent().unwrap_or(Path::new("/"));
    if !above.is_dir() {
        let dir = above.to_owned();
        return Err(OutputError::NoFolderToClean { dir }.into());
    }
    // All locks are taken before anything is removed, and held until all is.
    let mut found: Vec<(PathBuf, File)> = Vec::new();
    for kind in hidden::KINDS {
        let dir = hidden::neighbour(&out, kind);
        if let Some(lock) = hidden::lock(&dir)? {
            found.push((dir, lock));
        }
    }
    if found.is_empty() {
        let failed = |source| Error::Io { path: out.clone(), doing: "listed", source };
        let left = left_in(&out).map_err(failed)?;
        if !left.is_empty() {
            return Err(OutputError::LeftInside { dir: typed.to_owned(), left }.into());
        }
    }
    let aside = hidden::neighbour(&out, "old");
    let is_there = |(dir, _): &(PathBuf, File)| *dir == aside;
    if !force && found.iter().any(is_there) && out.symlink_metadata().is_err() {
        return Err(OutputError::OnlyCopy { out, aside }.into());
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

/// What builds of outputs in the folder `dir` left there, each by its output's name and its own.
fn left_in(dir: &Path) -> io::Result<Vec<(String, String)>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut left = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(out) = hidden::output_of(&name).filter(|_| entry.path().is_dir()) {
            left.push((out.to_owned(), name));
        }
    }
    left.sort();
    Ok(left)
}
