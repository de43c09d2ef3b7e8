//! Products of many rows by a matrix of 16 bits, on the CPU.
//!
//! The matrix is widened some rows at a time: never is all of it in memory in 32 bits. Each number of the
//! result is, bit for bit, what candle's product of the whole matrix in f32 gives.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::dot::contiguous;
use crate::numbers::Number;

/// Rows of the matrix that a thread widens at once; the last ones may be nearly twice as many.
///
/// Whole tiles of gemm's are 24 or 48 rows. It sums in another order where neither side has more than 64,
/// which must be so for all of the matrix or for no part of it.
const BLOCK: usize = 96;

/// `x · Wᵀ`: (n, inputs) in f32 and (outputs, inputs) in f16 or bf16 to (n, outputs) in f32.
pub(crate) struct ManyRows;

impl CustomOp2 for ManyRows {
    fn name(&self) -> &'static str {
        "many-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        matrix: &CpuStorage,
        matrix_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, x_layout)?;
        let (n, inputs) = x_layout.shape().dims2()?;
        let (outputs, _) = matrix_layout.shape().dims2()?;
        let Some((start, end)) = matrix_layout.contiguous_offsets() else {
            candle_core::bail!("a matrix in one piece is expected")
        };
        let product = match matrix {
            CpuStorage::F16(matrix) => many_rows(x, &matrix[start..end], n, inputs),
            CpuStorage::BF16(matrix) => many_rows(x, &matrix[start..end], n, inputs),
            _ => candle_core::bail!("a matrix of 16 bits is expected"),
        };
        Ok((CpuStorage::F32(product), Shape::from((n, outputs))))
    }
}

fn many_rows<T: Number>(x: &[f32], matrix: &[T], n: usize, inputs: usize) -> Vec<f32> {
    let outputs = matrix.len() / inputs;
    let num_blocks = (outputs / BLOCK).max(1);
    let block = |number: usize| {
        let end = if number + 1 == num_blocks { outputs } else { (number + 1) * BLOCK };
        &matrix[number * BLOCK * inputs..end * inputs]
    };
    let products = (0..num_blocks).into_par_iter().map_init(Vec::new, |wide, number| {
        let block = block(number);
        wide.resize(block.len(), 0.0);
        T::widen(block, wide);
        product(x, wide, n, inputs)
    });
    let mut products: Vec<Vec<f32>> = products.collect(); // (n, rows of a block) each
    if products.len() == 1 {
        return products.remove(0);
    }
    let mut all = vec![0.0_f32; n * outputs];
    all.par_chunks_exact_mut(outputs).enumerate().with_min_len(16).for_each(|(row, mut all)| {
        for product in &products {
            let width = product.len() / n;
            let (own, rest) = all.split_at_mut(width);
            own.copy_from_slice(&product[row * width..][..width]);
            all = rest;
        }
    });
    all
}

/// `x · Wᵀ` in f32, on this thread, as candle calls gemm.
fn product(x: &[f32], matrix: &[f32], n: usize, inputs: usize) -> Vec<f32> {
    let outputs = matrix.len() / inputs;
    let mut product = vec![0.0_f32; n * outputs];
    assert_eq!(x.len(), n * inputs, "as many numbers as the shape says");
    let (width, step) = (outputs.cast_signed(), inputs.cast_signed());
    let (to, x, matrix) = (product.as_mut_ptr(), x.as_ptr(), matrix.as_ptr());
    let (none, one, conj) = (0.0, 1.0, false);
    #[expect(unsafe_code, reason = "gemm takes addresses and strides")]
    // SAFETY: of each of the three, rows and the steps between them are those of its slice.
    unsafe {
        gemm::gemm(
            n,
            outputs,
            inputs,
            to,
            1,
            width,
            false, // what is there is not added to
            x,
            1,
            step,
            matrix,
            step,
            1,
            none,
            one,
            conj,
            conj,
            conj,
            Parallelism::None,
        );
    }
    product
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn bits_are_those_of_the_whole_matrix_in_f32() {
        for n in [9, 64, 65, 200] {
            for outputs in [1, 28, 29, 64, 65, 97, 191, 200, 400] {
                for inputs in [1, 3, 64, 513, 1100] {
                    check(n, outputs, inputs);
                }
            }
        }
    }

    #[track_caller]
    fn check(n: usize, outputs: usize, inputs: usize) {
        let x: Vec<f32> = (0..n * inputs).map(|i| (i as f32 * 0.3).sin()).collect();
        let matrix = || (0..outputs * inputs).map(|i| (i as f32 * 0.11).cos());
        let halves: Vec<f16> = matrix().map(f16::from_f32).collect();
        let brain: Vec<bf16> = matrix().map(bf16::from_f32).collect();
        let shape = (n, outputs, inputs);
        let product = many_rows(&x, &halves, n, inputs);
        let wide = halves.iter().map(|w| w.to_f32()).collect();
        assert!(product == by_candle(&x, wide, shape), "{shape:?} in f16");
        let product = many_rows(&x, &brain, n, inputs);
        let wide = brain.iter().map(|w| w.to_f32()).collect();
        assert!(product == by_candle(&x, wide, shape), "{shape:?} in bf16");
    }

    fn by_candle(x: &[f32], matrix: Vec<f32>, shape: (usize, usize, usize)) -> Vec<f32> {
        let (n, outputs, inputs) = shape;
        let x = Tensor::from_slice(x, (n, inputs), &Device::Cpu).unwrap();
        let matrix = Tensor::from_vec(matrix, (outputs, inputs), &Device::Cpu).unwrap();
        let product = x.matmul(&matrix.t().unwrap()).unwrap();
        product.flatten_all().unwrap().to_vec1().unwrap()
    }
}
