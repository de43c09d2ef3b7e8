//! A tensor as it is stored, made ready for the arithmetic.

use candle_core::{DType, Device, Tensor};
use checkpoint::gguf::architecture::{Architecture, Change, gguf_row};
use checkpoint::gguf::{GgmlType, names};
use checkpoint::json::Object;
use checkpoint::{Dtype, Encoding};

use crate::error::{Error, Result};
use crate::mapped::Bytes;
use crate::numbers;
use crate::quantised::{self, Blocks, QuantisedMatrix, Quantize};
use crate::weight::Weight;

/// What becomes of matrices on their way from the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// Numbers of the type of the arithmetic; blocks of a GGUF file are decoded.
    #[default]
    Dense,
    /// Blocks of a GGUF file stay blocks, and numbers of 16 bits stay so where the arithmetic is f32 on the
    /// CPU; others become numbers of the type of the arithmetic.
    AsStored,
    /// Numbers are quantised; blocks of a GGUF file stay what they are.
    Quantize(Quantize),
}

impl Storage {
    /// What a tensor of this encoding and shape is quantised to, if it is.
    fn quantises(self, encoding: Encoding, shape: &[usize]) -> Option<GgmlType> {
        let (Self::Quantize(quantize), &[_, inputs]) = (self, shape) else { return None };
        let is_plain = matches!(encoding, Encoding::Plain(_));
        quantize.of_row(inputs).filter(|_| is_plain)
    }

    /// The blocks that a tensor of this encoding and shape is kept in, if it is.
    pub(crate) fn blocks(self, encoding: Encoding, shape: &[usize]) -> Option<GgmlType> {
        match encoding {
            Encoding::Blocks(ty) => (self != Self::Dense && shape.len() == 2).then_some(ty),
            Encoding::Plain(_) => self.quantises(encoding, shape),
        }
    }

    /// The type of 16 bits that a tensor of this encoding and shape is kept in beside arithmetic of type
    /// `dtype` on `device`, if it is.
    pub(crate) fn narrow(
        self,
        encoding: Encoding,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Option<DType> {
        let is_kept = self == Self::AsStored && shape.len() == 2;
        if !is_kept || dtype != DType::F32 || !device.is_cpu() {
            return None;
        }
        match encoding {
            Encoding::Plain(Dtype::F16) => Some(DType::F16),
            Encoding::Plain(Dtype::BF16) => Some(DType::BF16),
            _ => None,
        }
    }

    /// The bytes that a tensor of this encoding and shape takes in memory, beside arithmetic of type
    /// `dtype` on `device`.
    pub(crate) fn bytes(
        self,
        encoding: Encoding,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> u64 {
        let blocks = self.blocks(encoding, shape);
        if let Some(bytes) = blocks.and_then(|ty| quantised::num_bytes(ty, shape, device)) {
            return bytes;
        }
        let dtype = self.narrow(encoding, shape, dtype, device).unwrap_or(dtype);
        (shape.iter().product::<usize>() * dtype.size_in_bytes()) as u64
    }

    /// What a user should hear of `tensors`, by encoding and shape.
    pub(crate) fn notes<'a>(
        self,
        tensors: impl Iterator<Item = (Encoding, &'a [usize])>,
    ) -> Vec<String> {
        let Self::Quantize(quantize) = self else { return Vec::new() };
        let (mut matrices, mut as_q8_0, mut left) = (0, 0, 0);
        let is_matrix =
            |encoding, shape: &[usize]| shape.len() == 2 && matches!(encoding, Encoding::Plain(_));
        for (encoding, shape) in tensors.filter(|&(encoding, shape)| is_matrix(encoding, shape)) {
            matrices += 1;
            match self.quantises(encoding, shape) {
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
                "{as_q8_0} of {matrices} matrices are quantised to q8_0: their rows are no whole \
                 blocks of 256"
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

/// Whether the tensor called `name` is a setting that only GGUF has as a tensor; it is in the config.
pub(crate) fn is_setting(architecture: &Architecture, name: &str) -> bool {
    names::in_gguf(architecture, name).is_some_and(|stored| stored.only_here)
}

/// The rows of a head of the tensor called `name`, where a GGUF file has them pair by pair.
pub(crate) fn pairs(
    architecture: &Architecture,
    config: &Object,
    name: &str,
    shape: &[usize],
) -> Option<usize> {
    let Change::Interleaved(heads) = names::in_gguf(architecture, name)?.change else {
        return None;
    };
    let heads = config.get(heads.key())?.as_u64()? as usize;
    shape.first()?.checked_div(heads)
}

/// A tensor's bytes and what they mean.
#[derive(Debug, Clone)]
pub struct Stored<'a> {
    /// What errors call it.
    pub(crate) name: &'a str,
    pub(crate) encoding: Encoding,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: Bytes,
    /// The rows of a head, where they lie pair by pair.
    pub(crate) pairs: Option<usize>,
}

impl Stored<'_> {
    /// Whether `other` is the same numbers, stored in the same way.
    pub(crate) fn is_equal(&self, other: &Self) -> bool {
        self.encoding == other.encoding
            && self.shape == other.shape
            && self.bytes.as_slice() == other.bytes.as_slice()
    }

    /// It as a matrix to multiply by.
    pub(crate) fn matrix(&self, storage: Storage, dtype: DType, device: &Device) -> Result<Weight> {
        if let Some(blocks) = self.as_blocks(storage)? {
            return self.of_blocks(blocks, dtype, device);
        }
        if let Some(narrow) = storage.narrow(self.encoding, self.shape, dtype, device) {
            return Ok(Weight::Narrow(self.tensor(narrow, device)?));
        }
        Ok(Weight::Dense(self.tensor(dtype, device)?))
    }

    /// The blocks that it is kept in or quantised to, if it is.
    pub(crate) fn as_blocks(&self, storage: Storage) -> Result<Option<Blocks>> {
        if let Some(ty) = storage.quantises(self.encoding, self.shape) {
            let numbers = self.tensor(DType::F32, &Device::Cpu)?;
            let (shape, numbers) = (numbers.dims2()?, numbers.flatten_all()?.to_vec1::<f32>()?);
            if !quantised::is_finite(&numbers) {
                return Err(Error::QuantizeNotFinite { tensor: self.name.to_owned() });
            }
            let blocks = quantised::encode(&numbers, shape, ty)
                .map_err(|source| Error::Quantize { tensor: self.name.to_owned(), source })?;
            return Ok(Some(blocks));
        }
        match self.encoding {
            Encoding::Blocks(ty) if storage != Storage::Dense => self.blocks(ty).map(Some),
            _ => Ok(None),
        }
    }

    /// It in the type `dtype` on `device`: the bytes are read once, and converted as they are, before
    /// they go there.
    pub(crate) fn tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let (shape, bytes) = (self.shape, self.bytes.as_slice());
        let stored = match self.encoding {
            Encoding::Plain(stored) => stored,
            Encoding::Blocks(ty) => {
                return Ok(quantised::dequantised(&self.blocks(ty)?, dtype, device)?);
            }
        };
        let is_as_stored = matches!(
            (stored, dtype),
            (Dtype::BF16, DType::BF16) | (Dtype::F16, DType::F16) | (Dtype::F32, DType::F32)
        );
        // A GPU's driver copies out of the file's pages, which another copy here would only delay.
        let tensor = if is_as_stored && !device.is_cpu() {
            Tensor::from_raw_buffer(bytes, dtype, shape, device)?
        } else {
            match (stored, dtype) {
                (Dtype::BF16, DType::BF16) => {
                    Tensor::from_vec(numbers::bf16(bytes), shape, device)?
                }
                (Dtype::F16, DType::F16) => Tensor::from_vec(numbers::f16(bytes), shape, device)?,
                _ => {
                    let widened =
                        numbers::widen(stored, bytes).ok_or_else(|| self.unsupported())?;
                    rounded(widened, shape, dtype, device)?
                }
            }
        };
        let Some(head_dim) = self.pairs else { return Ok(tensor) };
        let rows = (0..shape[0]).map(|row| gguf_row(row, head_dim) as u32).collect::<Vec<_>>();
        Ok(tensor.index_select(&Tensor::new(rows, device)?, 0)?)
    }

    /// It as a matrix of blocks, with its rows in Hugging Face's order.
    fn blocks(&self, ty: GgmlType) -> Result<Blocks> {
        let &[outputs, inputs] = self.shape else { return Err(self.unsupported()) };
        if !dus::arithmetic::blocks::can_decode(ty) {
            return Err(self.unsupported());
        }
        let blocks = Blocks::new(ty, (outputs, inputs), self.bytes.clone());
        Ok(match self.pairs {
            // A row is whole blocks: none need be decoded.
            Some(head_dim) => blocks.reordered(|row| gguf_row(row, head_dim)),
            None => blocks,
        })
    }

    fn of_blocks(&self, blocks: Blocks, dtype: DType, device: &Device) -> Result<Weight> {
        // Products on a GPU round activations to 8 bits, among which there is no NaN: it would be lost
        // on its way to the logits.
        if !device.is_cpu() && !blocks.are_finite() {
            return Err(Error::NotFiniteWeights { tensor: self.name.to_owned() });
        }
        let encoding = Encoding::Blocks(blocks.ty());
        let matrix = QuantisedMatrix::new(blocks, dtype, device)?;
        let unsupported = || Error::Encoding { tensor: self.name.to_owned(), encoding };
        matrix.map(Weight::Quantised).ok_or_else(unsupported)
    }

    fn unsupported(&self) -> Error {
        Error::Encoding { tensor: self.name.to_owned(), encoding: self.encoding }
    }
}

/// Numbers rounded to `dtype` on all cores, before they go to `device`.
fn rounded(
    numbers: Vec<f32>,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> candle_core::Result<Tensor> {
    match dtype {
        DType::BF16 => Tensor::from_vec(numbers::round_bf16(&numbers), shape, device),
        DType::F16 => Tensor::from_vec(numbers::round_f16(&numbers), shape, device),
        _ => Tensor::from_vec(numbers, shape, device)?.to_dtype(dtype),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const STORAGES: [Storage; 4] = [
        Storage::Dense,
        Storage::AsStored,
        Storage::Quantize(Quantize::Q8_0),
        Storage::Quantize(Quantize::Q4K),
    ];

    /// What is planned for a matrix on the CPU is what it takes there.
    #[track_caller]
    fn check(encoding: Encoding, shape: &[usize], pairs: Option<usize>) {
        let num_bytes = encoding.num_bytes(shape).unwrap() as usize;
        let bytes = Bytes::Owned(Arc::new(vec![0; num_bytes]));
        let stored = Stored { name: "a", encoding, shape, bytes, pairs };
        for storage in STORAGES {
            for dtype in [DType::F32, DType::BF16] {
                let planned = storage.bytes(encoding, shape, dtype, &Device::Cpu);
                let held = stored.matrix(storage, dtype, &Device::Cpu).unwrap().bytes();
                assert_eq!(planned, held, "{encoding} of {shape:?} in {storage:?}, {dtype:?}");
            }
        }
    }

    #[test]
    fn matrices_take_what_is_planned_for_them() {
        for stored in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for shape in [[40, 512], [5, 96], [5, 33]] {
                check(Encoding::Plain(stored), &shape, None);
            }
        }
        for &ty in GgmlType::ALL.iter().filter(|&&ty| dus::arithmetic::blocks::can_decode(ty)) {
            // Of a tile that is not filled up, too.
            for outputs in [32, 40] {
                check(Encoding::Blocks(ty), &[outputs, 512], None);
                check(Encoding::Blocks(ty), &[outputs, 512], Some(8));
            }
        }
    }
}
