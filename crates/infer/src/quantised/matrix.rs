//! A quantised matrix as a form of weight, on any device.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Result, Shape, Tensor};
use checkpoint::Encoding;
use checkpoint::gguf::GgmlType;
use dus::arithmetic::blocks;
use rayon::prelude::*;

use super::blocks::Blocks;
use super::forms::{Form, with_form};
use super::product::{by_rows, by_tiles};
use super::tiles::{self, Tiles};
use crate::dot::contiguous;
use crate::instructions::Instructions;

/// A matrix of (outputs, inputs) in quantised blocks. A clone is the same memory.
///
/// On the CPU any type that `dus` decodes is multiplied by: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`
/// and `Q2_K` to `Q6_K` in tiles, which are all that is kept, with activations of 8 bits; the others
/// row by decoded row.
/// Other devices have what candle has.
#[derive(Debug, Clone)]
pub struct QuantisedMatrix {
    /// The type of the activations that come and go.
    dtype: DType,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    /// On the CPU, of a type that has tiles.
    Tiles { ty: GgmlType, tiles: Arc<Tiles> },
    /// On the CPU, of another type.
    Blocks(Blocks),
    /// On another device.
    Device { blocks: Arc<QTensor>, product: QMatMul },
}

impl QuantisedMatrix {
    /// Puts `blocks` on `device`; activations are of `dtype`. `None` where its type is not multiplied
    /// by there.
    pub(crate) fn new(blocks: Blocks, dtype: DType, device: &Device) -> Result<Option<Self>> {
        if !blocks::can_decode(blocks.ty()) {
            return Ok(None);
        }
        if let Device::Cpu = device {
            let ty = blocks.ty();
            let storage = match with_form!(ty, tiles(&blocks)) {
                Some(tiles) => Storage::Tiles { ty, tiles: Arc::new(tiles) },
                None => Storage::Blocks(blocks),
            };
            return Ok(Some(Self { dtype, storage }));
        }
        let Some(ty) = of_candle(blocks.ty()) else { return Ok(None) };
        let storage = QStorage::from_data(Cow::Borrowed(blocks.bytes()), device, ty)?;
        let blocks = Arc::new(QTensor::new(storage, (blocks.outputs(), blocks.inputs()))?);
        let product = QMatMul::from_arc(Arc::clone(&blocks))?;
        Ok(Some(Self { dtype, storage: Storage::Device { blocks, product } }))
    }

    /// `x · Wᵀ`: (n, inputs) to (n, outputs).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let product = match &self.storage {
            Storage::Tiles { ty, tiles } => x.apply_op1_no_bwd(&Product::ByTiles(*ty, tiles))?,
            Storage::Blocks(blocks) => x.apply_op1_no_bwd(&Product::ByRows(blocks))?,
            Storage::Device { product, .. } => product.forward(&x)?,
        };
        product.to_dtype(self.dtype)
    }

    /// The rows with the numbers in `indices`, (n) to (n, inputs).
    pub(crate) fn rows(&self, indices: &Tensor) -> Result<Tensor> {
        let decoded = |inputs: usize, decode: &dyn Fn(usize, &mut [f32])| {
            let indices = indices.to_vec1::<u32>()?;
            let mut rows = vec![0.0; indices.len() * inputs];
            for (row, &index) in rows.chunks_exact_mut(inputs).zip(&indices) {
                decode(index as usize, row);
            }
            Tensor::from_vec(rows, (indices.len(), inputs), &Device::Cpu)
        };
        let rows = match &self.storage {
            Storage::Tiles { ty, tiles } => decoded(tiles.inputs, &|row, numbers| {
                with_form!(*ty, decode_row(tiles, row, numbers)).expect("a type that has tiles");
            })?,
            Storage::Blocks(blocks) => decoded(blocks.inputs(), &|row, numbers| {
                blocks.decode_row(row, numbers);
            })?,
            Storage::Device { blocks, .. } => blocks.embedding(indices)?,
        };
        rows.to_dtype(self.dtype)
    }

    /// Whether a product can be finite where activations are not: candle's on a GPU make 0 of NaN.
    pub(crate) fn loses_nan(&self) -> bool {
        matches!(self.storage, Storage::Device { .. })
    }

    /// The bytes that it takes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.storage {
            Storage::Tiles { tiles, .. } => tiles.bytes() as u64,
            Storage::Blocks(blocks) => blocks.bytes().len() as u64,
            Storage::Device { blocks, .. } => blocks.storage_size_in_bytes() as u64,
        }
    }
}

/// The bytes that a matrix of blocks of type `ty` takes in memory, on the CPU or on another device.
pub(crate) fn num_bytes(ty: GgmlType, shape: &[usize], device: &Device) -> Option<u64> {
    match *shape {
        [outputs, inputs] if device.is_cpu() => with_form!(ty, tile_bytes(outputs, inputs)),
        _ => None,
    }
    .or_else(|| Encoding::Blocks(ty).num_bytes(shape))
}

/// All numbers of `blocks`, whose type must be one that is decoded.
pub(crate) fn dequantised(blocks: &Blocks, dtype: DType, device: &Device) -> Result<Tensor> {
    let (outputs, inputs) = (blocks.outputs(), blocks.inputs());
    let mut numbers = vec![0.0_f32; outputs * inputs];
    let rows = numbers.par_chunks_exact_mut(inputs).enumerate().with_min_len(64);
    rows.for_each(|(row, numbers)| blocks.decode_row(row, numbers));
    Tensor::from_vec(numbers, (outputs, inputs), device)?.to_dtype(dtype)
}

fn tiles<F: Form>(blocks: &Blocks) -> Tiles {
    Tiles::new::<F>(blocks)
}

fn tile_bytes<F: Form>(outputs: usize, inputs: usize) -> u64 {
    tiles::num_bytes::<F>(outputs, inputs)
}

fn decode_row<F: Form>(tiles: &Tiles, row: usize, numbers: &mut [f32]) {
    tiles.decode_row::<F>(row, numbers);
}

/// candle's name of a type that it multiplies by.
fn of_candle(ty: GgmlType) -> Option<GgmlDType> {
    Some(match ty {
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2_K => GgmlDType::Q2K,
        GgmlType::Q3_K => GgmlDType::Q3K,
        GgmlType::Q4_K => GgmlDType::Q4K,
        GgmlType::Q5_K => GgmlDType::Q5K,
        GgmlType::Q6_K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// The product on the CPU, as an operation of candle's.
enum Product<'a> {
    ByTiles(GgmlType, &'a Tiles),
    ByRows(&'a Blocks),
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "quantised-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, _) = layout.shape().dims2()?;
        let x = contiguous(x, layout)?;
        let (product, outputs) = match *self {
            Self::ByTiles(ty, tiles) => {
                (by_tiles(ty, tiles, x, Instructions::best()), tiles.outputs)
            }
            Self::ByRows(blocks) => (by_rows(blocks, x), blocks.outputs()),
        };
        Ok((CpuStorage::F32(product), Shape::from((n, outputs))))
    }
}
