//! Matrices of weights as the kernels read them.
//!
//! Rows of 16 bits are as a checkpoint has them. llama.cpp's blocks are parted, without a bit lost: a row is
//! a sequence of pieces, each a kilobyte of codes and then their scales, so that one copy brings both,
//! and codes lie in the order in which the lanes of a warp take them (`kernels/forms.cuh`).

use std::sync::Arc;

use crate::error::Result;
use crate::gpu::{Buffer, Gpu};

/// Units of a whole piece; one is 64 bytes of codes, which four lanes take, 16 each.
const UNITS: usize = 16;

/// The forms that a matrix may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Numbers of 16 bits, of the type of the arithmetic.
    Dense,
    /// llama.cpp's `Q8_0`; the arithmetic must be f16.
    Q8_0,
    /// llama.cpp's `Q4_K`; the arithmetic must be f16.
    Q4K,
}

impl Form {
    /// Columns of a unit.
    fn unit_columns(self) -> usize {
        match self {
            Self::Dense => 32,
            Self::Q8_0 => 64,
            Self::Q4K => 128,
        }
    }

    /// What the number of columns of a matrix must be a multiple of.
    #[must_use]
    pub fn column_multiple(self) -> usize {
        match self {
            Self::Dense => 32,
            Self::Q8_0 => 64,
            Self::Q4K => 256,
        }
    }

    /// The bytes of a piece of so many columns.
    fn piece_bytes(self, columns: usize) -> usize {
        match self {
            Self::Dense => columns * 2,
            Self::Q8_0 => (columns + columns / 16).next_multiple_of(16),
            Self::Q4K => (columns / 2 + columns / 16 + columns / 64).next_multiple_of(16),
        }
    }

    /// The bytes of a row of so many columns.
    #[must_use]
    pub fn row_bytes(self, columns: usize) -> usize {
        let whole = self.unit_columns() * UNITS;
        columns / whole * self.piece_bytes(whole) + self.piece_bytes(columns % whole)
    }

    /// The bytes of a row of so many columns as it is stored: 16 bits a number, or llama.cpp's blocks.
    #[must_use]
    pub fn stored_bytes(self, columns: usize) -> usize {
        match self {
            Self::Dense => columns * 2,
            Self::Q8_0 => columns / 32 * 34,
            Self::Q4K => columns / 256 * 144,
        }
    }

    /// The number by which kernels know it.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Dense => 0,
            Self::Q8_0 => 1,
            Self::Q4K => 2,
        }
    }

    /// Rows of llama.cpp's blocks, parted; `Dense` has none.
    pub(crate) fn parted(self, blocks: &[u8], columns: usize) -> Vec<u8> {
        let (block_columns, block_bytes) = match self {
            Self::Dense => return blocks.to_vec(),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
        };
        let row = columns / block_columns * block_bytes;
        let piece = self.unit_columns() * UNITS / block_columns * block_bytes;
        let mut parted = Vec::with_capacity(blocks.len() / row * self.row_bytes(columns));
        for piece in blocks.chunks_exact(row).flat_map(|row| row.chunks(piece)) {
            match self {
                Self::Q8_0 => part_q8_0(piece, &mut parted),
                _ => part_q4_k(piece, &mut parted),
            }
            parted.resize(parted.len().next_multiple_of(16), 0);
        }
        parted
    }
}

/// A piece of blocks of an f16 and 32 codes.
fn part_q8_0(piece: &[u8], to: &mut Vec<u8>) {
    let (blocks, _) = piece.as_chunks::<34>();
    for unit in blocks.chunks_exact(2) {
        for lane in 0..4 {
            for block in unit {
                to.extend_from_slice(&block[2 + lane * 8..][..8]);
            }
        }
    }
    to.extend(blocks.iter().flat_map(|block| &block[..2]));
}

/// A piece of blocks of two f16, eight scales and eight minima of six bits, and 256 codes of four.
fn part_q4_k(piece: &[u8], to: &mut Vec<u8>) {
    let (blocks, _) = piece.as_chunks::<144>();
    for block in blocks {
        let codes = &block[16..];
        let code = |column: usize| {
            // 64 columns share 32 bytes: the first 32 are the lower halves.
            let byte = codes[column / 64 * 32 + column % 32];
            u32::from(if column % 64 < 32 { byte & 15 } else { byte >> 4 })
        };
        for unit in 0..2 {
            for lane in 0..4 {
                for part in 0..4 {
                    let first = unit * 128 + part * 32 + lane * 8;
                    // Two words of bytes: the lower halves, and the upper ones.
                    let place = |j: usize| 8 * (j % 4) + 4 * (j / 4);
                    let word = (0..8).fold(0, |word, j| word | code(first + j) << place(j));
                    to.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
    for block in blocks {
        let (scales, minima) = scales_q4_k(&block[4..16]);
        for unit in 0..2 {
            to.extend_from_slice(&scales[unit * 4..][..4]);
            to.extend_from_slice(&minima[unit * 4..][..4]);
        }
    }
    to.extend(blocks.iter().flat_map(|block| &block[..4]));
}

/// The scales and minima in twelve bytes: those of the last four parts have their upper bits in the
/// upper bits of the first four's.
fn scales_q4_k(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for part in 0..4 {
        scales[part] = bytes[part] & 63;
        minima[part] = bytes[part + 4] & 63;
        scales[part + 4] = bytes[part + 8] & 15 | bytes[part] >> 6 << 4;
        minima[part + 4] = bytes[part + 8] >> 4 | bytes[part + 4] >> 6 << 4;
    }
    (scales, minima)
}

/// A matrix of (outputs, inputs) on a card. A clone is the same memory.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) form: Form,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

impl Matrix {
    /// Rows of `inputs` columns, one after the other, on `gpu`.
    ///
    /// `bytes` are numbers of the type of the arithmetic or llama.cpp's blocks, in whole rows, whose columns
    /// must be a multiple of [`Form::column_multiple`].
    pub fn upload(gpu: &Arc<Gpu>, form: Form, bytes: &[u8], inputs: usize) -> Result<Self> {
        assert!(inputs.is_multiple_of(form.column_multiple()), "{inputs} columns of {form:?}");
        let buffer = match form {
            Form::Dense => gpu.upload(bytes)?,
            _ => gpu.upload(&form.parted(bytes, inputs))?,
        };
        let outputs = buffer.bytes() / form.row_bytes(inputs);
        Ok(Self { buffer: Arc::new(buffer), form, outputs, inputs })
    }

    /// Memory for a matrix of (outputs, inputs), with any numbers in it: [`Matrix::buffer`] is to be filled,
    /// with 16 bits a number or blocks converted by [`Convert::Blocks`](crate::Convert::Blocks).
    pub fn alloc(gpu: &Arc<Gpu>, form: Form, outputs: usize, inputs: usize) -> Result<Self> {
        assert!(inputs.is_multiple_of(form.column_multiple()), "{inputs} columns of {form:?}");
        let buffer = Arc::new(gpu.alloc(outputs * form.row_bytes(inputs))?);
        Ok(Self { buffer, form, outputs, inputs })
    }

    /// What it lies in.
    #[must_use]
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The same numbers in other memory of the card.
    pub fn copied(&self) -> Result<Self> {
        Ok(Self { buffer: Arc::new(self.buffer.copied()?), ..self.clone() })
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// The number of outputs.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

#[cfg(test)]
mod tests {
    use checkpoint::gguf::GgmlType;
    use half::f16;

    use super::*;

    #[test]
    fn rows_have_whole_pieces_and_a_rest() {
        assert_eq!(Form::Dense.row_bytes(576), 1152);
        assert_eq!(Form::Q8_0.row_bytes(4096), 4 * 1088);
        // 576 codes and 18 scales of two bytes, and four bytes to a multiple of 16.
        assert_eq!(Form::Q8_0.row_bytes(576), 576 + 36 + 12);
        assert_eq!(Form::Q4K.row_bytes(4096), 2 * 1184);
        assert_eq!(Form::Q4K.row_bytes(2048 + 256), 1184 + 148 + 12);
    }

    /// The numbers of a parted row, by what `kernels/forms.cuh` says of it.
    fn decoded(form: Form, row: &[u8], columns: usize) -> Vec<f32> {
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let whole = form.unit_columns() * UNITS;
        let mut numbers = Vec::new();
        for first in (0..columns).step_by(whole) {
            let piece = &row[first / whole * form.piece_bytes(whole)..];
            let units = whole.min(columns - first) / form.unit_columns();
            for column in 0..whole.min(columns - first) {
                let (unit, within) = (column / form.unit_columns(), column % form.unit_columns());
                let (block, lane, j) = (within / 32, within % 32 / 8, within % 8);
                let codes = &piece[unit * 64 + lane * 16..][..16];
                numbers.push(if form == Form::Q8_0 {
                    let scale = half(&piece[units * 64 + unit * 4 + block * 2..]);
                    scale * f32::from(codes[block * 8 + j].cast_signed())
                } else {
                    let word = u32::from_le_bytes(*codes[block * 4..].first_chunk().unwrap());
                    let code = word >> (8 * (j % 4) + 4 * (j / 4)) & 15;
                    let bytes = &piece[units * 64 + unit * 8..];
                    let doubles = &piece[units * 72 + unit / 2 * 4..];
                    half(doubles) * f32::from(bytes[block]) * code as f32
                        - half(&doubles[2..]) * f32::from(bytes[4 + block])
                });
            }
        }
        numbers
    }

    #[test]
    fn no_code_or_scale_is_lost() {
        for (form, ty, columns) in
            [(Form::Q8_0, GgmlType::Q8_0, 1088), (Form::Q4K, GgmlType::Q4_K, 2304)]
        {
            let row = columns / ty.block_elements() * ty.block_bytes();
            // Small bytes in all places: scales are finite, and no two blocks are alike.
            let bytes: Vec<u8> =
                (0..3 * row).map(|i| ((i * 37 + i / 251 * 11) % 113) as u8).collect();
            let parted = form.parted(&bytes, columns);
            assert_eq!(parted.len(), 3 * form.row_bytes(columns));
            for (row, parted) in bytes.chunks(row).zip(parted.chunks(form.row_bytes(columns))) {
                let mut expected = vec![0.0; columns];
                dus::arithmetic::blocks::decode(ty, row, &mut expected);
                assert_eq!(decoded(form, parted, columns), expected, "{form:?}");
            }
        }
    }
}
