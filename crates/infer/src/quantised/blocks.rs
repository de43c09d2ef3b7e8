//! A quantised matrix as a file has it.

use std::ops::Range;
use std::sync::Arc;

use checkpoint::gguf::GgmlType;
use dus::arithmetic::blocks;
use memmap2::Mmap;

/// The rows of a matrix in whole blocks, in a mapped file or in memory.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    ty: GgmlType,
    outputs: usize,
    inputs: usize,
    bytes: Bytes,
}

/// Bytes of a file, or in memory. A clone is the same memory.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// A stretch of a mapped file, which must be in it.
    Mapped(Arc<Mmap>, Range<usize>),
    /// Bytes in memory.
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(file, range) => &file[range.clone()],
            Self::Owned(bytes) => bytes,
        }
    }
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

    /// The numbers of a row.
    pub(crate) fn decode_row(&self, row: usize, numbers: &mut [f32]) {
        blocks::decode(self.ty, self.row(row), numbers);
    }
}
