//! How bytes get from the source files into the new ones.
//!
//! Runs are shared where the file system can, else copied in the kernel, else read and written;
//! tensors that change are streamed in blocks through f32. Sources are walked in order with all new
//! files open, so that each byte comes off the disk once, and memory stays the same for any model.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

mod work;

use crate::arithmetic::CastReport;
use crate::batches::FETCH_BYTES;
use crate::conversion;
use crate::disk;
use crate::error::{Error, Result};
use crate::finished::Finished;
use crate::journal::{Journal, Stretch};
use crate::new_file::NewFile;
use crate::open_file::OpenFile;
use crate::open_source::OpenSource;
use crate::progress::{Progress, Watch};
use crate::shards::{Move, ShardLayout};
use crate::splice::{Model, Splice};
use crate::tasks::{WINDOW_BYTES, blocks, windows};

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

fn copy_failed(source: &OpenFile, shard: &OpenFile, error: std::io::Error) -> Error {
    let (source_file, target) = (source.path.clone(), shard.path.clone());
    Error::Copy { source_file, target, source: error }
}
