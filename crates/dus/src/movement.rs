//! How bytes get from the source files into the new ones.
//!
//! Runs are shared where the file system can, else copied in the kernel, else read and written;
//! tensors that change are streamed in blocks through f32. Sources are walked in order with all new
//! files open, so that each byte comes off the disk once, and memory stays the same for any model.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use checkpoint::header::BLOCK_BYTES;

use crate::arithmetic::CastReport;
use crate::conversion::{self, Conversion};
use crate::disk;
use crate::error::{Error, Result};
use crate::finished::Finished;
use crate::journal::{Journal, Stretch};
use crate::new_file::{Buffer, NewFile};
use crate::open_file::OpenFile;
use crate::progress::{Progress, Watch};
use crate::shards::{Move, ShardLayout};
use crate::splice::{Model, Splice};
use crate::tasks::{Piece, Task, Work, blocks, windows};

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

/// The files that a build has open.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The weight files of each model, in the order of the checkpoint's.
    pub sources: &'a [Vec<OpenFile>],
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
    let mut tasks = windows(moves);
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
            let source = &self.files.sources[run.model][run.file];
            let shard = &self.files.shards[run.shard];
            if whole.is_empty() {
                left.push(run);
                continue;
            }
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
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let outcome: Mutex<Result<CastReport>> = Mutex::new(Ok(CastReport::default()));
        let computes = tasks.iter().any(|task| matches!(task.work, Work::Convert(_)));
        let num_workers = num_workers(computes).min(tasks.len());

        let worker = || {
            let mut buffers = Buffers::default();
            let mut report = CastReport::default();
            let result = loop {
                let t = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(t) else { break Ok(()) };
                if failed.load(Ordering::Relaxed) {
                    break Ok(());
                }
                if let Some(soon) = tasks.get(t + num_workers) {
                    disk::read_ahead(&self.files.sources[soon.model][soon.file].file, &soon.source);
                }
                let done = self.watch.check().and_then(|()| match &task.work {
                    Work::Copy(pieces) => self.copy(task, pieces, &mut buffers),
                    Work::Convert(i) => {
                        report += self.convert(task, &conversions[*i], models, &mut buffers)?;
                        Ok(())
                    }
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
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self, task: &Task, pieces: &[Piece], buffers: &mut Buffers) -> Result<()> {
        let source = &self.files.sources[task.model][task.file];
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
            if in_kernel {
                let copied = copy_in_kernel(source, &range, shard.open(), target)?;
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
                let bytes = buffers.source.for_offset(length as usize, target);
                source.read_exact_at(bytes, range.start)?;
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
        task: &Task,
        conversion: &Conversion,
        models: &[Model],
        buffers: &mut Buffers,
    ) -> Result<CastReport> {
        let source = &self.files.sources[task.model][task.file];
        let tensor = &models[conversion.model].checkpoint.tensors()[conversion.source];
        let offset = task.source.start - tensor.range.start;
        let block = conversion.block(offset, task.source.end - task.source.start);
        let (first, length) = block;
        let source_bytes = (task.source.end - task.source.start) as usize;
        let bytes = buffers.source.for_offset(source_bytes, 0);
        let begin = conversion.written_to(block, &conversion.targets[0]).start;
        let result = buffers.target.for_offset(length, begin);
        source.read_exact_at(bytes, task.source.start)?;
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

/// Copying waits for the disk; arithmetic takes all cores.
fn num_workers(computes: bool) -> usize {
    if !computes {
        return COPY_WORKERS;
    }
    std::thread::available_parallelism().map_or(1, usize::from).clamp(COPY_WORKERS, MAX_WORKERS)
}

/// A worker's memory, kept from task to task.
#[derive(Default)]
struct Buffers {
    source: Buffer,
    target: Buffer,
}
