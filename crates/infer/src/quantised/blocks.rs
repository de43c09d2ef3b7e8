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

#[derive(Debug, Clone)]
enum Bytes {
    Mapped(Arc<Mmap>, Range<usize>),
    Owned(Arc<Vec<u8>>),
}

impl Blocks {
    /// A matrix of (outputs, inputs) in a stretch of a file, which must be in the file and as long as
    /// its blocks.
    pub(crate) fn mapped(
        ty: GgmlType,
        (outputs, inputs): (usize, usize),
        file: &Arc<Mmap>,
        range: Range<usize>,
    ) -> Self {
        Self { ty, outputs, inputs, bytes: Bytes::Mapped(Arc::clone(file), range) }
    }

    /// A matrix of (outputs, inputs) in `bytes`, which must be as many as its blocks take.
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
        match &self.bytes {
            Bytes::Mapped(file, range) => &file[range.clone()],
            Bytes::Owned(bytes) => bytes,
        }
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
