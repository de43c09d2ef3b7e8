//! Blocks of a matrix that comes as numbers.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};
use checkpoint::gguf::GgmlType;
use dus::arithmetic::blocks::encode_q8_0;
use rayon::prelude::*;

use super::blocks::Blocks;

/// What a model's matrices are quantised to as it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// 8 bits, and a scale for 32 elements.
    Q8_0,
    /// 4 bits, and a scale and a minimum for 32 elements; `Q8_0` where rows are not whole blocks of 256.
    Q4K,
}

impl Quantize {
    /// The type of a matrix whose rows have so many elements; `None` where they are no whole blocks.
    #[must_use]
    pub fn of_row(self, elements: usize) -> Option<GgmlType> {
        let types: &[GgmlType] = match self {
            Self::Q8_0 => &[GgmlType::Q8_0],
            Self::Q4K => &[GgmlType::Q4_K, GgmlType::Q8_0],
        };
        types.iter().copied().find(|ty| elements.is_multiple_of(ty.block_elements()))
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }
}

/// Whether all `numbers` are finite, as they must be to be quantised.
pub(crate) fn is_finite(numbers: &[f32]) -> bool {
    numbers.par_chunks(1 << 14).all(|numbers| numbers.iter().all(|x| x.is_finite()))
}

/// Quantises `numbers`, (outputs, inputs), all finite, to blocks of `ty`; an error names no tensor.
pub(crate) fn encode(numbers: &[f32], shape: (usize, usize), ty: GgmlType) -> Result<Blocks> {
    /// Rows that a thread quantises at once.
    const ROWS: usize = 64;
    let row_bytes = shape.1 / ty.block_elements() * ty.block_bytes();
    let mut bytes = vec![0; shape.0 * row_bytes];
    let pieces = bytes.par_chunks_mut(ROWS * row_bytes).zip(numbers.par_chunks(ROWS * shape.1));
    pieces.try_for_each(|(bytes, numbers)| {
        if ty == GgmlType::Q8_0 {
            // What overflows a scale is infinite, and is found in the logits.
            let _ = encode_q8_0(numbers, bytes);
        } else {
            let rows =
                Tensor::from_slice(numbers, (numbers.len() / shape.1, shape.1), &Device::Cpu)?;
            bytes.copy_from_slice(&QTensor::quantize(&rows, GgmlDType::Q4K)?.data()?);
        }
        Result::Ok(())
    })?;
    Ok(Blocks::owned(ty, shape, bytes))
}
