//! Where a decoder's tensors come from.
//!
//! The decoder asks a [`WeightSource`] for tensors by name, and never a file. Two names may get one
//! tensor: layers that come from the same bytes then share their memory.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use checkpoint::{Checkpoint, Encoding};

use crate::error::{Error, Result};
use crate::mapped::{self, MappedFile};
use crate::stored;
pub use crate::stored::{Storage, Stored};
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

    /// How a tensor is stored.
    fn encoding(&self, name: &str) -> Option<Encoding>;

    /// A tensor as it is stored.
    fn stored_as(&self, name: &str) -> Result<Stored<'_>>;

    /// What becomes of matrices on their way.
    fn storage(&self) -> Storage;

    /// A number that tensors of the same bytes, and no others, have in common; `None` where each is its own.
    fn same_as(&self, name: &str) -> Option<usize> {
        let _ = name;
        None
    }

    /// Whether two tensors are the same numbers, stored in the same way.
    fn are_equal(&self, name: &str, other: &str) -> Result<bool>;

    /// What a user should hear of the way from the files to the tensors.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The tensors of a checkpoint's safetensors or GGUF files, mapped into memory.
#[derive(Debug)]
pub struct MappedWeights {
    checkpoint: Arc<Checkpoint>,
    files: Vec<Arc<MappedFile>>,
    dtype: DType,
    storage: Storage,
}

impl MappedWeights {
    /// Maps the files of `checkpoint`; tensors will be of `dtype`.
    pub fn open(checkpoint: Arc<Checkpoint>, dtype: DType) -> Result<Self> {
        let files = mapped::map_files(&checkpoint)?;
        let storage = Storage::default();
        Ok(Self { checkpoint, files, dtype, storage })
    }

    /// The same with matrices that are stored as `storage` says.
    #[must_use]
    pub fn stored(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    fn entry(&self, name: &str) -> Result<Stored<'_>> {
        let checkpoint = &self.checkpoint;
        let tensor = checkpoint.tensor(name).ok_or_else(|| Error::MissingTensor {
            model: self.path().to_owned(),
            tensor: name.to_owned(),
            more: 0,
        })?;
        let pairs = |gguf: &checkpoint::Gguf| {
            stored::pairs(gguf.architecture, checkpoint.config(), name, &tensor.shape)
        };
        Ok(Stored {
            name: &tensor.name,
            encoding: tensor.encoding,
            shape: &tensor.shape,
            bytes: mapped::bytes(&self.files, checkpoint, tensor)?,
            pairs: checkpoint.gguf().and_then(pairs),
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
        let tensors = self.checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
        let is_setting = |name: &&str| {
            let gguf = self.checkpoint.gguf();
            gguf.is_some_and(|gguf| stored::is_setting(gguf.architecture, name))
        };
        tensors.filter(|name| !is_setting(name)).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.tensor(name).map(|tensor| tensor.shape.as_slice())
    }

    fn stored_bytes(&self, name: &str) -> u64 {
        self.checkpoint.tensor(name).map_or(0, checkpoint::Tensor::bytes)
    }

    fn matrix(&self, name: &str, device: &Device) -> Result<Weight> {
        self.entry(name)?.matrix(self.storage, self.dtype, device)
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.entry(name)?.tensor(self.dtype, device)
    }

    fn encoding(&self, name: &str) -> Option<Encoding> {
        self.checkpoint.tensor(name).map(|tensor| tensor.encoding)
    }

    fn stored_as(&self, name: &str) -> Result<Stored<'_>> {
        self.entry(name)
    }

    fn storage(&self) -> Storage {
        self.storage
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        Ok(self.entry(name)?.is_equal(&self.entry(other)?))
    }

    fn notes(&self) -> Vec<String> {
        let tensors = self.checkpoint.tensors().iter();
        self.storage.notes(tensors.map(|tensor| (tensor.encoding, tensor.shape.as_slice())))
    }
}
