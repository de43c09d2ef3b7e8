//! Where a decoder's tensors come from.
//!
//! The decoder asks a [`WeightSource`] for tensors by name, and never a file. Two names may get one
//! tensor: layers that come from the same bytes then share their memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use checkpoint::{Checkpoint, Dtype, Encoding};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::numbers;
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
        let mut files = Vec::new();
        for file in checkpoint.files() {
            let io = |source| Error::Io { path: file.path.clone(), doing: "read", source };
            let opened = File::open(&file.path).map_err(io)?;
            #[expect(unsafe_code, reason = "weights are read from the page cache, not copied")]
            // SAFETY: the map is only read, as bytes, which are valid whatever they are. Another
            // process that shortens the file while it is mapped ends this one with SIGBUS, as it
            // does all readers of mapped weights.
            let map = unsafe { Mmap::map(&opened) }.map_err(io)?;
            // All of it will be read, and soon. Where that cannot be said, it comes page by page.
            #[cfg(unix)]
            let _ = map.advise(memmap2::Advice::WillNeed);
            files.push(map);
        }
        Ok(Self { checkpoint, files, dtype })
    }

    /// The stored bytes of a tensor.
    fn bytes(&self, tensor: &checkpoint::Tensor) -> Result<&[u8]> {
        let (start, end) = (tensor.range.start as usize, tensor.range.end as usize);
        self.files[tensor.file].get(start..end).ok_or_else(|| {
            // The header was checked against the file's length; it has been cut since.
            let path = self.checkpoint.files()[tensor.file].path.clone();
            let source = std::io::ErrorKind::UnexpectedEof.into();
            Error::Io { path, doing: "read", source }
        })
    }

    fn entry(&self, name: &str) -> Result<&checkpoint::Tensor> {
        self.checkpoint.tensor(name).ok_or_else(|| Error::MissingTensor {
            model: self.path().to_owned(),
            tensor: name.to_owned(),
            more: 0,
        })
    }

    /// A tensor in the type of the arithmetic: its bytes are read once, and converted as they are,
    /// before they go to `device`.
    fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let unsupported = || Error::Encoding { tensor: name.to_owned(), encoding: entry.encoding };
        let bytes = self.bytes(entry)?;
        let Encoding::Plain(stored) = entry.encoding else { return Err(unsupported()) };
        let shape = entry.shape.as_slice();
        let as_stored = match stored {
            Dtype::BF16 => Some(DType::BF16),
            Dtype::F16 => Some(DType::F16),
            Dtype::F32 => Some(DType::F32),
            _ => None,
        };
        // A GPU's driver copies out of the file's pages, which another copy here would only delay.
        if as_stored == Some(self.dtype) && !device.is_cpu() {
            return Ok(Tensor::from_raw_buffer(bytes, self.dtype, shape, device)?);
        }
        let tensor = match (stored, self.dtype) {
            (Dtype::BF16, DType::BF16) => Tensor::from_vec(numbers::bf16(bytes), shape, device)?,
            (Dtype::F16, DType::F16) => Tensor::from_vec(numbers::f16(bytes), shape, device)?,
            _ => {
                let widened = numbers::widen(stored, bytes).ok_or_else(unsupported)?;
                let tensor =
                    Tensor::from_vec(widened, shape, &Device::Cpu)?.to_dtype(self.dtype)?;
                tensor.to_device(device)?
            }
        };
        Ok(tensor)
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
        self.tensor(name, device).map(Weight::Dense)
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.tensor(name, device)
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        let (one, two) = (self.entry(name)?, self.entry(other)?);
        Ok(one.encoding == two.encoding
            && one.shape == two.shape
            && self.bytes(one)? == self.bytes(two)?)
    }
}
