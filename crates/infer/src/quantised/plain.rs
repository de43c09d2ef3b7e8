//! Sums over a tile in plain Rust: what all other ways to the same numbers are held against.

use super::activations::{Activations, WORDS};
use super::forms::Form;
use super::tiles::{GROUP, TILE, Tile};

/// Multiplies `x` by a tile: `out` is (rows, 16).
pub(super) fn product<F: Form>(tile: &Tile, x: &Activations, out: &mut [f32]) {
    let rows = x.rows;
    let out = out.as_chunks_mut::<TILE>().0;
    out.fill([0.0; TILE]);
    for group in 0..x.scales.len() / rows {
        for part in 0..F::PARTS {
            let (scales, minima) = tile.scales::<F>(group, part);
            let words = WORDS / F::PARTS;
            let words = part * words..(part + 1) * words;
            let codes = codes::<F>(tile, group, words.clone());
            for (row, out) in out.iter_mut().enumerate() {
                let mut sums = [x.starts[(group * F::PARTS + part) * rows + row]; TILE];
                for (word, codes) in words.clone().zip(codes.as_chunks::<{ 4 * TILE }>().0) {
                    let x = x.words[(group * WORDS + word) * rows + row].to_le_bytes();
                    for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
                        for (&code, x) in codes.iter().zip(x) {
                            *sum += i32::from(code) * i32::from(x.cast_signed());
                        }
                    }
                }
                let scale = x.scales[group * rows + row];
                let sum = x.sums[(group * F::PARTS + part) * rows + row];
                for lane in 0..TILE {
                    out[lane] = (sums[lane] as f32).mul_add(scales[lane] * scale, out[lane]);
                    if F::HAS_MINIMUM {
                        out[lane] = minima[lane].mul_add(sum, out[lane]);
                    }
                }
            }
        }
    }
}

/// The codes of some words of a group: (words, 16 rows, 4).
fn codes<F: Form>(tile: &Tile, group: usize, words: std::ops::Range<usize>) -> [i16; GROUP * TILE] {
    let mut codes = [0; GROUP * TILE];
    let lines = &tile.codes[group * F::BITS..];
    for (word, codes) in words.zip(codes.as_chunks_mut::<{ 4 * TILE }>().0) {
        for (to, byte) in codes.iter_mut().zip(lines[word / F::PACKED].0) {
            *to = match (F::BITS, F::SIGNED) {
                (8, true) => byte.cast_signed().into(),
                (8, false) => byte.into(),
                (bits, _) => (byte >> (word % F::PACKED * bits) & ((1 << bits) - 1)).into(),
            };
        }
    }
    codes
}
