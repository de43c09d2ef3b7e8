//! How bytes get from the source files into the new ones.
//!
//! Runs are shared where the file system can, else copied in the kernel, else read and written;
//! tensors that change are streamed in blocks through f32. Sources are walked in order with all new
//! files open, so that each byte comes off the disk once, and memory stays the same for any model.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use checkpoint::header::BLOCK_BYTES;

use crate::arithmetic::CastReport;
use crate::batches::{self, Batch, FETCH_BYTES, Fetch, InOrder};
use crate::conversion::{self, Conversion};
use crate::disk;
use crate::error::{Error, Result};
use crate::finished::Finished;
use crate::journal::{Journal, Stretch};
use crate::new_file::{Buffer, NewFile};
use crate::open_file::OpenFile;
use crate::open_source::OpenSource;
use crate::progress::{Progress, Watch};
use crate::shards::{Move, ShardLayout};
use crate::splice::{Model, Splice};
use crate::tasks::{Piece, Task, WINDOW_BYTES, Work, blocks, windows};

/// How bytes that stay as they are may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyMode {
    /// Shared where possible, else copied in the kernel where that helps, else read and written.
    #[default]
    Auto,
    /// Shared; an error where nothing can be.
    Reflink,
    /// Copied in the kernel, else read and written.
    Kernel,
    /// Read and written.
    Stream,
}

/// How many bytes went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Shared with the source's extents.
    pub shared: u64,
    /// Copied in the kernel.
    pub kernel: u64,
    /// Read and written as they are.
    pub streamed: u64,
    /// Computed: cast, scaled, zeroed or noised.
    pub computed: u64,
}

/// The length of a read and a write where the kernel does not copy.
const STREAM_BYTES: usize = 1 << 20;

/// Two copies under way keep the disk busy while one of them is read; more only get in each other's way.
const COPY_WORKERS: usize = 2;

/// A worker holds 3 MiB at most; more of them would not fit the 64 MB that a build may use.
const MAX_WORKERS: usize = 16;

/// One that fetches from the hub holds that, too.
const MAX_FETCHING_WORKERS: usize = 8;

/// The files that a build has open.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The weight files of each model, in the order of the checkpoint's.
    pub sources: &'a [Vec<OpenSource>],
    /// The new files, whose headers are written and which have their final length.
    pub shards: &'a [NewFile],
    /// Where it is noted what of them is finished.
    pub journal: &'a Journal,
}

/// Fills the new files, but for what is `finished`.
///
/// What noise is relative to is measured in any case: it is read, not moved.
pub fn fill(
    splice: &Splice,
    models: &[Model],
    layout: &ShardLayout,
    files: Files,
    finished: &Finished,
    mode: CopyMode,
    watch: &Watch,
) -> Result<Filled> {
    let filling = Filling {
        files,
        finished,
        mode,
        watch,
        kernel: AtomicU64::new(0),
        streamed: AtomicU64::new(0),
        computed: AtomicU64::new(0),
        overflow_in: Mutex::new(None),
        inexact_in: Mutex::new(None),
    };
    let mut moves = layout.moves(splice, models);
    let mut ways = Moved::default();
    if matches!(mode, CopyMode::Auto | CopyMode::Reflink) {
        // What is finished and can be shared now was copied before: sharing gives its room back.
        (moves, ways.shared) = filling.share(moves)?;
        if mode == CopyMode::Reflink && ways.shared == 0 {
            return Err(Error::NothingShared);
        }
    }
    let conversions = conversion::list(splice, models, layout, files.sources, watch)?;
    let bytes =
        |moves: &[Move]| -> u64 { moves.iter().map(|run| run.source.end - run.source.start).sum() };
    let unshared = bytes(&moves);
    let moves: Vec<Move> = moves.iter().flat_map(|run| finished.rest_of(run)).collect();
    let (blocks, kept_blocks) = blocks(&conversions, models, finished);
    let kept = unshared - bytes(&moves) + kept_blocks;
    let is_on_hub = |model: usize, file: usize| files.sources[model][file].on_hub().is_some();
    let mut tasks = windows(
        moves,
        |model, file| {
            if is_on_hub(model, file) { FETCH_BYTES } else { WINDOW_BYTES }
        },
    );
    tasks.extend(blocks);
    tasks.sort_by_key(|task| (task.model, task.file, task.source.start));
    (watch.progress)(Progress::Begin { doing: "building", bytes: splice.bytes() });
    watch.moved(ways.shared + kept);

    let mut cast = filling.work(&tasks, &conversions, models)?;
    filling.count_finished(layout, &mut cast);
    ways.kernel = filling.kernel.into_inner();
    ways.streamed = filling.streamed.into_inner();
    ways.computed = filling.computed.into_inner();
    let name = |first: Mutex<Option<usize>>| {
        let first = first.into_inner().unwrap_or_else(PoisonError::into_inner);
        first.map(|i| splice.tensors[i].name.clone())
    };
    let (overflow_in, inexact_in) = (name(filling.overflow_in), name(filling.inexact_in));
    Ok(Filled { moved: ways, kept, cast, overflow_in, inexact_in })
}

/// What filling the shards came to.
#[derive(Debug, Clone)]
pub struct Filled {
    /// How many bytes went which way.
    pub moved: Moved,
    /// How many were there already.
    pub kept: u64,
    /// What casts lost, also in what was there already.
    pub cast: CastReport,
    /// The first new tensor in which a value overflowed.
    pub overflow_in: Option<String>,
    /// The first new tensor in which a quantised block could not be scaled exactly.
    pub inexact_in: Option<String>,
}

struct Filling<'a> {
    files: Files<'a>,
    finished: &'a Finished,
    mode: CopyMode,
    watch: &'a Watch<'a>,
    kernel: AtomicU64,
    streamed: AtomicU64,
    computed: AtomicU64,
    /// The first new tensor with a value that overflowed, as an index into the splice's.
    overflow_in: Mutex<Option<usize>>,
    /// Likewise with a quantised block that could not be scaled exactly.
    inexact_in: Mutex<Option<usize>>,
}

impl Filling<'_> {
    /// Shares what can be, and returns the moves that are left with the number of bytes shared.
    fn share(&self, moves: Vec<Move>) -> Result<(Vec<Move>, u64)> {
        let mut left = Vec::new();
        let mut shared_bytes = 0;
        for run in moves {
            self.watch.check()?;
            let whole = run.shareable();
            let target = run.target + (whole.start - run.source.start);
            let source = self.files.sources[run.model][run.file].here();
            let shard = &self.files.shards[run.shard];
            let Some(source) = source.filter(|_| !whole.is_empty()) else {
                left.push(run);
                continue;
            };
            match disk::share_range(&source.file, &whole, &shard.open().file, target) {
                Ok(()) => {}
                Err(error) if disk::is_unsupported(&error) => {
                    left.push(run);
                    continue;
                }
                Err(error) => return Err(copy_failed(source, shard.open(), error)),
            }
            let bytes = whole.end - whole.start;
            shared_bytes += bytes;
            let ends = [
                (run.source.start..whole.start, run.target),
                (whole.end..run.source.end, target + bytes),
            ];
            left.extend(
                ends.into_iter()
                    .filter(|(source, _)| !source.is_empty())
                    .map(|(source, target)| Move { source, target, ..run.clone() }),
            );
        }
        Ok((left, shared_bytes))
    }

    /// Works off the tasks, in their order, on several threads.
    fn work(
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

    /// Counts what casts lost in what is finished already, as if it were done now.
    fn count_finished(&self, layout: &ShardLayout, total: &mut CastReport) {
        for Stretch { shard, range, cast, .. } in self.finished.stretches() {
            let tensors = &layout.shards[*shard].tensors;
            let at = tensors.partition_point(|placed| placed.range.end <= range.start);
            self.note_first(*cast, tensors.get(at).map(|placed| placed.tensor));
            *total += *cast;
        }
    }

    /// Remembers the first new tensor in which a cast went wrong.
    fn note_first(&self, cast: CastReport, tensor: Option<usize>) {
        for (count, first_in) in
            [(cast.overflowed, &self.overflow_in), (cast.inexact, &self.inexact_in)]
        {
            if count > 0 {
                let mut first = first_in.lock().unwrap_or_else(PoisonError::into_inner);
                *first = first.or(tensor).min(tensor);
            }
        }
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

fn copy_failed(source: &OpenFile, shard: &OpenFile, error: std::io::Error) -> Error {
    let (source_file, target) = (source.path.clone(), shard.path.clone());
    Error::Copy { source_file, target, source: error }
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
