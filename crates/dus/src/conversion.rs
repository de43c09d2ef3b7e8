//! Tensors whose elements change on the way: which transform each takes, and to where.
//!
//! Copies of a source tensor that change in the same way are computed once and written to all places.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use checkpoint::{Dtype, Tensor};
use rayon::prelude::*;

use crate::arithmetic::{CastReport, Noise, Transform, sum_of_squares};
use crate::error::{Error, Result};
use crate::open_source::OpenSource;
use crate::progress::{Progress, Watch};
use crate::shards::ShardLayout;
use crate::splice::{Model, NewTensor, Splice};

/// The length of a block of source bytes; sums run block by block, so it is the same everywhere.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;

/// A source tensor that changes, and all the places that the result goes to.
#[derive(Debug)]
pub(crate) struct Conversion {
    /// The model that the tensor is from.
    pub(crate) model: usize,
    /// Its index in that model's checkpoint.
    pub(crate) source: usize,
    /// Where the result goes.
    pub(crate) targets: Vec<Target>,
    transform: Transform,
}

/// A place that the result of a conversion goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// The new tensor, as an index into the splice's.
    pub(crate) tensor: usize,
    /// Its shard.
    pub(crate) shard: usize,
    /// Where it begins there.
    pub(crate) offset: u64,
}

impl Conversion {
    /// The element that a block begins with, and the length of its result in bytes.
    pub(crate) fn block(&self, offset: u64, bytes: u64) -> (u64, usize) {
        self.transform.block(offset, bytes)
    }

    /// The length of the blocks that the source is taken in.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.transform.block_bytes(BLOCK_BYTES)
    }

    /// The bytes of the shard of `target` that the result of a block goes to.
    pub(crate) fn written_to(&self, (first, length): (u64, usize), target: &Target) -> Range<u64> {
        let begin = target.offset + self.transform.target_offset(first);
        begin..begin + length as u64
    }

    /// Transforms `source`, which begins with element `first` of the tensor.
    pub(crate) fn apply(&self, source: &[u8], first: u64, target: &mut [u8]) -> CastReport {
        self.transform.apply(source, first, target)
    }
}

/// Collects the conversions of a splice; where there is noise, the sources' RMS is measured first.
pub(crate) fn list(
    splice: &Splice,
    models: &[Model],
    layout: &ShardLayout,
    sources: &[Vec<OpenSource>],
    watch: &Watch,
) -> Result<Vec<Conversion>> {
    let rms = Rms::measure(splice, models, sources, watch)?;
    let mut conversions: Vec<Conversion> = Vec::new();
    let mut found: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    for (s, shard) in layout.shards.iter().enumerate() {
        for placed in &shard.tensors {
            let tensor = &splice.tensors[placed.tensor];
            if tensor.change.is_none() {
                continue;
            }
            let transform = transform(tensor, models, &rms)?;
            let alike = found.entry((tensor.model, tensor.source)).or_default();
            let target = Target { tensor: placed.tensor, shard: s, offset: placed.range.start };
            if let Some(&i) = alike.iter().find(|&&i| conversions[i].transform == transform) {
                conversions[i].targets.push(target);
                continue;
            }
            alike.push(conversions.len());
            conversions.push(Conversion {
                model: tensor.model,
                source: tensor.source,
                targets: vec![target],
                transform,
            });
        }
    }
    Ok(conversions)
}

/// The transform that makes `tensor` of its source.
pub(crate) fn transform(tensor: &NewTensor, models: &[Model], rms: &Rms) -> Result<Transform> {
    let source = &models[tensor.model].checkpoint.tensors()[tensor.source];
    let mut transform = Transform::cast(source.encoding, tensor.encoding)
        .map_err(|source| Error::Unsupported { tensor: tensor.name.clone(), source })?;
    let Some(change) = &tensor.change else { return Ok(transform) };
    let [before, after] = change.added;
    transform = transform.with_added(before, after);
    if let Some(rows) = change.rows {
        transform = transform.with_rows(rows);
    }
    if change.zero {
        return Ok(transform.zeroed());
    }
    if !change.is_nothing() {
        transform = transform.scaled(change.scale);
    }
    for &(sigma, seed) in &change.noises {
        let sigma = sigma * rms.0[&(tensor.model, tensor.source)];
        transform = transform.with_noise(Noise::new(sigma, seed, &tensor.name));
    }
    Ok(transform)
}

/// The root mean square of each source tensor that noise is relative to.
#[derive(Debug)]
pub(crate) struct Rms(HashMap<(usize, usize), f64>);

impl Rms {
    /// Measures each source once, on all cores; sums run block by block in the order of the bytes.
    pub(crate) fn measure(
        splice: &Splice,
        models: &[Model],
        sources: &[Vec<OpenSource>],
        watch: &Watch,
    ) -> Result<Self> {
        let has_noise = |tensor: &&NewTensor| {
            tensor.change.as_ref().is_some_and(|change| !change.zero && !change.noises.is_empty())
        };
        let noised = splice.tensors.iter().filter(has_noise);
        let measured: BTreeSet<(usize, usize)> = noised.map(|t| (t.model, t.source)).collect();
        let tensor =
            |&(model, source): &(usize, usize)| &models[model].checkpoint.tensors()[source];
        let bytes = measured.iter().map(|key| tensor(key).bytes()).sum();
        if bytes > 0 {
            (watch.progress)(Progress::Begin { doing: "measuring", bytes });
        }
        let added: HashMap<(usize, usize), f32> = (splice.tensors.iter())
            .filter_map(|t| Some(((t.model, t.source), t.change.as_ref()?.added[0])))
            .collect();
        let rms = |key: &(usize, usize)| {
            let rms = root_mean_square(tensor(key), added[key], &sources[key.0], watch)?;
            Ok((*key, rms))
        };
        Ok(Self(measured.par_iter().map(rms).collect::<Result<_>>()?))
    }
}

fn root_mean_square(
    tensor: &Tensor,
    added: f32,
    files: &[OpenSource],
    watch: &Watch,
) -> Result<f64> {
    let unsupported = |source| Error::Unsupported { tensor: tensor.name.clone(), source };
    let whole = Transform::cast(tensor.encoding, Dtype::F32.into()).map_err(unsupported)?;
    let block_bytes = whole.block_bytes(BLOCK_BYTES);
    let mut sum = 0.0;
    let mut begin = tensor.range.start;
    let mut block = Vec::new();
    while begin < tensor.range.end {
        watch.check()?;
        let length = (tensor.range.end - begin).min(block_bytes);
        block.resize(length as usize, 0);
        files[tensor.file].read_exact_at(&mut block, begin, watch)?;
        sum += sum_of_squares(tensor.encoding, added, &block).map_err(unsupported)?;
        watch.moved(length);
        begin += length;
    }
    let rms = (sum / tensor.num_elements().max(1) as f64).sqrt();
    if rms.is_finite() { Ok(rms) } else { Err(Error::NoRms { tensor: tensor.name.clone() }) }
}
