//! The room that a build needs on a disk, and the blocks that it can share there.

use std::path::Path;

use crate::blueprint::Blueprint;
use crate::disk;
use crate::error::{Error, OutputError, Result};
use crate::journal;
use crate::movement::CopyMode;
use crate::open_file::OpenFile;
use crate::output::Output;
use crate::splice::NewTensor;

/// The room that a build needs, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What it will write.
    pub needed: u64,
    /// What is free where the output goes, with what an interrupted build holds there: that is kept,
    /// or removed first.
    pub free: u64,
    /// Whether blocks can be shared with the source there.
    pub can_share: bool,
}

/// Room for config, card and manifest, and for the file system's own records of files.
const SMALL_FILES_BYTES: u64 = 1 << 20;

/// Room for a tensor's line in the index, beside its name.
const INDEX_LINE_BYTES: u64 = 64;

/// The bytes of a new file that a line of the journal speaks of, at least, where there are many.
const STRETCH_BYTES: u64 = 1 << 20;

/// A folder in which a build's files may go.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The folder, which exists.
    pub dir: &'a Path,
    /// The bytes that an interrupted build holds there.
    pub held: u64,
}

impl<'a> Site<'a> {
    /// Where a build at `out` goes.
    #[must_use]
    pub fn of(out: &'a Output) -> Self {
        let held = out.unfinished().map_or(0, |unfinished| unfinished.bytes);
        Self { dir: out.existing_ancestor(), held }
    }
}

/// Measures the room for a build.
pub fn room(blueprint: &Blueprint, site: Site, copy: CopyMode) -> Result<Room> {
    let Site { dir, held } = site;
    let failed = |source| Error::Io { path: dir.to_owned(), doing: "measured", source };
    let free = disk::free_bytes(dir).map_err(failed)?.saturating_add(held);
    let can_share = can_share(blueprint, dir)?;
    let side_bytes: u64 = blueprint.side_files.kept.iter().map(|file| file.bytes).sum();
    let shared = if can_share && matches!(copy, CopyMode::Auto | CopyMode::Reflink) {
        shareable_bytes(blueprint)
    } else {
        0
    };
    let line = |tensor: &NewTensor| tensor.name.len() as u64 + INDEX_LINE_BYTES;
    let index_bytes: u64 = blueprint.splice.tensors.iter().map(line).sum();
    let bytes = blueprint.layout.bytes();
    let journal_bytes = bytes.div_ceil(STRETCH_BYTES) * journal::LINE_BYTES;
    let small_bytes = SMALL_FILES_BYTES + index_bytes + journal_bytes;
    let needed = bytes + side_bytes + small_bytes - shared;
    Ok(Room { needed, free, can_share })
}

fn shareable_bytes(blueprint: &Blueprint) -> u64 {
    let is_here = |model| blueprint.is_here(model);
    blueprint.layout.shareable_bytes(&blueprint.splice, &blueprint.models, is_here)
}

/// The weight files that are on this machine.
fn files_here(blueprint: &Blueprint) -> impl Iterator<Item = &checkpoint::WeightFile> {
    let models = blueprint.models.iter().enumerate();
    let here = models.filter(|(m, _)| blueprint.is_here(*m));
    here.flat_map(|(_, model)| model.checkpoint.files())
}

/// Whether files in `dir` can share blocks with all weight files of this machine, if there are any.
fn can_share(blueprint: &Blueprint, dir: &Path) -> Result<bool> {
    let mut any = false;
    for file in files_here(blueprint) {
        let source = OpenFile::open(file.path.clone())?.file;
        // A folder that cannot be written is found when it is, with a better word for it.
        if !disk::can_share(&source, dir).unwrap_or(false) {
            return Ok(false);
        }
        any = true;
    }
    Ok(any)
}

/// What of the disk, or of sharing blocks on it, stops a build.
pub(crate) fn obstacle(blueprint: &Blueprint, site: Site, copy: CopyMode) -> Option<Error> {
    let dir = site.dir.to_owned();
    let Room { needed, free, can_share } = match room(blueprint, site, copy) {
        Ok(room) => room,
        Err(error) => return Some(error),
    };
    if copy == CopyMode::Reflink {
        let Some(file) = files_here(blueprint).next() else {
            let streamed = (0..blueprint.models.len()).find(|m| blueprint.remote(*m).is_some());
            // What a plan knows headers of only comes into the cache before it is built from.
            return streamed.map(|m| OutputError::NotHere { model: blueprint.place(m) }.into());
        };
        if !can_share {
            return Some(OutputError::CannotShare { source_file: file.path.clone(), dir }.into());
        }
        if shareable_bytes(blueprint) == 0 {
            return Some(Error::NothingShared);
        }
    }
    (needed > free).then(|| OutputError::DiskFull { dir, free, needed }.into())
}
