//! Weights that a model of some config might have: its geometry without its files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, DeviceLocation, Tensor};
use checkpoint::{Dtype, Encoding};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::anatomy;
use crate::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::mapped::Bytes;
use crate::random::uniform;
use crate::source::{Storage, WeightSource};
use crate::stored::Stored;
use crate::weight::Weight;

/// Numbers that a thread makes at once.
const BLOCK: usize = 1 << 16;

/// The tensors that a config promises, with random numbers that follow from their names.
#[derive(Debug)]
pub struct RandomWeights {
    path: PathBuf,
    names: Vec<String>,
    shapes: HashMap<String, Vec<usize>>,
    stored: Dtype,
    dtype: DType,
    storage: Storage,
    /// The numbers of tensors of which those with one number are one.
    shared: HashMap<String, usize>,
    known: Mutex<HashMap<(usize, DeviceLocation), Weight>>,
}

impl RandomWeights {
    /// The tensors of the decoder that `config` describes, which errors call `path`: made as if they were
    /// stored in the type `stored` (16 or 32 bits), for arithmetic in `dtype`.
    #[must_use]
    pub fn new(config: &DecoderConfig, path: &Path, stored: Dtype, dtype: DType) -> Self {
        let expected = anatomy::expected(config);
        Self {
            path: path.to_owned(),
            names: expected.iter().map(|tensor| tensor.name.clone()).collect(),
            shapes: expected.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect(),
            stored,
            dtype,
            storage: Storage::default(),
            shared: HashMap::new(),
            known: Mutex::default(),
        }
    }

    /// The same with matrices that are stored as `storage` says.
    #[must_use]
    pub fn stored(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// The same with tensors that are one where their numbers are the same.
    #[must_use]
    pub fn shared(mut self, numbers: impl Iterator<Item = (String, usize)>) -> Self {
        self.shared = numbers.collect();
        self
    }

    fn shape_of(&self, name: &str) -> Result<&[usize]> {
        self.shape(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        Error::MissingTensor { model: self.path.clone(), tensor: name.to_owned(), more: 0 }
    }

    fn entry<'a>(&'a self, name: &'a str) -> Result<Stored<'a>> {
        let shape = self.shape_of(name)?;
        // The variance keeps activations as they are from layer to layer.
        let width = (12.0 / shape.last().copied().unwrap_or(1) as f64).sqrt();
        let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        let bytes = bytes(self.stored, shape.iter().product(), |block, i| {
            ((uniform(seed, block, i) - 0.5) * width) as f32
        });
        let encoding = Encoding::Plain(self.stored);
        let bytes = Bytes::Owned(Arc::new(bytes));
        Ok(Stored { name, encoding, shape, bytes, pairs: None })
    }

    fn make(&self, name: &str, device: &Device) -> Result<Weight> {
        self.entry(name)?.matrix(self.storage, self.dtype, device)
    }
}

/// `n` numbers as they are stored; `number` gives each by its block and its place there.
fn bytes(stored: Dtype, n: usize, number: impl Fn(u64, u64) -> f32 + Sync) -> Vec<u8> {
    let size = stored.bitsize() / 8;
    let mut bytes = vec![0; n * size];
    bytes.par_chunks_mut(BLOCK * size).enumerate().for_each(|(block, bytes)| {
        for (i, bytes) in bytes.chunks_exact_mut(size).enumerate() {
            let number = number(block as u64, i as u64);
            match stored {
                Dtype::BF16 => bytes.copy_from_slice(&bf16::from_f32(number).to_le_bytes()),
                Dtype::F16 => bytes.copy_from_slice(&f16::from_f32(number).to_le_bytes()),
                Dtype::F32 => bytes.copy_from_slice(&number.to_le_bytes()),
                // Others are refused as what they are, or are zeros.
                _ => {}
            }
        }
    });
    bytes
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

    /// 0 also where another tensor's numbers are shared.
    fn stored_bytes(&self, name: &str) -> u64 {
        let number = self.shared.get(name);
        let first = || self.names.iter().find(|first| self.shared.get(*first) == number);
        if number.is_some() && first().is_none_or(|first| first != name) {
            return 0;
        }
        let elements = self.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
        (elements * self.stored.bitsize() / 8) as u64
    }

    fn matrix(&self, name: &str, device: &Device) -> Result<Weight> {
        let Some(&number) = self.shared.get(name) else { return self.make(name, device) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (number, device.location());
        if let Some(known) = known.get(&key) {
            return Ok(known.clone());
        }
        let new = self.make(name, device)?;
        known.insert(key, new.clone());
        Ok(new)
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        let shape = self.shape_of(name)?;
        let is_bias = name.rsplit('.').next() == Some("bias");
        let number = if is_bias { 0.0_f32 } else { 1.0 };
        Ok(Tensor::full(number, shape, device)?.to_dtype(self.dtype)?)
    }

    fn encoding(&self, name: &str) -> Option<Encoding> {
        self.shape(name).map(|_| Encoding::Plain(self.stored))
    }

    fn stored_as(&self, name: &str) -> Result<Stored<'_>> {
        let (name, _) = self.shapes.get_key_value(name).ok_or_else(|| self.missing(name))?;
        self.entry(name)
    }

    fn storage(&self) -> Storage {
        self.storage
    }

    fn same_as(&self, name: &str) -> Option<usize> {
        self.shared.get(name).copied()
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        Ok(name == other)
    }

    fn notes(&self) -> Vec<String> {
        let encoding = Encoding::Plain(self.stored);
        let shapes = self.names.iter().filter_map(|name| self.shape(name));
        self.storage.notes(shapes.map(|shape| (encoding, shape)))
    }
}
