//! Everything in a folder, to show that nothing has changed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longer files are told by their length and times alone; sparse ones have terabytes.
const MAX_HASHED_BYTES: u64 = 1 << 20;

/// What stands in a folder and below, links not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// File, folder, link or other, with the permissions, as in `st_mode`.
    mode: u32,
    inode: u64,
    bytes: u64,
    /// In nanoseconds. A folder's changes when something in it comes or goes, be it for a moment.
    modified: i64,
    link: Option<PathBuf>,
    /// The hash of a short, readable file.
    contents: Option<u64>,
}

impl Survey {
    /// Looks at all that is in `dir`, and at `dir` itself.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let mut entries = BTreeMap::new();
        visit(dir, &mut entries);
        Self { entries }
    }

    /// What differs from `before`, one line each; empty if nothing does.
    ///
    /// That a folder was written into counts only if `even_for_a_moment`, so that what came and went
    /// again can be told from what never was.
    #[must_use]
    pub fn changes_since(&self, before: &Self, even_for_a_moment: bool) -> String {
        let mut changes = String::new();
        for (path, entry) in &self.entries {
            let (old, path) = (before.entries.get(path), path.display());
            match old {
                None => writeln!(changes, "{path} is new"),
                Some(old) if entry == old => Ok(()),
                Some(old) if entry.is_folder_that_was(old) && !even_for_a_moment => Ok(()),
                Some(old) if entry.is_folder_that_was(old) => {
                    writeln!(changes, "{path} was written into")
                }
                Some(old) => writeln!(changes, "{path} was {old:?} and is {entry:?}"),
            }
            .expect("a string takes all");
        }
        for path in before.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            writeln!(changes, "{} is gone", path.display()).expect("a string takes all");
        }
        changes
    }
}

impl Entry {
    /// Whether this is the folder that `old` was, written into since then.
    fn is_folder_that_was(&self, old: &Self) -> bool {
        let is_folder = self.mode & 0o170_000 == 0o040_000;
        is_folder && (self.mode, self.inode) == (old.mode, old.inode)
    }
}

fn visit(path: &Path, entries: &mut BTreeMap<PathBuf, Entry>) {
    let metadata = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let short = metadata.is_file() && metadata.len() <= MAX_HASHED_BYTES;
    let contents = short.then(|| fs::read(path).ok()).flatten().map(|bytes| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        hasher.finish()
    });
    let entry = Entry {
        mode: metadata.mode(),
        inode: metadata.ino(),
        bytes: if metadata.is_dir() { 0 } else { metadata.len() },
        modified: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        link: path.read_link().ok(),
        contents,
    };
    entries.insert(path.to_owned(), entry);
    if metadata.is_dir() {
        let mut below: Vec<PathBuf> = fs::read_dir(path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .map(|entry| entry.expect("the folder can be listed").path())
            .collect();
        below.sort();
        for path in below {
            visit(&path, entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&Path), expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "text").unwrap();
        let before = Survey::of(dir.path());
        change(dir.path());
        let changes = Survey::of(dir.path()).changes_since(&before, true);
        assert!(
            changes.contains(expected) && changes.is_empty() == expected.is_empty(),
            "{changes}"
        );
    }

    #[test]
    fn changes_show() {
        check(|_| (), "");
        check(|dir| fs::write(dir.join("new"), "").unwrap(), "new is new");
        check(|dir| fs::write(dir.join("file"), "xett").unwrap(), "file was");
        check(|dir| fs::remove_file(dir.join("file")).unwrap(), "file is gone");
        let come_and_go = |dir: &Path| {
            fs::create_dir(dir.join("moment")).unwrap();
            fs::remove_dir(dir.join("moment")).unwrap();
        };
        check(come_and_go, "was written into");
    }
}
