//! A quantised matrix as a file has it.

use std::ops::Range;
use std::sync::Arc;

use checkpoint::gguf::GgmlType;
use dus::arithmetic::blocks;
use rayon::prelude::*;

use crate::mapped::Bytes;

/// The rows of a matrix in whole blocks, in a mapped file or in memory.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    ty: GgmlType,
    outputs: usize,
    inputs: usize,
    bytes: Bytes,
}

impl Blocks {
    /// A matrix of (outputs, inputs) in `bytes`, which must be as many as its blocks take.
    pub(crate) fn new(ty: GgmlType, (outputs, inputs): (usize, usize), bytes: Bytes) -> Self {
        Self { ty, outputs, inputs, bytes }
    }

    /// The same in memory.
    pub(crate) fn owned(ty: GgmlType, (outputs, inputs): (usize, usize), bytes: Vec<u8>) -> Self {
        Self { ty, outputs, inputs, bytes: Bytes::Owned(Arc::new(bytes)) }
    }

    /// The same rows in another order: row r is what was row `from(r)`.
    pub(crate) fn reordered(&self, from: impl Fn(usize) -> usize) -> Self {
        let mut bytes = Vec::with_capacity(self.bytes().len());
        for row in 0..self.outputs {
            bytes.extend_from_slice(self.row(from(row)));
        }
        Self::owned(self.ty, (self.outputs, self.inputs), bytes)
    }

    pub(crate) fn ty(&self) -> GgmlType {
        self.ty
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The blocks of a row.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        let bytes = self.inputs / self.ty.block_elements() * self.ty.block_bytes();
        &self.bytes()[row * bytes..][..bytes]
    }

    /// Whether all scales and minima are finite, and so all numbers.
    pub(crate) fn are_finite(&self) -> bool {
        let halves = halves(self.ty);
        self.bytes().par_chunks_exact(self.ty.block_bytes()).with_min_len(1 << 14).all(|block| {
            // An F16 of which all bits of the exponent are set is infinite or NaN.
            let is_finite = |half: &[u8]| half[1] & 0x7c != 0x7c;
            block[halves.clone()].chunks_exact(2).all(is_finite)
        })
    }

    /// The numbers of a row.
    pub(crate) fn decode_row(&self, row: usize, numbers: &mut [f32]) {
        blocks::decode(self.ty, self.row(row), numbers);
    }
}

/// Where in a block of `ty` its F16 are.
fn halves(ty: GgmlType) -> Range<usize> {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => 0..2,
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => 0..4,
        GgmlType::Q2_K => 80..84,
        GgmlType::Q3_K => 108..110,
        GgmlType::Q6_K => 208..210,
        // What is not decoded has no numbers.
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_finite_where_their_numbers_are() {
        use GgmlType::{Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
        for ty in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K] {
            let len = ty.block_bytes();
            for at in (0..len).step_by(2) {
                for half in [[0x00, 0x7e], [0x00, 0x7c], [0xff, 0xfb], [0x11, 0x11]] {
                    // The second of three blocks.
                    let mut bytes = vec![0x11; 3 * len];
                    bytes[len + at..][..2].copy_from_slice(&half);
                    let blocks = Blocks::owned(ty, (3, ty.block_elements()), bytes);
                    let mut numbers = vec![0.0; ty.block_elements()];
                    blocks.decode_row(1, &mut numbers);
                    let are_finite = numbers.iter().all(|x| x.is_finite());
                    assert_eq!(blocks.are_finite(), are_finite, "{half:x?} at {at} of {ty:?}");
                }
            }
        }
    }
}
