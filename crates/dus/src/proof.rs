//! The proof that a file of the hub, which is never here whole, is the one that the hub lists.
//!
//! Its bytes come in by windows from several workers, and go through its hash in their order. What was
//! read of it before, and acted upon, must be what goes through the hash: the header, by which all
//! else was planned, and tensors that were measured. What an earlier run copied into a new file is not
//! fetched again: it is read back from there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use checkpoint::hub::FileHash;

use crate::error::Result;
use crate::new_file::NewFile;
use crate::open_source::{HubFile, OpenSource};
use crate::progress::Watch;
use crate::shards::Move;

/// The checksums of tensors that were read before the build, by model and file; as ranges of the file,
/// in their order.
pub(crate) type Measured = BTreeMap<(usize, usize), Vec<(Range<u64>, u32)>>;

/// The files on the hub, by model and file.
#[derive(Debug, Default)]
pub(crate) struct Proofs<'a> {
    /// Those that are proved.
    by_file: BTreeMap<(usize, usize), Proof<'a>>,
    /// Those that cannot be: of what an earlier run computed from them the bytes are gone.
    pub(crate) unproved: Vec<(usize, usize)>,
}

impl<'a> Proofs<'a> {
    /// The proofs of the files that are `used`; `kept` was copied from them by an earlier run, and what
    /// was computed from the files of `computed` is kept, too.
    pub(crate) fn new(
        sources: &'a [Vec<OpenSource>],
        used: impl Iterator<Item = (usize, usize)>,
        kept: Vec<Move>,
        computed: &BTreeSet<(usize, usize)>,
        measured: &mut Measured,
    ) -> Result<Self> {
        let mut kept_by_file: BTreeMap<(usize, usize), Vec<Move>> = BTreeMap::new();
        for run in kept {
            kept_by_file.entry((run.model, run.file)).or_default().push(run);
        }
        let used: BTreeSet<(usize, usize)> =
            used.chain(kept_by_file.keys().copied()).chain(computed.iter().copied()).collect();
        let mut proofs = Self::default();
        for key @ (model, file) in used {
            let Some(source) = sources[model][file].on_hub() else { continue };
            if computed.contains(&key) {
                proofs.unproved.push(key);
                continue;
            }
            let kept = kept_by_file.remove(&key).unwrap_or_default();
            let measured = measured.remove(&key).unwrap_or_default();
            proofs.by_file.insert(key, Proof::new(source, kept, measured)?);
        }
        Ok(proofs)
    }

    /// The proof of a file, if it is to be proved.
    pub(crate) fn of(&self, model: usize, file: usize) -> Option<&Proof<'a>> {
        self.by_file.get(&(model, file))
    }
}

/// The proof of one file in the making.
#[derive(Debug)]
pub(crate) struct Proof<'a> {
    file: &'a HubFile,
    /// What is read back from the new files, in the order of the source's bytes.
    kept: Vec<Move>,
    /// Tensors that were read before, as ranges of the file, and their checksums.
    measured: Vec<(Range<u64>, u32)>,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    /// How many bytes went through the hash.
    at: u64,
    /// None when it is checked.
    hash: Option<FileHash>,
    /// The first of the measured tensors that is not checked yet, and the checksum of its beginning.
    next: usize,
    checksum: crc32fast::Hasher,
}

impl<'a> Proof<'a> {
    fn new(
        file: &'a HubFile,
        mut kept: Vec<Move>,
        measured: Vec<(Range<u64>, u32)>,
    ) -> Result<Self> {
        kept.sort_by_key(|run| run.source.start);
        let checksum = crc32fast::Hasher::new();
        let state = State { at: 0, hash: Some(file.hash()?), next: 0, checksum };
        Ok(Self { file, kept, measured, state: Mutex::new(state), moved: Condvar::new() })
    }

    /// Fills `bytes` with those of `range`: from the new files where they are kept, else from the hub.
    pub(crate) fn read(
        &self,
        range: &Range<u64>,
        bytes: &mut [u8],
        shards: &[NewFile],
        watch: &Watch,
    ) -> Result<()> {
        let mut at = range.start;
        let index = |offset: u64| (offset - range.start) as usize;
        let kept = self.kept.iter().take_while(|run| run.source.start < range.end);
        for run in kept.filter(|run| run.source.end > range.start) {
            let begin = run.source.start.max(range.start);
            let end = run.source.end.min(range.end);
            if at < begin {
                self.file.read_exact_at(&mut bytes[index(at)..index(begin)], at, watch)?;
                at = begin;
            }
            let shard = shards[run.shard].open();
            let target = |offset: u64| run.target + (offset - run.source.start);
            let twice = at.min(end);
            if begin < twice {
                let mut again = vec![0; index(twice) - index(begin)];
                shard.read_exact_at(&mut again, target(begin))?;
                if again != bytes[index(begin)..index(twice)] {
                    return Err(self.file.changed());
                }
            }
            if twice < end {
                shard.read_exact_at(&mut bytes[index(twice)..index(end)], target(twice))?;
                at = end;
            }
        }
        if at < range.end {
            self.file.read_exact_at(&mut bytes[index(at)..], at, watch)?;
        }
        Ok(())
    }

    /// Takes in the bytes of `range` when all before it have been; gives up if another worker failed.
    ///
    /// With the last of them the file is proved, or found to be another.
    pub(crate) fn update(
        &self,
        range: &Range<u64>,
        bytes: &[u8],
        failed: &AtomicBool,
        watch: &Watch,
    ) -> Result<()> {
        let mut state = self.lock();
        while state.at < range.start {
            watch.check()?;
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let waited = self.moved.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // Windows may overlap.
        let known = (state.at - range.start) as usize;
        if let Some(new) = bytes.get(known..) {
            self.take_in(&mut state, new)?;
        }
        self.moved.notify_all();
        Ok(())
    }

    fn take_in(&self, state: &mut State, bytes: &[u8]) -> Result<()> {
        let (begin, end) = (state.at, state.at + bytes.len() as u64);
        let header = self.file.header_bytes;
        if begin < header {
            let now = &bytes[..(end.min(header) - begin) as usize];
            let mut then = vec![0; now.len()];
            self.file.outline.read_exact_at(&mut then, begin)?;
            if now != then {
                return Err(self.file.changed());
            }
        }
        while let Some((tensor, checksum)) = self.measured.get(state.next) {
            let part = tensor.start.max(begin)..tensor.end.min(end);
            if part.start < part.end {
                let part = (part.start - begin) as usize..(part.end - begin) as usize;
                state.checksum.update(&bytes[part]);
            }
            if end < tensor.end {
                break;
            }
            if std::mem::take(&mut state.checksum).finalize() != *checksum {
                return Err(self.file.changed());
            }
            state.next += 1;
        }
        if let Some(hash) = &mut state.hash {
            hash.update(bytes);
        }
        state.at = end;
        match state.hash.take_if(|_| end == self.file.bytes) {
            Some(hash) => Ok(hash.check()?),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
