//! A quantised matrix times rows of activations, on all cores.

use std::cell::RefCell;

use rayon::prelude::*;

use super::activations::Activations;
use super::blocks::Blocks;
use super::forms::{Form, with_form};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::plain;
use super::tiles::{TILE, Tile, Tiles};
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::dot::dot;
use crate::instructions::Instructions;

/// Rows that are multiplied together where there are 32 registers of sums.
#[cfg(target_arch = "x86_64")]
const MANY: usize = 12;
/// The same elsewhere, and of those that are left.
const SOME: usize = 4;

/// Elements of a matrix below which one thread is done before another is awake.
const PARALLEL: usize = 1 << 16;

/// Rows of activations that are multiplied before the next: what they are quantised to stays in a
/// core's cache.
const PIECE: usize = 384;

/// `x · Wᵀ` for W of a type that has tiles: (n, inputs) to (n, outputs).
pub(super) fn by_tiles(
    ty: checkpoint::gguf::GgmlType,
    tiles: &Tiles,
    x: &[f32],
    with: Instructions,
) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / tiles.inputs * tiles.outputs];
    let pieces = out.chunks_mut(PIECE * tiles.outputs).zip(x.chunks(PIECE * tiles.inputs));
    for (out, x) in pieces {
        with_form!(ty, piece(tiles, x, with, out)).expect("a type that has tiles");
    }
    out
}

fn piece<F: Form>(tiles: &Tiles, x: &[f32], with: Instructions, out: &mut [f32]) {
    let blocks = activations::<F>(tiles, x, with);
    let n = x.len() / tiles.inputs;
    let outputs = tiles.outputs;
    // A tile's numbers side by side, (tiles, n, 16): each thread writes a stretch of its own.
    let mut by_tile = vec![0.0_f32; tiles.all().len() * n * TILE];
    let one = |(tile, mut out): (&Tile, &mut [f32])| {
        for x in &blocks {
            let (own, rest) = out.split_at_mut(x.rows * TILE);
            product::<F>(tile, x, with, own);
            out = rest;
        }
    };
    let per_thread = PARALLEL.div_ceil(tiles.inputs * TILE * n);
    let all = tiles.all().par_iter().zip(by_tile.par_chunks_mut(n * TILE));
    all.with_min_len(per_thread).for_each(one);
    if n == 1 {
        out.copy_from_slice(&by_tile[..outputs]);
        return;
    }
    let row = |(row, out): (usize, &mut [f32])| {
        for (tile, out) in out.chunks_mut(TILE).enumerate() {
            out.copy_from_slice(&by_tile[(tile * n + row) * TILE..][..out.len()]);
        }
    };
    out.par_chunks_mut(outputs).enumerate().with_min_len(16).for_each(row);
}

/// The rows of `x` in blocks that are multiplied together.
fn activations<F: Form>(tiles: &Tiles, x: &[f32], with: Instructions) -> Vec<Activations> {
    let offset = match with {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if F::SIGNED => x86::SIGN,
        _ => F::OFFSET,
    };
    let mut left = x.len() / tiles.inputs;
    let mut sizes = Vec::new();
    while left > 0 {
        let size = match with {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 if left >= MANY => MANY,
            _ if left >= SOME => SOME,
            _ => 1,
        };
        sizes.push((x.len() / tiles.inputs - left, size));
        left -= size;
    }
    let block = |(first, rows): (usize, usize)| {
        let x = &x[first * tiles.inputs..][..rows * tiles.inputs];
        Activations::new(x, rows, offset, F::PARTS)
    };
    if sizes.len() == 1 {
        return sizes.into_iter().map(block).collect();
    }
    sizes.into_par_iter().with_min_len(2).map(block).collect()
}

/// A tile's numbers for some rows: `out` is (rows, 16).
fn product<F: Form>(tile: &Tile, x: &Activations, with: Instructions, out: &mut [f32]) {
    match (with, x.rows) {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: `Instructions` other than plain ones come from asking the processor for them.
        (Instructions::Avx512, rows) => unsafe {
            match rows {
                MANY => x86::avx512::<F, MANY>(tile, x, out),
                SOME => x86::avx512::<F, SOME>(tile, x, out),
                _ => x86::avx512::<F, 1>(tile, x, out),
            }
        },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: as above.
        (Instructions::Avx2, rows) => unsafe {
            match rows {
                SOME => x86::avx2::<F, SOME>(tile, x, out),
                _ => x86::avx2::<F, 1>(tile, x, out),
            }
        },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: as above.
        (Instructions::NeonDot, rows) => unsafe {
            match rows {
                SOME => neon::sdot::<F, SOME, 2>(tile, x, out),
                _ => neon::sdot::<F, 1, 4>(tile, x, out),
            }
        },
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "the instructions are those that the processor has")]
        // SAFETY: as above.
        (Instructions::Neon, rows) => unsafe {
            match rows {
                SOME => neon::neon::<F, SOME, 2>(tile, x, out),
                _ => neon::neon::<F, 1, 4>(tile, x, out),
            }
        },
        _ => plain::product::<F>(tile, x, out),
    }
}

/// `x · Wᵀ` for W of any type, whose rows are decoded one by one: (n, inputs) to (n, outputs).
pub(super) fn by_rows(blocks: &Blocks, x: &[f32]) -> Vec<f32> {
    thread_local! {
        static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let (outputs, inputs) = (blocks.outputs(), blocks.inputs());
    let (n, with) = (x.len() / inputs, Instructions::best());
    let mut by_output = vec![0.0_f32; outputs * n];
    by_output.par_chunks_mut(n).enumerate().with_min_len(8).for_each(|(output, out)| {
        ROW.with_borrow_mut(|row| {
            row.resize(inputs, 0.0);
            blocks.decode_row(output, row);
            for (out, x) in out.iter_mut().zip(x.chunks_exact(inputs)) {
                *out = dot(with, x, row);
            }
        });
    });
    let mut out = vec![0.0; outputs * n];
    for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
        for (out, numbers) in out.iter_mut().zip(by_output.chunks_exact(n)) {
            *out = numbers[row];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use checkpoint::gguf::GgmlType;

    use super::*;

    const TYPES: [GgmlType; 10] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];

    /// Blocks of any bytes, but for the F16, which are small numbers.
    fn blocks(ty: GgmlType, outputs: usize, inputs: usize) -> Blocks {
        let halves: &[usize] = match ty {
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
            GgmlType::Q2_K => &[80, 82],
            GgmlType::Q3_K => &[108],
            GgmlType::Q6_K => &[208],
            _ => &[0, 2],
        };
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let num = outputs * inputs / ty.block_elements();
        let mut bytes: Vec<u8> = (0..num * ty.block_bytes()).map(|_| next()).collect();
        for block in bytes.chunks_mut(ty.block_bytes()) {
            for &at in halves {
                let scale = half::f16::from_f32(f32::from(next()) / 1e4 - 0.01);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        Blocks::owned(ty, (outputs, inputs), bytes)
    }

    fn tiles(blocks: &Blocks) -> Tiles {
        fn new<F: Form>(blocks: &Blocks) -> Tiles {
            Tiles::new::<F>(blocks)
        }
        with_form!(blocks.ty(), new(blocks)).unwrap()
    }

    fn x(n: usize, inputs: usize) -> Vec<f32> {
        (0..n * inputs).map(|i| (i as f32 * 0.37).sin() * (1.0 + (i % 7) as f32)).collect()
    }

    #[test]
    fn every_set_of_instructions_and_number_of_rows_gives_the_same_bits() {
        for ty in TYPES {
            let (outputs, inputs, n) = (40, 512, 30);
            let tiles = tiles(&blocks(ty, outputs, inputs));
            let x = x(n, inputs);
            let expected: Vec<f32> = x
                .chunks(inputs)
                .flat_map(|x| by_tiles(ty, &tiles, x, Instructions::Plain))
                .collect();
            for with in Instructions::all() {
                let found = by_tiles(ty, &tiles, &x, with);
                assert_eq!(found, expected, "{ty} with {with:?}");
            }
        }
    }

    #[test]
    fn products_are_those_of_decoded_rows() {
        for ty in TYPES {
            let (outputs, inputs, n) = (40, 512, 3);
            let blocks = blocks(ty, outputs, inputs);
            let x = x(n, inputs);
            let found = by_tiles(ty, &tiles(&blocks), &x, Instructions::best());
            let exact = by_rows(&blocks, &x);
            // What quantised activations may be off by: half a step in each of the inputs.
            for (i, (found, exact)) in found.iter().zip(&exact).enumerate() {
                let mut row = vec![0.0; inputs];
                blocks.decode_row(i % outputs, &mut row);
                let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
                let bound = norm * 7.0 / 127.0 * 2.0;
                assert!((found - exact).abs() <= bound, "{ty}, {i}: {found} and {exact}");
            }
        }
    }

    #[test]
    fn codes_and_scales_are_those_of_the_decoder() {
        fn check<F: Form>(blocks: &Blocks) {
            // A row of the unit matrix is 127 times its 127th part: codes show one by one.
            let tiles = Tiles::new::<F>(blocks);
            let inputs = blocks.inputs();
            let mut row = vec![0.0; inputs];
            for input in 0..inputs {
                let mut x = vec![0.0; inputs];
                x[input] = 127.0;
                let found = by_tiles(F::TYPE, &tiles, &x, Instructions::best());
                for (output, found) in found.into_iter().enumerate() {
                    blocks.decode_row(output, &mut row);
                    let expected = row[input] * 127.0;
                    let close = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
                    assert!(close, "{}: {found} and {expected}", F::TYPE);
                }
            }
        }
        for ty in TYPES {
            let blocks = blocks(ty, 3, 512);
            with_form!(ty, check(&blocks)).unwrap();
        }
    }

    #[test]
    fn rows_are_decoded_from_tiles_to_the_bits_that_their_blocks_hold() {
        fn check<F: Form>(blocks: &Blocks) {
            let tiles = Tiles::new::<F>(blocks);
            let mut rows = [vec![0.0; blocks.inputs()], vec![0.0; blocks.inputs()]];
            for output in 0..blocks.outputs() {
                blocks.decode_row(output, &mut rows[0]);
                tiles.decode_row::<F>(output, &mut rows[1]);
                let [expected, found] = rows.each_ref().map(|row| row.iter().map(|x| x.to_bits()));
                assert!(expected.eq(found), "row {output} in {}", F::TYPE);
            }
        }
        for ty in TYPES {
            let blocks = blocks(ty, 40, 512);
            with_form!(ty, check(&blocks)).unwrap();
        }
    }
}
