//! Where a decoder's tensors come from.
//!
//! The decoder asks a [`WeightSource`] for tensors by name, and never a file. Two names may get one
//! tensor: layers that come from the same bytes then share their memory.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use checkpoint::Checkpoint;
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::stored::{self, Stored};
use crate::weight::Weight;

/// Tensors by name, in Hugging Face's form.
pub trait WeightSource: Sync {
    /// What errors call the model.
    fn path(&self) -> &Path;

    /// The type of the arithmetic.
    fn dtype(&self) -> DType;

    /// The names of all tensors, in the order of the files.
    fn names(&self) -> Vec<&str>;

    /// The shape of a tensor; `None` where there is none of this name.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// The bytes of a tensor as it is stored; 0 where there is none of this name.
    fn stored_bytes(&self, name: &str) -> u64;

    /// A matrix to multiply by, on `device`.
    fn matrix(&self, name: &str, device: &Device) -> Result<Weight>;

    /// A norm's weight or a bias, in the type of the arithmetic, on `device`.
    fn vector(&self, name: &str, device: &Device) -> Result<Tensor>;

    /// Whether two tensors are the same numbers, stored in the same way.
    fn are_equal(&self, name: &str, other: &str) -> Result<bool>;
}

/// The tensors of a checkpoint's safetensors files, mapped into memory.
#[derive(Debug)]
pub struct MappedWeights {
    checkpoint: Arc<Checkpoint>,
    files: Vec<Mmap>,
    dtype: DType,
}

impl MappedWeights {
    /// Maps the files of `checkpoint`; tensors will be of `dtype`.
    pub fn open(checkpoint: Arc<Checkpoint>, dtype: DType) -> Result<Self> {
        let files = stored::map_files(&checkpoint)?;
        Ok(Self { checkpoint, files, dtype })
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let tensor = self.checkpoint.tensor(name).ok_or_else(|| Error::MissingTensor {
            model: self.path().to_owned(),
            tensor: name.to_owned(),
            more: 0,
        })?;
        Ok(Stored {
            name: &tensor.name,
            encoding: tensor.encoding,
            shape: &tensor.shape,
            bytes: stored::bytes(&self.files, &self.checkpoint, tensor)?,
        })
    }
}

impl WeightSource for MappedWeights {
    fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn names(&self) -> Vec<&str> {
        self.checkpoint.tensors().iter().map(|tensor| tensor.name.as_str()).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.tensor(name).map(|tensor| tensor.shape.as_slice())
    }

    fn stored_bytes(&self, name: &str) -> u64 {
        self.checkpoint.tensor(name).map_or(0, checkpoint::Tensor::bytes)
    }

    fn matrix(&self, name: &str, device: &Device) -> Result<Weight> {
        self.vector(name, device).map(Weight::Dense)
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.stored(name)?.tensor(self.dtype, device)
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        Ok(self.stored(name)?.is_equal(&self.stored(other)?))
    }
}
