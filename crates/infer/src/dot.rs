//! Products of a few rows by a matrix, on the CPU.
//!
//! Each number of the result is one sum over one row of the matrix, in one order: it does not depend on
//! how many rows there are beside its own, nor on how many threads.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use rayon::prelude::*;

#[cfg(target_arch = "aarch64")]
use crate::dot_neon;
#[cfg(target_arch = "x86_64")]
use crate::dot_x86;
use crate::instructions::Instructions;
use crate::numbers::Number;

/// Elements of the matrix below which one thread is done before another is awake.
const BLOCK: usize = 1 << 15;

/// `x · Wᵀ` for x of few rows: (n, inputs) in f32 and (outputs, inputs) in f32, f16 or bf16 to
/// (n, outputs) in f32.
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
        let x = contiguous(x, x_layout)?;
        let (n, inputs) = x_layout.shape().dims2()?;
        let (outputs, _) = matrix_layout.shape().dims2()?;
        let Some((start, end)) = matrix_layout.contiguous_offsets() else {
            candle_core::bail!("a matrix in one piece is expected")
        };
        let with = Instructions::best();
        let product = match matrix {
            CpuStorage::F32(matrix) => few_rows(with, x, &matrix[start..end], n, inputs),
            CpuStorage::F16(matrix) => few_rows(with, x, &matrix[start..end], n, inputs),
            CpuStorage::BF16(matrix) => few_rows(with, x, &matrix[start..end], n, inputs),
            _ => candle_core::bail!("a matrix of floating-point numbers is expected"),
        };
        Ok((CpuStorage::F32(product), Shape::from((n, outputs))))
    }
}

fn few_rows<T: Number>(
    with: Instructions,
    x: &[f32],
    matrix: &[T],
    n: usize,
    inputs: usize,
) -> Vec<f32> {
    let outputs = matrix.len() / inputs;
    // Output by output, the n numbers of each side by side: a row of the matrix is read once.
    let mut by_output = vec![0.0_f32; outputs * n];
    let rows = BLOCK.div_ceil(inputs);
    let blocks = by_output.par_chunks_mut(rows * n).zip(matrix.par_chunks(rows * inputs));
    blocks.for_each(|(out, matrix)| {
        for (out, row) in out.chunks_exact_mut(n).zip(matrix.chunks_exact(inputs)) {
            let (pairs, last) = out.as_chunks_mut::<2>();
            for (out, x) in pairs.iter_mut().zip(x.chunks_exact(2 * inputs)) {
                let (one, other) = x.split_at(inputs);
                *out = dots(with, [one, other], row);
            }
            if let [out] = last {
                *out = dot(with, &x[(n - 1) * inputs..], row);
            }
        }
    });
    if n == 1 {
        return by_output;
    }
    let mut by_row = vec![0.0_f32; outputs * n];
    for (row, out) in by_row.chunks_exact_mut(outputs).enumerate() {
        for (out, numbers) in out.iter_mut().zip(by_output.chunks_exact(n)) {
            *out = numbers[row];
        }
    }
    by_row
}

/// The numbers of a tensor that lies in one piece.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        _ => candle_core::bail!("f32 in one piece is expected"),
    }
}

/// The sum of products of `a` and `b`, of one length.
#[inline]
pub(crate) fn dot<T: Number>(with: Instructions, a: &[f32], b: &[T]) -> f32 {
    let [sum] = dots(with, [a], b);
    sum
}

/// The sums of products of each of `rows` and `b`, of one length: what `b` is made of is read, and widened,
/// once. Two rows have eight sums, which AVX2 has registers for beside what they are made of.
#[inline]
fn dots<T: Number, const N: usize>(with: Instructions, rows: [&[f32]; N], b: &[T]) -> [f32; N] {
    match with {
        Instructions::Plain => rows.map(|a| plain(a, b)),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: `Instructions` other than plain ones come from asking the processor for them.
        Instructions::Avx2 => unsafe { dot_x86::avx2(rows, b) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: as above.
        Instructions::Avx512 => unsafe { dot_x86::avx512(rows, b) },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: as above.
        Instructions::Neon | Instructions::NeonDot => rows.map(|a| unsafe { dot_neon::neon(a, b) }),
    }
}

/// The sum of products, in sixteen partial sums that the compiler keeps in vector registers.
fn plain<T: Number>(a: &[f32], b: &[T]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane].to_f32();
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b.to_f32()).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn rows_of_every_type_alone_and_beside_others() {
        let (n, inputs, outputs) = (3, 1103, 70);
        let x: Vec<f32> = (0..n * inputs).map(|i| (i as f32 * 0.3).sin()).collect();
        let matrix: Vec<f32> = (0..outputs * inputs).map(|i| (i as f32 * 0.11).cos()).collect();
        let halves: Vec<f16> = matrix.iter().map(|&w| f16::from_f32(w)).collect();
        let brain: Vec<bf16> = matrix.iter().map(|&w| bf16::from_f32(w)).collect();
        check(&x, &matrix, n, inputs, |w| w);
        check(&x, &halves, n, inputs, f16::to_f32);
        check(&x, &brain, n, inputs, bf16::to_f32);
    }

    #[track_caller]
    fn check<T: Number>(x: &[f32], matrix: &[T], n: usize, inputs: usize, to: fn(T) -> f32) {
        for with in Instructions::all() {
            check_with(with, x, matrix, n, inputs, to);
        }
    }

    #[track_caller]
    fn check_with<T: Number>(
        with: Instructions,
        x: &[f32],
        matrix: &[T],
        n: usize,
        inputs: usize,
        to: fn(T) -> f32,
    ) {
        let found = few_rows(with, x, matrix, n, inputs);
        // What is widened on the way gives the bits that it gives in f32.
        let wide: Vec<f32> = matrix.iter().map(|&w| to(w)).collect();
        assert_eq!(found, few_rows(with, x, &wide, n, inputs));
        let outputs = matrix.len() / inputs;
        for (row, x) in x.chunks(inputs).enumerate() {
            let alone = few_rows(with, x, matrix, 1, inputs);
            assert_eq!(alone, found[row * outputs..][..outputs]);
            for (found, w) in alone.iter().zip(matrix.chunks(inputs)) {
                let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(to(w)));
                let exact: f64 = products.sum();
                assert!((f64::from(*found) - exact).abs() < 1e-3, "{found} and {exact}");
            }
        }
    }
}
