//! The work of a build on several threads: copying, computing, and fetching from the hub.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use checkpoint::header::BLOCK_BYTES;

use super::{CopyMode, Filling, copy_failed};
use crate::arithmetic::CastReport;
use crate::batches::{self, Batch, Fetch, InOrder};
use crate::conversion::Conversion;
use crate::disk;
use crate::error::Result;
use crate::journal::Stretch;
use crate::new_file::Buffer;
use crate::open_file::OpenFile;
use crate::open_source::OpenSource;
use crate::progress::Watch;
use crate::splice::Model;
use crate::tasks::{Piece, Task, Work};

/// The length of a read and a write where the kernel does not copy.
const STREAM_BYTES: usize = 1 << 20;

/// Two copies under way keep the disk busy while one of them is read; more only get in each other's way.
const COPY_WORKERS: usize = 2;

/// A worker holds 3 MiB at most; more of them would not fit the 64 MB that a build may use.
const MAX_WORKERS: usize = 16;

/// One that fetches from the hub holds that, too.
const MAX_FETCHING_WORKERS: usize = 8;

impl Filling<'_> {
    /// Works off the tasks, in their order, on several threads.
    pub(super) fn work(
        &self,
        tasks: &[Task],
        conversions: &[Conversion],
        models: &[Model],
    ) -> Result<CastReport> {
        // What was fetched before is not fetched again for the sake of a hash.
        let batches = batches::batches(tasks, self.files.sources, self.finished.is_nothing());
        let hashes = self.hashes(&batches)?;
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let outcome: Mutex<Result<CastReport>> = Mutex::new(Ok(CastReport::default()));
        let num_workers = self.num_workers(tasks).min(batches.len());

        let worker = || {
            let mut buffers = Buffers::default();
            let mut report = CastReport::default();
            let result = loop {
                let b = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = batches.get(b) else { break Ok(()) };
                if failed.load(Ordering::Relaxed) {
                    break Ok(());
                }
                if let Some(soon) = batches.get(b + num_workers) {
                    self.read_ahead(&tasks[soon.tasks.clone()]);
                }
                let fetched = self.fetch(batch, &hashes, &failed, &mut buffers.fetched);
                let done = fetched.and_then(|()| {
                    for task in &tasks[batch.tasks.clone()] {
                        self.watch.check()?;
                        let bytes = Bytes::of(self.files.sources, task, batch, &buffers.fetched);
                        let blocks = (&mut buffers.source, &mut buffers.target);
                        match &task.work {
                            Work::Copy(pieces) => self.copy(&bytes, pieces, blocks.0)?,
                            Work::Convert(i) => {
                                report +=
                                    self.convert(&bytes, task, &conversions[*i], models, blocks)?;
                            }
                        }
                    }
                    Ok(())
                });
                if let Err(error) = done {
                    break Err(error);
                }
            };
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match (result, &mut *outcome) {
                (Ok(()), Ok(total)) => *total += report,
                (Err(error), Ok(_)) => {
                    failed.store(true, Ordering::Relaxed);
                    *outcome = Err(error);
                }
                (_, Err(_)) => {}
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..num_workers {
                scope.spawn(worker);
            }
            worker();
        });
        let report = outcome.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        hashes.into_values().try_for_each(InOrder::check)?;
        Ok(report)
    }

    /// The hashes of the files on the hub that are fetched whole.
    fn hashes(&self, batches: &[Batch]) -> Result<Hashes> {
        let mut hashes = BTreeMap::new();
        let fetches = batches.iter().filter_map(|batch| batch.fetch.as_ref());
        for &Fetch { model, file, .. } in fetches.filter(|_| self.finished.is_nothing()) {
            if let (Entry::Vacant(entry), Some(source)) =
                (hashes.entry((model, file)), self.files.sources[model][file].on_hub())
            {
                entry.insert(InOrder::new(source)?);
            }
        }
        Ok(hashes)
    }

    /// Fetches what the tasks of a batch need from the hub, if it is there.
    fn fetch(
        &self,
        batch: &Batch,
        hashes: &Hashes,
        failed: &AtomicBool,
        fetched: &mut Vec<u8>,
    ) -> Result<()> {
        let Some(Fetch { model, file, range }) = &batch.fetch else { return Ok(()) };
        fetched.resize((range.end - range.start) as usize, 0);
        self.files.sources[*model][*file].read_exact_at(fetched, range.start, self.watch)?;
        match hashes.get(&(*model, *file)) {
            Some(hash) => hash.update(range, fetched, failed, self.watch),
            None => Ok(()),
        }
    }

    /// Tells the kernel what will be read soon.
    fn read_ahead(&self, tasks: &[Task]) {
        for task in tasks {
            if let Some(open) = self.files.sources[task.model][task.file].here() {
                disk::read_ahead(&open.file, &task.source);
            }
        }
    }

    /// Copying waits for the disk or the network; arithmetic takes all cores.
    fn num_workers(&self, tasks: &[Task]) -> usize {
        let computes = tasks.iter().any(|task| matches!(task.work, Work::Convert(_)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let num_computing = if computes { cores.min(MAX_WORKERS) } else { 0 };
        let on_hub = self.files.sources.iter().flatten().filter_map(OpenSource::on_hub);
        let num_connections = on_hub.map(|file| file.remote.num_connections()).max().unwrap_or(0);
        num_computing.max(COPY_WORKERS).max(num_connections.min(MAX_FETCHING_WORKERS))
    }

    fn copy(&self, source: &Bytes, pieces: &[Piece], buffer: &mut Buffer) -> Result<()> {
        for (range, s, target) in pieces {
            let shard = &self.files.shards[*s];
            let (mut range, mut target) = (range.clone(), *target);
            let stretch = |range, checksum| {
                [Stretch { shard: *s, range, checksum, cast: CastReport::default() }]
            };
            let in_kernel = match self.mode {
                CopyMode::Stream => false,
                CopyMode::Kernel => true,
                CopyMode::Auto | CopyMode::Reflink => !disk::copies_by_splice(&shard.open().file),
            };
            if let Some(open) = source.source.here().filter(|_| in_kernel) {
                let copied = copy_in_kernel(open, &range, shard.open(), target)?;
                self.kernel.fetch_add(copied, Ordering::Relaxed);
                if copied > 0 {
                    self.files.journal.add(&stretch(target..target + copied, None))?;
                }
                self.watch.moved(copied);
                range.start += copied;
                target += copied;
            }
            let begin = target;
            let mut checksum = crc32fast::Hasher::new();
            while !range.is_empty() {
                // The first stretch ends at a block, so that all others begin at one.
                let most = STREAM_BYTES as u64 - target % BLOCK_BYTES;
                let length = most.min(range.end - range.start);
                let bytes = buffer.for_offset(length as usize, target);
                source.read_exact_at(bytes, range.start, self.watch)?;
                // Now, while they are in the processor's cache.
                checksum.update(bytes);
                shard.write_all_at(bytes, target)?;
                self.streamed.fetch_add(length, Ordering::Relaxed);
                self.watch.moved(length);
                range.start += length;
                target += length;
            }
            if begin < target {
                self.files.journal.add(&stretch(begin..target, Some(checksum.finalize())))?;
            }
        }
        Ok(())
    }

    fn convert(
        &self,
        source: &Bytes,
        task: &Task,
        conversion: &Conversion,
        models: &[Model],
        (block_of_source, block_of_target): (&mut Buffer, &mut Buffer),
    ) -> Result<CastReport> {
        let tensor = &models[conversion.model].checkpoint.tensors()[conversion.source];
        let offset = task.source.start - tensor.range.start;
        let block = conversion.block(offset, task.source.end - task.source.start);
        let (first, length) = block;
        let source_bytes = (task.source.end - task.source.start) as usize;
        let bytes = block_of_source.for_offset(source_bytes, 0);
        let begin = conversion.written_to(block, &conversion.targets[0]).start;
        let result = block_of_target.for_offset(length, begin);
        source.read_exact_at(bytes, task.source.start, self.watch)?;
        let mut report = CastReport::default();
        let once = conversion.apply(bytes, first, result);
        self.note_first(once, conversion.targets.iter().map(|target| target.tensor).min());
        let checksum = Some(crc32fast::hash(result));
        let mut stretches = Vec::new();
        for target in &conversion.targets {
            let range = conversion.written_to(block, target);
            if self.finished.covers(target.shard, &range) {
                continue;
            }
            self.files.shards[target.shard].write_all_at(result, range.start)?;
            self.computed.fetch_add(length as u64, Ordering::Relaxed);
            self.watch.moved(length as u64);
            stretches.push(Stretch { shard: target.shard, range, checksum, cast: once });
            report += once;
        }
        self.files.journal.add(&stretches)?;
        Ok(report)
    }
}

/// Copies in the kernel until it will not, and returns how many bytes it did.
fn copy_in_kernel(
    source: &OpenFile,
    range: &Range<u64>,
    shard: &OpenFile,
    target: u64,
) -> Result<u64> {
    let mut copied = 0;
    while range.start + copied < range.end {
        let rest = range.start + copied..range.end;
        match disk::copy_range(&source.file, &rest, &shard.file, target + copied) {
            // Nothing copied before the end: some file systems say so instead of an error.
            Ok(0) => break,
            Ok(bytes) => copied += bytes,
            Err(error) if disk::is_unsupported(&error) => break,
            Err(error) => return Err(copy_failed(source, shard, error)),
        }
    }
    Ok(copied)
}

/// The hashes of files on the hub, by model and file.
type Hashes = BTreeMap<(usize, usize), InOrder>;

/// Where a task's bytes are read.
struct Bytes<'a> {
    source: &'a OpenSource,
    /// What was fetched of it, from where on.
    fetched: Option<(u64, &'a [u8])>,
}

impl<'a> Bytes<'a> {
    fn of(sources: &'a [Vec<OpenSource>], task: &Task, batch: &Batch, fetched: &'a [u8]) -> Self {
        let fetched = batch.fetch.as_ref().map(|fetch| (fetch.range.start, fetched));
        Self { source: &sources[task.model][task.file], fetched }
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64, watch: &Watch) -> Result<()> {
        let Some((begin, fetched)) = self.fetched else {
            return self.source.read_exact_at(bytes, offset, watch);
        };
        let begin = (offset - begin) as usize;
        bytes.copy_from_slice(&fetched[begin..begin + bytes.len()]);
        Ok(())
    }
}

/// A worker's memory, kept from task to task.
#[derive(Default)]
struct Buffers {
    fetched: Vec<u8>,
    source: Buffer,
    target: Buffer,
}
