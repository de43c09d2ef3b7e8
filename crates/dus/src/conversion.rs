//! Tensors whose elements change on the way: which transform each takes, and to where.
//!
//! Copies of a source tensor that change in the same way are computed once and written to all places.

use std::collections::HashMap;

use crate::arithmetic::{CastReport, Noise, Transform, sum_of_squares};
use crate::error::{Error, Result};
use crate::open_file::OpenFile;
use crate::progress::Watch;
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
    /// The shards and offsets that the result goes to.
    pub(crate) targets: Vec<(usize, u64)>,
    transform: Transform,
    num_elements: u64,
}

impl Conversion {
    /// The element that a block begins with, and the length of its result in bytes.
    pub(crate) fn block(&self, offset: u64, bytes: u64) -> (u64, usize) {
        let width = self.transform.source_width() as u64;
        (offset / width, (bytes / width) as usize * self.transform.target_width())
    }

    pub(crate) fn target_element_bytes(&self) -> u64 {
        self.transform.target_width() as u64
    }

    /// The length of the result in bytes.
    pub(crate) fn target_bytes(&self) -> u64 {
        self.num_elements * self.target_element_bytes()
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
    sources: &[Vec<OpenFile>],
    watch: &Watch,
) -> Result<Vec<Conversion>> {
    let mut conversions: Vec<Conversion> = Vec::new();
    let mut found: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    for (s, shard) in layout.shards.iter().enumerate() {
        for placed in &shard.tensors {
            let tensor = &splice.tensors[placed.tensor];
            if tensor.change.is_none() {
                continue;
            }
            let transform = transform(tensor, models, sources, watch)?;
            let alike = found.entry((tensor.model, tensor.source)).or_default();
            let target = (s, placed.range.start);
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
                num_elements: tensor.num_elements(),
            });
        }
    }
    Ok(conversions)
}

/// The transform that makes `tensor` of its source.
pub(crate) fn transform(
    tensor: &NewTensor,
    models: &[Model],
    sources: &[Vec<OpenFile>],
    watch: &Watch,
) -> Result<Transform> {
    let source = &models[tensor.model].checkpoint.tensors()[tensor.source];
    let unsupported = |source| Error::Unsupported { tensor: tensor.name.clone(), source };
    let mut transform = Transform::cast(source.dtype, tensor.dtype).map_err(unsupported)?;
    let Some(change) = &tensor.change else { return Ok(transform) };
    if change.zero {
        return Ok(transform.zeroed());
    }
    if !change.is_nothing() {
        transform = transform.scaled(change.scale);
    }
    if change.noises.is_empty() {
        return Ok(transform);
    }
    let file = &sources[tensor.model][source.file];
    let mut sum = 0.0;
    let mut begin = source.range.start;
    let mut block = Vec::new();
    while begin < source.range.end {
        watch.check()?;
        let length = (source.range.end - begin).min(BLOCK_BYTES);
        block.resize(length as usize, 0);
        file.read_exact_at(&mut block, begin)?;
        sum += sum_of_squares(source.dtype, &block).map_err(unsupported)?;
        begin += length;
    }
    let rms =
        if tensor.num_elements() == 0 { 0.0 } else { (sum / tensor.num_elements() as f64).sqrt() };
    for &(sigma, seed) in &change.noises {
        transform = transform.with_noise(Noise::new(sigma * rms, seed, &tensor.name));
    }
    Ok(transform)
}
