//! Products of a few rows by a matrix, on the CPU in f32.
//!
//! Each number of the result is one sum over one row of the matrix, in one order: it does not depend on
//! how many rows there are beside its own, nor on how many threads.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use rayon::prelude::*;

/// Elements of the matrix below which one thread is done before another is awake.
const BLOCK: usize = 1 << 15;

/// `x · Wᵀ` for x of few rows: (n, inputs) and (outputs, inputs) to (n, outputs).
///
/// Such products are bound by reading the matrix, which candle's general product does on one core.
pub(crate) struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "few-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        matrix: &CpuStorage,
        matrix_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, matrix) = (contiguous(x, x_layout)?, contiguous(matrix, matrix_layout)?);
        let (n, inputs) = x_layout.shape().dims2()?;
        let (outputs, _) = matrix_layout.shape().dims2()?;
        // Output by output, the n numbers of each side by side: a row of the matrix is read once.
        let mut by_output = vec![0.0_f32; outputs * n];
        let rows = BLOCK.div_ceil(inputs);
        let blocks = by_output.par_chunks_mut(rows * n).zip(matrix.par_chunks(rows * inputs));
        blocks.for_each(|(out, matrix)| {
            for (out, row) in out.chunks_exact_mut(n).zip(matrix.chunks_exact(inputs)) {
                for (out, x) in out.iter_mut().zip(x.chunks_exact(inputs)) {
                    *out = dot(x, row);
                }
            }
        });
        let shape = Shape::from((n, outputs));
        if n == 1 {
            return Ok((CpuStorage::F32(by_output), shape));
        }
        let mut by_row = vec![0.0_f32; outputs * n];
        for (row, out) in by_row.chunks_exact_mut(outputs).enumerate() {
            for (out, numbers) in out.iter_mut().zip(by_output.chunks_exact(n)) {
                *out = numbers[row];
            }
        }
        Ok((CpuStorage::F32(by_row), shape))
    }
}

/// The numbers of a tensor that lies in one piece.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        _ => candle_core::bail!("f32 in one piece is expected"),
    }
}

/// The sum of products, in sixteen partial sums that the compiler keeps in vector registers.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
