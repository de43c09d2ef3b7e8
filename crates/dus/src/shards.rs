//! Which file each new tensor goes to, and where in it.
//!
//! Two layouts: [`by_size`] splits as Hugging Face does; [`by_source`] arranges files so that nearly
//! all of them can share the source's blocks on a file system with shared extents. Both depend on
//! headers alone, so a recipe gives the same files on every disk.

use std::ops::Range;

use checkpoint::Encoding;
use checkpoint::header::{self, BLOCK_BYTES};

use crate::splice::{Model, NewTensor, Splice};

/// The files of the new model.
#[derive(Debug, Clone)]
pub struct ShardLayout {
    /// The files, in the order of their names.
    pub shards: Vec<Shard>,
}

/// A file of the new model.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Its name, such as `model-00001-of-00005.safetensors`.
    pub name: String,
    /// What stands before its tensors: its length prefix and header, or all a GGUF file begins with.
    pub header: Vec<u8>,
    /// Its tensors in the order of their bytes.
    pub tensors: Vec<PlacedTensor>,
    /// What its length is a multiple of: 1, or the alignment of a GGUF file.
    pub alignment: u64,
}

/// A tensor at its place in a file.
#[derive(Debug, Clone)]
pub struct PlacedTensor {
    /// Its index in [`Splice::tensors`].
    pub tensor: usize,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

impl Shard {
    /// The length of the file in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let end = self.tensors.last().map_or(self.header.len() as u64, |last| last.range.end);
        end.next_multiple_of(self.alignment)
    }
}

/// A run of source bytes that moves as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The model that it comes from.
    pub model: usize,
    /// The file of that model.
    pub file: usize,
    /// The bytes in that file.
    pub source: Range<u64>,
    /// The shard that it goes to.
    pub shard: usize,
    /// Where it begins there.
    pub target: u64,
}

impl Move {
    /// The part of the source that a file system can share: whole blocks, if both ends' offsets agree.
    #[must_use]
    pub fn shareable(&self) -> Range<u64> {
        let begin = self.source.start.next_multiple_of(BLOCK_BYTES);
        let end = self.source.end - self.source.end % BLOCK_BYTES;
        let agree = self.source.start % BLOCK_BYTES == self.target % BLOCK_BYTES;
        if agree && begin < end { begin..end } else { begin..begin }
    }
}

/// Splits at `max_shard_bytes` of tensors, greedily in state-dict order, as Hugging Face does.
///
/// A tensor larger than that gets a file of its own.
#[must_use]
pub fn by_size(splice: &Splice, models: &[Model], max_shard_bytes: u64) -> ShardLayout {
    let mut groups = Vec::new();
    let (mut group, mut group_bytes) = (Vec::new(), 0);
    for (i, tensor) in splice.tensors.iter().enumerate() {
        let bytes = tensor.bytes();
        if bytes > max_shard_bytes {
            groups.push(vec![i]);
            continue;
        }
        if group_bytes + bytes > max_shard_bytes {
            groups.push(std::mem::take(&mut group));
            group_bytes = 0;
        }
        group.push(i);
        group_bytes += bytes;
    }
    if !group.is_empty() {
        groups.push(group);
    }
    for group in &mut groups {
        // Runs of the source stay together, and no tensor lies at an odd address because of another.
        group.sort_by_cached_key(|&i| {
            let place = Place::of(&splice.tensors[i], models);
            (std::cmp::Reverse(alignment(splice.tensors[i].encoding)), place)
        });
    }
    place(splice, models, groups)
}

/// Keeps runs of the source together, and lets no file mix runs whose blocks do not line up.
///
/// Runs too short to be worth a file go to the ends of others.
#[must_use]
pub fn by_source(splice: &Splice, models: &[Model], max_shard_bytes: u64) -> ShardLayout {
    /// A run shorter than this is not worth a file of its own for being shared.
    const LOOSE_BYTES: u64 = 1 << 20;

    let mut bins: Vec<Bin> = Vec::new();
    let mut loose = Vec::new();
    for run in runs(splice, models) {
        let bytes: u64 = run.tensors.iter().map(|&i| splice.tensors[i].bytes()).sum();
        if bytes < LOOSE_BYTES || !run.shareable {
            loose.extend(run.tensors);
            continue;
        }
        let mut begin = run.begin;
        let mut bin = None;
        for i in run.tensors {
            let bytes = splice.tensors[i].bytes();
            if bin.is_none_or(|b: usize| !bins[b].has_room(bytes, max_shard_bytes)) {
                let fits = |bin: &Bin| bin.lines_up(begin) && bin.has_room(bytes, max_shard_bytes);
                bin = Some(bins.iter().position(fits).unwrap_or_else(|| {
                    bins.push(Bin { begin, bytes: 0, tensors: Vec::new() });
                    bins.len() - 1
                }));
            }
            let bin = &mut bins[bin.expect("one was just found or made")];
            bin.push(i, bytes);
            begin += bytes;
        }
    }
    loose.sort_by_key(|&i| (std::cmp::Reverse(alignment(splice.tensors[i].encoding)), i));
    for i in loose {
        let bytes = splice.tensors[i].bytes();
        let aligned = alignment(splice.tensors[i].encoding);
        let fits = |bin: &Bin| {
            bin.has_room(bytes, max_shard_bytes) && (bin.begin + bin.bytes).is_multiple_of(aligned)
        };
        if let Some(bin) = bins.iter_mut().find(|bin| fits(bin)) {
            bin.push(i, bytes);
        } else {
            bins.push(Bin { begin: 0, bytes, tensors: vec![i] });
        }
    }
    place(splice, models, bins.into_iter().map(|bin| bin.tensors).collect())
}

/// A file of [`by_source`] while it is filled.
struct Bin {
    /// The offset in the source of the first run, whose blocks the file follows.
    begin: u64,
    bytes: u64,
    tensors: Vec<usize>,
}

impl Bin {
    fn has_room(&self, bytes: u64, max_shard_bytes: u64) -> bool {
        self.bytes == 0 || self.bytes + bytes <= max_shard_bytes
    }

    /// Whether source bytes from `begin` on, put at the end, have the same offset in their blocks.
    fn lines_up(&self, begin: u64) -> bool {
        (self.begin + self.bytes) % BLOCK_BYTES == begin % BLOCK_BYTES
    }

    fn push(&mut self, tensor: usize, bytes: u64) {
        self.tensors.push(tensor);
        self.bytes += bytes;
    }
}

/// Where a tensor comes from, ordered so that neighbours in a source file stay neighbours.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    copy: usize,
    model: usize,
    file: usize,
    begin: u64,
    end: u64,
}

impl Place {
    fn of(tensor: &NewTensor, models: &[Model]) -> Self {
        let source = &models[tensor.model].checkpoint.tensors()[tensor.source];
        let Range { start: begin, end } = source.range;
        Self { copy: tensor.copy, model: tensor.model, file: source.file, begin, end }
    }
}

/// Neighbouring tensors of one source file, taken as they are.
struct Run {
    begin: u64,
    shareable: bool,
    tensors: Vec<usize>,
}

/// All new tensors as runs, the run of the first tensor in state-dict order first.
fn runs(splice: &Splice, models: &[Model]) -> Vec<Run> {
    let mut placed: Vec<(Place, usize)> =
        splice.tensors.iter().enumerate().map(|(i, t)| (Place::of(t, models), i)).collect();
    placed.sort();
    let mut runs: Vec<Run> = Vec::new();
    let mut last: Option<Place> = None;
    for (place, i) in placed {
        let shareable = splice.tensors[i].change.is_none();
        let goes_on = last.as_ref().is_some_and(|last| {
            last.end == place.begin
                && (last.copy, last.model, last.file) == (place.copy, place.model, place.file)
        });
        match runs.last_mut() {
            Some(run) if goes_on && run.shareable == shareable => run.tensors.push(i),
            _ => runs.push(Run { begin: place.begin, shareable, tensors: vec![i] }),
        }
        last = Some(place);
    }
    runs.sort_by_key(|run| run.tensors.iter().min().copied());
    runs
}

/// Names the files, writes their headers and gives every tensor its place.
fn place(splice: &Splice, models: &[Model], groups: Vec<Vec<usize>>) -> ShardLayout {
    let num_shards = groups.len();
    let shards = groups.into_iter().enumerate().map(|(i, group)| {
        let name = if num_shards == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{num_shards:05}.safetensors", i + 1)
        };
        let tensors: Vec<&NewTensor> = group.iter().map(|&i| &splice.tensors[i]).collect();
        let described = tensors.iter().map(|t| {
            let dtype = t.encoding.dtype().expect("what goes to a folder is translated to a dtype");
            (t.name.as_str(), dtype, t.shape.as_slice())
        });
        let header = header::encode(described, residue(&tensors, models, 1, 8));
        let mut end = header.len() as u64;
        let tensors = group
            .into_iter()
            .map(|i| {
                let begin = end;
                end += splice.tensors[i].bytes();
                PlacedTensor { tensor: i, range: begin..end }
            })
            .collect();
        Shard { name, header, tensors, alignment: 1 }
    });
    ShardLayout { shards: shards.collect() }
}

/// All tensors in one file, runs of the source together, each tensor at a multiple of `alignment`.
///
/// `header` makes what stands before them of the tensors in the order of their bytes and of the
/// offset, modulo a block, that the first of them should have.
#[must_use]
pub fn in_one_file(
    splice: &Splice,
    models: &[Model],
    name: &str,
    alignment: u64,
    header: impl FnOnce(&[&NewTensor], u64) -> Vec<u8>,
) -> ShardLayout {
    let mut order: Vec<usize> = (0..splice.tensors.len()).collect();
    order.sort_by_cached_key(|&i| Place::of(&splice.tensors[i], models));
    let tensors: Vec<&NewTensor> = order.iter().map(|&i| &splice.tensors[i]).collect();
    let header = header(&tensors, residue(&tensors, models, alignment, alignment));
    let mut end = header.len() as u64;
    let place = |i: usize| {
        let begin = end.next_multiple_of(alignment);
        end = begin + splice.tensors[i].bytes();
        PlacedTensor { tensor: i, range: begin..end }
    };
    let tensors = order.into_iter().map(place).collect();
    ShardLayout { shards: vec![Shard { name: name.to_owned(), header, tensors, alignment }] }
}

/// The offset of the first tensor, modulo a block, at which most bytes line up with their source.
///
/// Tensors begin at multiples of `alignment`, and the first one at a multiple of `aligned`.
fn residue(tensors: &[&NewTensor], models: &[Model], alignment: u64, aligned: u64) -> u64 {
    let mut bytes_by_residue = std::collections::BTreeMap::new();
    let mut offset = 0;
    for tensor in tensors {
        if tensor.change.is_none() {
            let begin = Place::of(tensor, models).begin;
            let residue = (begin % BLOCK_BYTES + BLOCK_BYTES - offset % BLOCK_BYTES) % BLOCK_BYTES;
            // Readers map tensors where they lie.
            if residue.is_multiple_of(aligned) {
                *bytes_by_residue.entry(residue).or_default() += tensor.bytes();
            }
        }
        offset = (offset + tensor.bytes()).next_multiple_of(alignment);
    }
    let best: Option<(u64, u64)> = bytes_by_residue
        .into_iter()
        .max_by_key(|&(residue, bytes)| (bytes, std::cmp::Reverse(residue)));
    best.map_or(0, |(residue, _)| residue)
}

/// The bytes that elements are aligned to, as safetensors orders them.
fn alignment(encoding: Encoding) -> u64 {
    encoding.dtype().map_or(1, |dtype| (dtype.bitsize() as u64 / 8).max(1))
}

impl ShardLayout {
    /// The bytes that move as they are, as runs: neighbours in both files move together.
    #[must_use]
    pub fn moves(&self, splice: &Splice, models: &[Model]) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        for (s, shard) in self.shards.iter().enumerate() {
            for placed in &shard.tensors {
                let tensor = &splice.tensors[placed.tensor];
                if tensor.change.is_some() {
                    continue;
                }
                let source = &models[tensor.model].checkpoint.tensors()[tensor.source];
                match moves.last_mut() {
                    Some(last)
                        if (last.shard, last.model, last.file)
                            == (s, tensor.model, source.file)
                            && last.source.end == source.range.start
                            && last.target + (last.source.end - last.source.start)
                                == placed.range.start =>
                    {
                        last.source.end = source.range.end;
                    }
                    _ => moves.push(Move {
                        model: tensor.model,
                        file: source.file,
                        source: source.range.clone(),
                        shard: s,
                        target: placed.range.start,
                    }),
                }
            }
        }
        moves
    }

    /// The bytes of the new files that could be shared with those of the models that `is_here` names.
    #[must_use]
    pub fn shareable_bytes(
        &self,
        splice: &Splice,
        models: &[Model],
        is_here: impl Fn(usize) -> bool,
    ) -> u64 {
        let shareable = |run: &Move| run.shareable().end - run.shareable().start;
        let moves = self.moves(splice, models);
        moves.iter().filter(|run| is_here(run.model)).map(shareable).sum()
    }

    /// The length of all files in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }
}
