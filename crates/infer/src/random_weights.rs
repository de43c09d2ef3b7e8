//! Weights that a model of some config might have: its geometry without its files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use checkpoint::{Dtype, Encoding};
use rayon::prelude::*;

use crate::anatomy;
use crate::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::random::uniform;
use crate::source::{Storage, WeightSource};
use crate::weight::Weight;

/// How the tensors of a model are taken to be stored of which no file says it: most are.
pub const STORED: Dtype = Dtype::BF16;

/// Numbers that a thread makes at once.
const BLOCK: usize = 1 << 16;

/// The tensors that a config promises, with random numbers that follow from their names.
#[derive(Debug)]
pub struct RandomWeights {
    path: PathBuf,
    names: Vec<String>,
    shapes: HashMap<String, Vec<usize>>,
    dtype: DType,
    storage: Storage,
}

impl RandomWeights {
    /// The tensors of the decoder that `config` describes, which errors call `path`.
    #[must_use]
    pub fn new(config: &DecoderConfig, path: &Path, dtype: DType) -> Self {
        let expected = anatomy::expected(config);
        Self {
            path: path.to_owned(),
            names: expected.iter().map(|tensor| tensor.name.clone()).collect(),
            shapes: expected.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect(),
            dtype,
            storage: Storage::default(),
        }
    }

    /// The same with matrices that are kept as `storage` would keep those of a file in [`STORED`].
    #[must_use]
    pub fn stored(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    fn shape_of(&self, name: &str) -> Result<&[usize]> {
        self.shape(name).ok_or_else(|| Error::MissingTensor {
            model: self.path.clone(),
            tensor: name.to_owned(),
            more: 0,
        })
    }
}

impl WeightSource for RandomWeights {
    fn path(&self) -> &Path {
        &self.path
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    fn stored_bytes(&self, name: &str) -> u64 {
        let elements = self.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
        (elements * self.dtype.size_in_bytes()) as u64
    }

    fn matrix(&self, name: &str, device: &Device) -> Result<Weight> {
        let shape = self.shape_of(name)?;
        // The variance keeps activations as they are from layer to layer.
        let width = (12.0 / shape.last().copied().unwrap_or(1) as f64).sqrt();
        let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        let mut numbers = vec![0.0_f32; shape.iter().product()];
        numbers.par_chunks_mut(BLOCK).enumerate().for_each(|(block, numbers)| {
            for (i, number) in numbers.iter_mut().enumerate() {
                *number = ((uniform(seed, block as u64, i as u64) - 0.5) * width) as f32;
            }
        });
        let numbers = Tensor::from_vec(numbers, shape, &Device::Cpu)?;
        let stored = Encoding::Plain(STORED);
        if let Some(narrow) = self.storage.narrow(stored, shape, self.dtype, device) {
            return Ok(Weight::Narrow(numbers.to_dtype(narrow)?));
        }
        Ok(Weight::Dense(numbers.to_dtype(self.dtype)?.to_device(device)?))
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        let shape = self.shape_of(name)?;
        let is_bias = name.rsplit('.').next() == Some("bias");
        let number = if is_bias { 0.0_f32 } else { 1.0 };
        Ok(Tensor::full(number, shape, device)?.to_dtype(self.dtype)?)
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        Ok(name == other)
    }
}
