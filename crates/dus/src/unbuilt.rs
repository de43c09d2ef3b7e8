//! A new model that is never written: its tensors, one by one, as a build would write them.
//!
//! Most of them are tensors of the models that the plan is made of. Whoever reads those may use their
//! bytes for all new tensors that have them ([`Unbuilt::same_as`]).

use std::collections::HashMap;

use checkpoint::json::Object;
use rayon::prelude::*;

use crate::arithmetic::{CastReport, Transform};
use crate::blueprint::Blueprint;
use crate::conversion::{self, BLOCK_BYTES, Rms};
use crate::error::{Error, QuantisedError, Result};
use crate::progress::Watch;
use crate::recipe::TensorType;
use crate::splice::NewTensor;

/// A plan whose tensors can be computed.
#[derive(Debug)]
pub struct Unbuilt {
    blueprint: Blueprint,
    /// What each new tensor is computed by; `None` where its bytes are the source's.
    transforms: Vec<Option<Transform>>,
    /// For each new tensor the first that has the same bytes.
    same_as: Vec<usize>,
}

impl Unbuilt {
    /// Prepares the tensors of `blueprint`; what stops a build wherever it goes is an error.
    ///
    /// Where there is noise, the sources that it is relative to are read once.
    pub fn new(blueprint: Blueprint, watch: &Watch) -> Result<Self> {
        if let Some(obstacle) = blueprint.obstacles().into_iter().next() {
            return Err(obstacle);
        }
        let (splice, models) = (&blueprint.splice, &blueprint.models);
        let rms = Rms::measure(splice, models, &blueprint.open_sources()?, watch)?;
        let transform = |tensor: &NewTensor| {
            let changes = tensor.change.is_some();
            changes.then(|| conversion::transform(tensor, models, &rms)).transpose()
        };
        let transforms = splice.tensors.iter().map(transform).collect::<Result<Vec<_>>>()?;
        let mut of_source: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
        let mut same_as = Vec::with_capacity(transforms.len());
        for (i, tensor) in splice.tensors.iter().enumerate() {
            let alike = of_source.entry((tensor.model, tensor.source)).or_default();
            let first = alike.iter().copied().find(|&first| transforms[first] == transforms[i]);
            if first.is_none() {
                alike.push(i);
            }
            same_as.push(first.unwrap_or(i));
        }
        Ok(Self { blueprint, transforms, same_as })
    }

    /// The plan, followed to its last byte.
    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// The `config.json` that a build would write, or what one would say in a GGUF file.
    pub fn config(&self) -> Result<&Object> {
        Ok(&self.blueprint.config()?.config)
    }

    /// The first new tensor that has the same bytes as number `tensor`, which may be itself.
    #[must_use]
    pub fn same_as(&self, tensor: usize) -> usize {
        self.same_as[tensor]
    }

    /// The bytes of new tensor number `tensor`, if they are not those of its source; computed on all
    /// cores from `source`, all of the source's bytes.
    ///
    /// A value that overflows in a cast, or a quantised block that cannot be scaled exactly, is the
    /// error that it is in a build.
    pub fn compute(&self, tensor: usize, source: &[u8]) -> Result<Option<Vec<u8>>> {
        let new = &self.blueprint.splice.tensors[tensor];
        let Some(transform) = &self.transforms[tensor] else { return Ok(None) };
        let length = source.len() as u64;
        let block_bytes = transform.block_bytes(BLOCK_BYTES);
        let blocks = (0..length.div_ceil(block_bytes)).into_par_iter().map(|block| {
            let begin = block * block_bytes;
            let end = length.min(begin + block_bytes);
            let (first, target_bytes) = transform.block(begin, end - begin);
            let mut target = vec![0; target_bytes];
            let report = transform.apply(&source[begin as usize..end as usize], first, &mut target);
            (transform.target_offset(first) as usize, target, report)
        });
        let mut bytes = vec![0; new.bytes() as usize];
        let mut report = CastReport::default();
        for (offset, block, of_block) in blocks.collect::<Vec<_>>() {
            bytes[offset..offset + block.len()].copy_from_slice(&block);
            report += of_block;
        }
        let tensor = || new.name.clone();
        if report.overflowed > 0 {
            let dtype = self.blueprint.recipe.dtype.map_or("its type", TensorType::name);
            return Err(Error::Overflow { count: report.overflowed, tensor: tensor(), dtype });
        }
        if report.inexact > 0 {
            return Err(QuantisedError::Inexact { count: report.inexact, tensor: tensor() }.into());
        }
        Ok(Some(bytes))
    }
}
