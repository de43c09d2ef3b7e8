//! A quantised matrix as a form of weight, on any device.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Result, Shape, Tensor};
use checkpoint::gguf::GgmlType;
use dus::arithmetic::blocks;
use rayon::prelude::*;

use super::blocks::Blocks;
use super::forms::{Form, with_form};
use super::product::{by_rows, by_tiles};
use super::tiles::Tiles;
use crate::dot::contiguous;
use crate::instructions::Instructions;

/// A matrix of (outputs, inputs) in quantised blocks. A clone is the same memory.
///
/// On the CPU any type that `dus` decodes is multiplied by: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`,
/// `Q4_K`, `Q5_K` and `Q6_K` in tiles, with activations of 8 bits; the others row by decoded row.
/// Other devices have what candle has.
#[derive(Debug, Clone)]
pub struct QuantisedMatrix {
    /// The type of the activations that come and go.
    dtype: DType,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    /// On the CPU, by tiles where the type has them.
    Cpu { blocks: Blocks, tiles: Option<Arc<Tiles>> },
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
            let tiles = with_form!(blocks.ty(), tiles(&blocks)).map(Arc::new);
            return Ok(Some(Self { dtype, storage: Storage::Cpu { blocks, tiles } }));
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
            Storage::Cpu { blocks, tiles } => x.apply_op1_no_bwd(&Product { blocks, tiles })?,
            Storage::Device { product, .. } => product.forward(&x)?,
        };
        product.to_dtype(self.dtype)
    }

    /// The rows with the numbers in `indices`, (n) to (n, inputs).
    pub(crate) fn rows(&self, indices: &Tensor) -> Result<Tensor> {
        let rows = match &self.storage {
            Storage::Cpu { blocks, .. } => {
                let (indices, inputs) = (indices.to_vec1::<u32>()?, blocks.inputs());
                let mut rows = vec![0.0; indices.len() * inputs];
                for (row, &index) in rows.chunks_exact_mut(inputs).zip(&indices) {
                    blocks.decode_row(index as usize, row);
                }
                Tensor::from_vec(rows, (indices.len(), inputs), &Device::Cpu)?
            }
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
            Storage::Cpu { blocks, tiles } => {
                tiles.as_ref().map_or(blocks.bytes().len(), |tiles| tiles.bytes()) as u64
            }
            Storage::Device { blocks, .. } => blocks.storage_size_in_bytes() as u64,
        }
    }
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
struct Product<'a> {
    blocks: &'a Blocks,
    tiles: &'a Option<Arc<Tiles>>,
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "quantised-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, _) = layout.shape().dims2()?;
        let x = contiguous(x, layout)?;
        let product = match self.tiles {
            Some(tiles) => by_tiles(self.blocks.ty(), tiles, x, Instructions::best()),
            None => by_rows(self.blocks, x),
        };
        Ok((CpuStorage::F32(product), Shape::from((n, self.blocks.outputs()))))
    }
}
