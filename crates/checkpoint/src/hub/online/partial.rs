//! A file that is not here whole yet.
//!
//! Several parts of it arrive at once, so its length says nothing. A journal beside it names the
//! ranges that are there, a line each, written after their bytes; a line that was cut off counts for
//! nothing. Neither name is one that `huggingface_hub` uses: older versions of it go on from the
//! length of `<etag>.incomplete`, and would take holes for bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::hub::cache;
use crate::hub::revision::RemoteFile;

/// A partial file, open.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    journal_path: PathBuf,
    journal: Mutex<File>,
}

impl Partial {
    /// Opens what an earlier download left of `file` in the folder `blobs`, or begins it.
    ///
    /// Returns the ranges that are there, in order and without overlap.
    pub(super) fn open(blobs: &Path, file: &RemoteFile) -> Result<(Self, Vec<Range<u64>>)> {
        let (path, journal_path) = paths(blobs, file);
        let read = |path: &Path| fs::read(path).ok().and_then(|text| String::from_utf8(text).ok());
        let length = path.metadata().map_or(0, |metadata| metadata.len());
        let there = read(&journal_path).filter(|_| length == file.bytes);
        let there = there.and_then(|text| Some((read_journal(&text, file.bytes)?, text)));
        let Some((ranges, text)) = there else {
            return Ok((Self::begin(blobs, file)?, Vec::new()));
        };
        let partial = Self::at(path, journal_path)?;
        // A line that was cut off would spoil the next one.
        let whole_lines = text.rfind('\n').map_or(0, |last| last + 1);
        if whole_lines < text.len() {
            let cut = lock(&partial.journal).set_len(whole_lines as u64);
            cut.map_err(|e| Error::io(&partial.journal_path, "written", e))?;
        }
        Ok((partial, ranges))
    }

    /// Begins `file` anew. It is another file than an earlier one of this name, which may be a blob by
    /// now where a file system only pretends to lock.
    pub(super) fn begin(blobs: &Path, file: &RemoteFile) -> Result<Self> {
        let (path, journal_path) = paths(blobs, file);
        cache::make_parent(&path)?;
        for path in [&journal_path, &path] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(path, "removed", e));
                }
                _ => {}
            }
        }
        let partial = Self::at(path, journal_path)?;
        let sized = partial.file.set_len(file.bytes);
        sized.map_err(|e| Error::io(&partial.path, "written", e))?;
        partial.log(&format!("{}\n", file.bytes))?;
        Ok(partial)
    }

    fn at(path: PathBuf, journal_path: PathBuf) -> Result<Self> {
        let open = |options: &mut OpenOptions, path: &Path| {
            options.create(true).open(path).map_err(|e| Error::io(path, "opened", e))
        };
        let data = open(OpenOptions::new().read(true).write(true).truncate(false), &path)?;
        let journal = Mutex::new(open(OpenOptions::new().append(true), &journal_path)?);
        Ok(Self { path, file: data, journal_path, journal })
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| Error::io(&self.path, "written", e))
    }

    /// Notes that the bytes of `range` are there.
    pub(super) fn note(&self, range: &Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.log(&format!("{} {}\n", range.start, range.end))
    }

    fn log(&self, line: &str) -> Result<()> {
        let written = lock(&self.journal).write_all(line.as_bytes());
        written.map_err(|e| Error::io(&self.journal_path, "written", e))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file `blob`, for good.
    pub(super) fn finish(&self, blob: &Path) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, "written", e))?;
        fs::rename(&self.path, blob).map_err(|e| Error::io(blob, "written", e))?;
        // Without its file it is read as no journal.
        let _ = fs::remove_file(&self.journal_path);
        Ok(())
    }
}

/// Where the bytes and the journal of a partial file lie.
fn paths(blobs: &Path, file: &RemoteFile) -> (PathBuf, PathBuf) {
    let etag = file.etag();
    let name = |end: &str| blobs.join(format!("{etag}.dus.{end}"));
    (name("incomplete"), name("journal.incomplete"))
}

/// What the disk has of `file` by now, in bytes; holes do not count.
pub(super) fn allocated(blobs: &Path, file: &RemoteFile) -> u64 {
    const UNIT: u64 = 512;
    paths(blobs, file).0.metadata().map_or(0, |metadata| metadata.blocks() * UNIT)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ranges that a journal names, in order and without overlap; `None` if it is of another file.
fn read_journal(text: &str, bytes: u64) -> Option<Vec<Range<u64>>> {
    let whole_lines = &text[..=text.rfind('\n')?];
    let mut lines = whole_lines.lines();
    if lines.next()?.parse() != Ok(bytes) {
        return None;
    }
    let mut ranges = Vec::new();
    for line in lines {
        let (start, end) = line.split_once(' ')?;
        let range = start.parse().ok()?..end.parse().ok()?;
        if range.is_empty() || range.end > bytes {
            return None;
        }
        ranges.push(range);
    }
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => merged.push(range),
        }
    }
    Some(merged)
}

/// What `there` leaves of a file of this length, in parts of at most `part_bytes`.
pub(super) fn missing(there: &[Range<u64>], bytes: u64, part_bytes: u64) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut at = 0;
    for (start, end) in there.iter().map(|range| (range.start, range.end)).chain([(bytes, bytes)]) {
        while at < start {
            let part = at..start.min(at + part_bytes.max(1));
            at = part.end;
            parts.push(part);
        }
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_ranges_in_any_order() {
        let check = |text: &str, expected: Option<&[(u64, u64)]>| {
            let ranges = read_journal(text, 100);
            let pairs = ranges.map(|r| r.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>());
            assert_eq!(pairs.as_deref(), expected, "{text:?}");
        };
        check("100\n50 60\n0 10\n10 20\n55 70\n", Some(&[(0, 20), (50, 70)]));
        check("100\n", Some(&[]));
        // The last line was cut off.
        check("100\n0 10\n10 10", Some(&[(0, 10)]));
        for bad in ["", "100", "99\n0 10\n", "100\n0\n", "100\n0 101\n", "100\n5 5\n", "100\nx y\n"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_missing_is_cut_into_parts() {
        let parts = |there: &[Range<u64>]| missing(there, 100, 40);
        assert_eq!(parts(&[]), [0..40, 40..80, 80..100]);
        assert_eq!(parts(&[0..10, 60..100]), [10..50, 50..60]);
        assert_eq!(parts(std::slice::from_ref(&(0..100))), []);
        assert_eq!(missing(&[], 0, 40), []);
    }
}
