//! Where a decoder's tensors come from.
//!
//! The decoder asks a [`WeightSource`] for tensors by name, and never a file. Two names may get one
//! tensor: layers that come from the same bytes then share their memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use checkpoint::gguf::GgmlType;
use checkpoint::gguf::architecture::{Change, gguf_row};
use checkpoint::gguf::names::{self, Stored};
use checkpoint::{Checkpoint, Dtype, Encoding};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::numbers;
use crate::quantised::{self, Blocks, QuantisedMatrix, Quantize};
use crate::weight::Weight;

/// Tensors by name, in Hugging Face's form.
pub trait WeightSource: Sync {
    /// What errors call the model.
    fn path(&self) -> &Path;

    /// The type of the arithmetic.
    fn dtype(&self) -> DType;

    /// Where the tensors go.
    fn device(&self) -> &Device;

    /// The names of all tensors, in the order of the files.
    fn names(&self) -> Vec<&str>;

    /// The shape of a tensor; `None` where there is none of this name.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// The bytes of a tensor as it is stored; 0 where there is none of this name.
    fn stored_bytes(&self, name: &str) -> u64;

    /// A matrix to multiply by.
    fn matrix(&self, name: &str) -> Result<Weight>;

    /// A norm's weight or a bias, in the type of the arithmetic.
    fn vector(&self, name: &str) -> Result<Tensor>;

    /// Whether two tensors are the same numbers, stored in the same way.
    fn are_equal(&self, name: &str, other: &str) -> Result<bool>;

    /// What a user should hear of the way from the files to the tensors.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What becomes of matrices on their way from the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// Numbers of the type of the arithmetic; blocks of a GGUF file are decoded.
    #[default]
    Dense,
    /// Blocks of a GGUF file stay blocks, and numbers become numbers of the type of the arithmetic.
    AsStored,
    /// Numbers are quantised; blocks of a GGUF file stay what they are.
    Quantize(Quantize),
}

/// The tensors of a checkpoint's safetensors or GGUF files, mapped into memory.
#[derive(Debug)]
pub struct MappedWeights {
    checkpoint: Arc<Checkpoint>,
    files: Vec<Arc<Mmap>>,
    dtype: DType,
    device: Device,
    storage: Storage,
}

impl MappedWeights {
    /// Maps the files of `checkpoint`; tensors will be of `dtype`, on `device`.
    pub fn open(checkpoint: Arc<Checkpoint>, dtype: DType, device: &Device) -> Result<Self> {
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
            files.push(Arc::new(map));
        }
        let storage = Storage::default();
        Ok(Self { checkpoint, files, dtype, device: device.clone(), storage })
    }

    /// The same with matrices that are stored as `storage` says.
    #[must_use]
    pub fn stored(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
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

    /// A tensor in the type of the arithmetic: its bytes are read once, and converted as they are.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let unsupported = || Error::Encoding { tensor: name.to_owned(), encoding: entry.encoding };
        let stored = match entry.encoding {
            Encoding::Plain(stored) => stored,
            Encoding::Blocks(ty) => {
                let blocks = self.blocks(entry, ty)?;
                return Ok(quantised::dequantised(&blocks, self.dtype, &self.device)?);
            }
        };
        let bytes = self.bytes(entry)?;
        let shape = entry.shape.as_slice();
        let tensor = match (stored, self.dtype) {
            (Dtype::BF16, DType::BF16) => {
                Tensor::from_vec(numbers::bf16(bytes), shape, &self.device)?
            }
            (Dtype::F16, DType::F16) => Tensor::from_vec(numbers::f16(bytes), shape, &self.device)?,
            _ => {
                let widened = numbers::widen(stored, bytes).ok_or_else(unsupported)?;
                Tensor::from_vec(widened, shape, &self.device)?.to_dtype(self.dtype)?
            }
        };
        let Some(head_dim) = self.pairs(entry) else { return Ok(tensor) };
        let rows = (0..shape[0]).map(|row| gguf_row(row, head_dim) as u32).collect::<Vec<_>>();
        Ok(tensor.index_select(&Tensor::new(rows, &self.device)?, 0)?)
    }

    /// A matrix of blocks, with its rows in Hugging Face's order.
    fn blocks(&self, entry: &checkpoint::Tensor, ty: GgmlType) -> Result<Blocks> {
        let encoding = entry.encoding;
        let unsupported = || Error::Encoding { tensor: entry.name.clone(), encoding };
        let &[outputs, inputs] = entry.shape.as_slice() else { return Err(unsupported()) };
        if !dus::arithmetic::blocks::can_decode(ty) {
            return Err(unsupported());
        }
        self.bytes(entry)?;
        let range = entry.range.start as usize..entry.range.end as usize;
        let blocks = Blocks::mapped(ty, (outputs, inputs), &self.files[entry.file], range);
        Ok(match self.pairs(entry) {
            // A row is whole blocks: none need be decoded.
            Some(head_dim) => blocks.reordered(|row| gguf_row(row, head_dim)),
            None => blocks,
        })
    }

    /// How a GGUF file stores a tensor; `None` in a folder.
    fn in_gguf(&self, name: &str) -> Option<Stored> {
        names::in_gguf(self.checkpoint.gguf()?.architecture, name)
    }

    /// The rows of a head, where the file has them pair by pair.
    fn pairs(&self, entry: &checkpoint::Tensor) -> Option<usize> {
        let Change::Interleaved(heads) = self.in_gguf(&entry.name)?.change else { return None };
        let heads = self.checkpoint.config().get(heads.key())?.as_u64()? as usize;
        entry.shape.first()?.checked_div(heads)
    }

    /// A matrix that was read as numbers, in blocks of `ty`.
    fn quantised(&self, name: &str, ty: GgmlType) -> Result<Weight> {
        let numbers = self.tensor(name)?.to_dtype(DType::F32)?;
        let shape = numbers.dims2()?;
        let numbers = numbers.flatten_all()?.to_vec1()?;
        let blocks = quantised::encode(&numbers, shape, ty)
            .map_err(|source| Error::Quantize { tensor: name.to_owned(), source })?;
        self.of_blocks(name, blocks)
    }

    fn of_blocks(&self, name: &str, blocks: Blocks) -> Result<Weight> {
        let encoding = Encoding::Blocks(blocks.ty());
        let matrix = QuantisedMatrix::new(blocks, self.dtype, &self.device)?;
        matrix
            .map(Weight::Quantised)
            .ok_or_else(|| Error::Encoding { tensor: name.to_owned(), encoding })
    }

    /// What a matrix is quantised to, if it is.
    fn becomes(&self, entry: &checkpoint::Tensor) -> Option<GgmlType> {
        let Storage::Quantize(quantize) = self.storage else { return None };
        let is_plain = matches!(entry.encoding, Encoding::Plain(_));
        let &[_, inputs] = entry.shape.as_slice() else { return None };
        quantize.of_row(inputs).filter(|_| is_plain)
    }
}

impl WeightSource for MappedWeights {
    fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn names(&self) -> Vec<&str> {
        let tensors = self.checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
        // A GGUF file has settings among its tensors; they are in the config.
        let is_setting = |name: &&str| self.in_gguf(name).is_some_and(|stored| stored.only_here);
        tensors.filter(|name| !is_setting(name)).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.checkpoint.tensor(name).map(|tensor| tensor.shape.as_slice())
    }

    fn stored_bytes(&self, name: &str) -> u64 {
        self.checkpoint.tensor(name).map_or(0, checkpoint::Tensor::bytes)
    }

    fn matrix(&self, name: &str) -> Result<Weight> {
        let entry = self.entry(name)?;
        match entry.encoding {
            Encoding::Blocks(ty) if self.storage != Storage::Dense => {
                self.of_blocks(name, self.blocks(entry, ty)?)
            }
            _ => match self.becomes(entry) {
                Some(ty) => self.quantised(name, ty),
                None => self.tensor(name).map(Weight::Dense),
            },
        }
    }

    fn vector(&self, name: &str) -> Result<Tensor> {
        self.tensor(name)
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        let (one, two) = (self.entry(name)?, self.entry(other)?);
        Ok(one.encoding == two.encoding
            && one.shape == two.shape
            && self.bytes(one)? == self.bytes(two)?)
    }

    fn notes(&self) -> Vec<String> {
        let Storage::Quantize(quantize) = self.storage else { return Vec::new() };
        let plain = self.checkpoint.tensors().iter().filter(|tensor| {
            tensor.shape.len() == 2 && matches!(tensor.encoding, Encoding::Plain(_))
        });
        let (mut matrices, mut as_q8_0, mut left) = (0, 0, 0);
        for tensor in plain {
            matrices += 1;
            match self.becomes(tensor) {
                Some(GgmlType::Q8_0) if quantize != Quantize::Q8_0 => as_q8_0 += 1,
                Some(_) => {}
                None => left += 1,
            }
        }
        let mut notes = Vec::new();
        if matrices == 0 {
            notes.push(format!(
                "no matrix is quantised to {}: all are quantised already",
                quantize.name()
            ));
        }
        if as_q8_0 > 0 {
            notes.push(format!(
                "{as_q8_0} of {matrices} matrices are quantised to q8_0: their rows are no whole blocks of 256"
            ));
        }
        if left > 0 {
            notes.push(format!(
                "{left} of {matrices} matrices stay as they are: their rows are no whole blocks of 32"
            ));
        }
        notes
    }
}
