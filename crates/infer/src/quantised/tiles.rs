//! A quantised matrix in the order in which it is multiplied by: sixteen rows side by side.
//!
//! Each row is a lane of a vector register, so that a sum of products needs no sum across lanes, and
//! memory is read front to back. Codes, scales and minima are those of the file, in another order, so
//! that no blocks are kept beside them: rows that are looked up are decoded from here.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::forms::{Form, Scales};
use super::unpack::unpack;

/// Rows of a tile.
pub(super) const TILE: usize = 16;
/// Elements of a row that activations have a scale for.
pub(super) const GROUP: usize = 32;
/// Elements of a row that K-quants have an F16 for.
const SUPER: usize = 256;

/// Codes of sixteen rows: four bytes of each.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u8; 64]);

/// A matrix in tiles; rows that fill up the last tile are zero.
#[derive(Debug)]
pub(super) struct Tiles {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    all: Vec<Tile>,
}

/// Sixteen rows.
#[derive(Debug, Default, Clone)]
pub(super) struct Tile {
    /// For each group of 32 elements 8 lines of bytes; or 4 whose bytes hold two codes, the lower
    /// half one of the first four elements, the upper half one of the next four; or 2 whose bytes
    /// hold four codes likewise.
    pub(super) codes: Vec<Line>,
    /// F16 of each row: for each group one or two, or for each super-block.
    pub(super) halves: Vec<[u16; TILE]>,
    /// Small integers of each row, two bytes for each group.
    pub(super) small: Vec<[u8; TILE]>,
}

impl Tiles {
    /// The tiles of `blocks`, which are of the form `F`.
    pub(super) fn new<F: Form>(blocks: &Blocks) -> Self {
        let (outputs, inputs) = (blocks.outputs(), blocks.inputs());
        let tile = |first: usize| tile::<F>(blocks, first..outputs.min(first + TILE));
        let firsts = (0..outputs.div_ceil(TILE)).into_par_iter().map(|number| number * TILE);
        Self { outputs, inputs, all: firsts.map(tile).collect() }
    }

    pub(super) fn all(&self) -> &[Tile] {
        &self.all
    }

    /// The bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |tile: &Tile| {
            size_of_val(&*tile.codes) + size_of_val(&*tile.halves) + size_of_val(&*tile.small)
        };
        self.all.iter().map(bytes).sum()
    }

    /// The numbers of a row, which must be of the form `F`: those that its blocks are decoded to.
    pub(super) fn decode_row<F: Form>(&self, row: usize, numbers: &mut [f32]) {
        let (tile, lane) = (&self.all[row / TILE], row % TILE);
        let mask = u8::MAX >> (8 - F::BITS);
        for (group, numbers) in numbers.chunks_exact_mut(GROUP).enumerate() {
            let lines = &tile.codes[group * F::BITS..];
            for (part, numbers) in numbers.chunks_exact_mut(GROUP / F::PARTS).enumerate() {
                let (scales, minima) = tile.scales::<F>(group, part);
                let first = part * (GROUP / F::PARTS);
                for (i, number) in (first..).zip(numbers) {
                    let word = i / 4;
                    let byte = lines[word / F::PACKED].0[lane * 4 + i % 4];
                    let code = byte >> (word % F::PACKED * F::BITS) & mask;
                    let code =
                        if F::SIGNED { i32::from(code.cast_signed()) } else { i32::from(code) };
                    let product = scales[lane] * (code - F::OFFSET) as f32;
                    *number = if F::HAS_MINIMUM { product + minima[lane] } else { product };
                }
            }
        }
    }
}

/// The bytes that the tiles of a matrix of the form `F` take.
pub(super) fn num_bytes<F: Form>(outputs: usize, inputs: usize) -> u64 {
    let counts = Counts::of::<F>(inputs);
    let tile = counts.lines * size_of::<Line>()
        + counts.halves * size_of::<[u16; TILE]>()
        + counts.small * size_of::<[u8; TILE]>();
    outputs.div_ceil(TILE) as u64 * tile as u64
}

/// How many of what a tile has.
struct Counts {
    lines: usize,
    halves: usize,
    small: usize,
}

impl Counts {
    fn of<F: Form>(inputs: usize) -> Self {
        let groups = inputs / GROUP;
        let (halves, small) = match F::SCALES {
            Scales::One => (groups, 0),
            Scales::Two => (groups * 2, 0),
            Scales::Super | Scales::Nibbles => (inputs / SUPER * 2, groups * 2),
            Scales::Signed => (inputs / SUPER, groups * 2),
        };
        // Of a group: 32 × BITS × 16 rows are BITS × 64 bytes.
        Self { lines: groups * F::BITS, halves, small }
    }
}

fn tile<F: Form>(blocks: &Blocks, rows: std::ops::Range<usize>) -> Tile {
    let counts = Counts::of::<F>(blocks.inputs());
    let lines = F::BITS; // of a group
    let mut tile = Tile {
        codes: vec![Line([0; 64]); counts.lines],
        halves: vec![[0; TILE]; counts.halves],
        small: vec![[0; TILE]; counts.small],
    };
    let halves = if F::HAS_MINIMUM { 2 } else { 1 };
    for (lane, row) in rows.enumerate() {
        let row = blocks.row(row).chunks_exact(F::TYPE.block_bytes());
        for (number, block) in row.enumerate() {
            let block = unpack::<F>(block);
            for (i, &half) in block.halves[..halves].iter().enumerate() {
                tile.halves[number * halves + i][lane] = half;
            }
            let first = number * (F::BLOCK / GROUP);
            if counts.small > 0 {
                for (group, small) in block.small.iter().enumerate() {
                    tile.small[(first + group) * 2][lane] = small[0];
                    tile.small[(first + group) * 2 + 1][lane] = small[1];
                }
            }
            for (i, &code) in block.codes[..F::BLOCK].iter().enumerate() {
                let lines = &mut tile.codes[(first + i / GROUP) * lines..];
                let i = i % GROUP;
                let word = i / 4;
                lines[word / F::PACKED].0[lane * 4 + i % 4] |= code << (word % F::PACKED * F::BITS);
            }
        }
    }
    tile
}

impl Tile {
    /// The scales and minima of part `part` of group `group`, row by row.
    pub(super) fn scales<F: Form>(&self, group: usize, part: usize) -> ([f32; TILE], [f32; TILE]) {
        let f16 = |bits: u16| half::f16::from_bits(bits).to_f32();
        let block = group / (F::BLOCK / GROUP);
        match F::SCALES {
            Scales::One => (self.halves[block].map(f16), [0.0; TILE]),
            Scales::Two => (self.halves[block * 2].map(f16), self.halves[block * 2 + 1].map(f16)),
            Scales::Super => {
                let (d, dmin) = (&self.halves[block * 2], &self.halves[block * 2 + 1]);
                let (scales, minima) = (&self.small[group * 2], &self.small[group * 2 + 1]);
                (
                    std::array::from_fn(|row| f16(d[row]) * f32::from(scales[row])),
                    std::array::from_fn(|row| -(f16(dmin[row]) * f32::from(minima[row]))),
                )
            }
            Scales::Signed => {
                let (d, scales) = (&self.halves[block], &self.small[group * 2 + part]);
                let scale = |row: usize| f16(d[row]) * f32::from(scales[row].cast_signed());
                (std::array::from_fn(scale), [0.0; TILE])
            }
            Scales::Nibbles => {
                let (d, dmin) = (&self.halves[block * 2], &self.halves[block * 2 + 1]);
                let both = &self.small[group * 2 + part];
                (
                    std::array::from_fn(|row| f16(d[row]) * f32::from(both[row] & 15)),
                    std::array::from_fn(|row| -(f16(dmin[row]) * f32::from(both[row] >> 4))),
                )
            }
        }
    }
}
