//! Sums over a tile by instructions of aarch64: the same steps as in `plain`, four rows at once.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint8x16_t, vand_u8, vandq_u8, vcreate_u8, vcvt_f32_f16,
    vcvtq_f32_s32, vdup_n_u8, vdupq_laneq_s32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vfmaq_f32,
    vfmaq_n_f32, vget_low_s8, vget_low_s16, vld1_u16, vld1q_dup_s32, vld1q_s32, vld1q_u8, vmovl_s8,
    vmovl_s16, vmovl_u8, vmull_high_s8, vmull_s8, vmulq_f32, vmulq_n_f32, vnegq_f32, vpadalq_s16,
    vpaddq_s16, vreinterpret_f16_u16, vreinterpret_s8_u8, vreinterpretq_s8_s32,
    vreinterpretq_s8_u8, vreinterpretq_s16_u16, vshr_n_u8, vshrq_n_u8, vst1q_f32,
};
use std::arch::asm;

use super::activations::{Activations, WORDS};
use super::forms::{Form, Scales};
use super::tiles::{GROUP, Line, TILE, Tile};

/// Rows of a tile that a register has.
const LANES: usize = 4;

/// Multiplies the `ROWS` rows of `x` by a tile with `sdot`: `out` is (rows, 16).
///
/// `QUARTERS` of the tile's rows are gone through at a time: 4, or as many as leave registers for
/// the sums of all rows.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot<F: Form, const ROWS: usize, const QUARTERS: usize>(
    tile: &Tile,
    x: &Activations,
    out: &mut [f32],
) {
    #[expect(unsafe_code, reason = "the instructions are those of this function")]
    // SAFETY: as said.
    unsafe {
        product::<F, ROWS, QUARTERS, true>(tile, x, out);
    }
}

/// The same with what every NEON has.
#[target_feature(enable = "neon")]
pub(super) fn neon<F: Form, const ROWS: usize, const QUARTERS: usize>(
    tile: &Tile,
    x: &Activations,
    out: &mut [f32],
) {
    #[expect(unsafe_code, reason = "the instructions are those of this function")]
    // SAFETY: as said.
    unsafe {
        product::<F, ROWS, QUARTERS, false>(tile, x, out);
    }
}

#[expect(clippy::inline_always, reason = "`add_sdot` is part only of what has its instruction")]
#[inline(always)]
#[expect(unsafe_code, reason = "what is always inlined cannot say which instructions it needs")]
// SAFETY: the processor must have NEON, and `sdot` where that is asked for.
unsafe fn product<F: Form, const ROWS: usize, const QUARTERS: usize, const SDOT: bool>(
    tile: &Tile,
    x: &Activations,
    out: &mut [f32],
) {
    let groups = x.scales.len() / ROWS;
    let scales_of_x = x.scales.as_chunks::<ROWS>().0;
    let sums_of_x = x.sums.as_chunks::<ROWS>().0;
    let starts = x.starts.as_chunks::<ROWS>().0;
    let words = x.words.as_chunks::<ROWS>().0;
    let out = out.as_chunks_mut::<TILE>().0;
    for first in (0..TILE / LANES).step_by(QUARTERS) {
        // SAFETY: as the caller says.
        let mut totals = unsafe { [[vdupq_n_f32(0.0); QUARTERS]; ROWS] };
        for group in 0..groups {
            let lines = &tile.codes[group * F::BITS..][..F::BITS];
            let words = &words[group * WORDS..][..WORDS];
            for part in 0..F::PARTS {
                let at = group * F::PARTS + part;
                // SAFETY: as the caller says.
                let mut sums = starts[at].map(|start| unsafe { [vdupq_n_s32(start); QUARTERS] });
                for line in part * F::LINES..(part + 1) * F::LINES {
                    // SAFETY: as the caller says.
                    unsafe {
                        let mut packed: [_; QUARTERS] =
                            std::array::from_fn(|quarter| load(&lines[line], first + quarter));
                        for words in &words[line * F::PACKED..][..F::PACKED] {
                            let x = load_words(words);
                            for quarter in 0..QUARTERS {
                                let codes = first_codes::<F>(packed[quarter]);
                                packed[quarter] = shifted::<F>(packed[quarter]);
                                for (row, sums) in sums.iter_mut().enumerate() {
                                    sums[quarter] = add::<SDOT>(sums[quarter], codes, x, row);
                                }
                            }
                        }
                    }
                }
                for quarter in 0..QUARTERS {
                    // SAFETY: as the caller says.
                    unsafe {
                        let (scales, minima) = scales::<F>(tile, group, part, first + quarter);
                        for row in 0..ROWS {
                            let total = &mut totals[row][quarter];
                            let scales = vmulq_n_f32(scales, scales_of_x[group][row]);
                            *total = vfmaq_f32(*total, vcvtq_f32_s32(sums[row][quarter]), scales);
                            if F::HAS_MINIMUM {
                                *total = vfmaq_n_f32(*total, minima, sums_of_x[at][row]);
                            }
                        }
                    }
                }
            }
        }
        for (out, totals) in out.iter_mut().zip(totals) {
            let out = &mut out.as_chunks_mut::<LANES>().0[first..];
            for (out, total) in out.iter_mut().zip(totals) {
                // SAFETY: four f32 are 16 bytes.
                unsafe {
                    vst1q_f32(out.as_mut_ptr(), total);
                }
            }
        }
    }
}

/// Adds the products of four codes of each lane and the four in one lane of `x`.
///
/// All codes fit into a byte with a sign: those without have at most 6 bits.
#[expect(clippy::inline_always, reason = "`add_sdot` is part only of what has its instruction")]
#[inline(always)]
#[expect(unsafe_code, reason = "what is always inlined cannot say which instructions it needs")]
// SAFETY: the processor must have NEON, and `sdot` where that is asked for.
unsafe fn add<const SDOT: bool>(
    sum: int32x4_t,
    codes: int8x16_t,
    x: int32x4_t,
    lane: usize,
) -> int32x4_t {
    // SAFETY: as the caller says.
    unsafe {
        match (SDOT, lane) {
            (true, 0) => add_sdot::<0>(sum, codes, x),
            (true, 1) => add_sdot::<1>(sum, codes, x),
            (true, 2) => add_sdot::<2>(sum, codes, x),
            (true, _) => add_sdot::<3>(sum, codes, x),
            (false, 0) => add_neon(sum, codes, vdupq_laneq_s32::<0>(x)),
            (false, 1) => add_neon(sum, codes, vdupq_laneq_s32::<1>(x)),
            (false, 2) => add_neon(sum, codes, vdupq_laneq_s32::<2>(x)),
            (false, _) => add_neon(sum, codes, vdupq_laneq_s32::<3>(x)),
        }
    }
}

/// The same without `sdot`, where all lanes of `x` are one.
#[target_feature(enable = "neon")]
#[inline]
fn add_neon(sum: int32x4_t, codes: int8x16_t, x: int32x4_t) -> int32x4_t {
    let x = vreinterpretq_s8_s32(x);
    let first = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
    let second = vmull_high_s8(codes, x);
    // Two products of at most 128 · 127 fit into 16 bits.
    vpadalq_s16(sum, vpaddq_s16(first, second))
}

/// `sdot` by one lane; the intrinsic of this name is not stable in Rust 1.95.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add_sdot<const LANE: usize>(mut sum: int32x4_t, codes: int8x16_t, x: int32x4_t) -> int32x4_t {
    #[expect(unsafe_code, reason = "instructions by name are not checked")]
    // SAFETY: it reads and writes only these registers.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The codes of four rows.
#[target_feature(enable = "neon")]
#[inline]
fn load(line: &Line, quarter: usize) -> uint8x16_t {
    let bytes = &line.0.as_chunks::<16>().0[quarter];
    #[expect(unsafe_code, reason = "loads are by address")]
    // SAFETY: a quarter of a line is 16 bytes.
    unsafe {
        vld1q_u8(bytes.as_ptr())
    }
}

/// Of each byte the first code.
#[target_feature(enable = "neon")]
#[inline]
fn first_codes<F: Form>(packed: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(match F::BITS {
        8 => packed,
        bits => vandq_u8(packed, vdupq_n_u8((1 << bits) - 1)),
    })
}

/// What is left of each byte behind the first code.
#[target_feature(enable = "neon")]
#[inline]
fn shifted<F: Form>(packed: uint8x16_t) -> uint8x16_t {
    match F::BITS {
        2 => vshrq_n_u8::<2>(packed),
        4 => vshrq_n_u8::<4>(packed),
        _ => packed,
    }
}

/// A word of each row, in its lane; that of a single row in all lanes.
#[target_feature(enable = "neon")]
#[inline]
fn load_words<const ROWS: usize>(words: &[i32; ROWS]) -> int32x4_t {
    const { assert!(ROWS == 1 || ROWS == LANES) }
    #[expect(unsafe_code, reason = "loads are by address")]
    // SAFETY: as many words are read as there are.
    unsafe {
        if ROWS == 1 { vld1q_dup_s32(words.as_ptr()) } else { vld1q_s32(words.as_ptr()) }
    }
}

/// The scales and minima of four rows.
#[target_feature(enable = "neon")]
#[inline]
fn scales<F: Form>(
    tile: &Tile,
    group: usize,
    part: usize,
    quarter: usize,
) -> (float32x4_t, float32x4_t) {
    let halves = |at: usize| {
        let bits = &tile.halves[at].as_chunks::<LANES>().0[quarter];
        #[expect(unsafe_code, reason = "loads are by address")]
        // SAFETY: four F16 are 8 bytes.
        let bits = unsafe { vld1_u16(bits.as_ptr()) };
        vcvt_f32_f16(vreinterpret_f16_u16(bits))
    };
    let small = |at: usize| {
        let bytes = tile.small[at].as_chunks::<LANES>().0[quarter];
        vcreate_u8(u64::from(u32::from_le_bytes(bytes)))
    };
    let integers = |bytes| {
        let words = vreinterpretq_s16_u16(vmovl_u8(bytes));
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)))
    };
    let block = group / (F::BLOCK / GROUP);
    match F::SCALES {
        Scales::One => (halves(block), vdupq_n_f32(0.0)),
        Scales::Two => (halves(block * 2), halves(block * 2 + 1)),
        Scales::Super => {
            let minima = vmulq_f32(halves(block * 2 + 1), integers(small(group * 2 + 1)));
            (vmulq_f32(halves(block * 2), integers(small(group * 2))), vnegq_f32(minima))
        }
        Scales::Signed => {
            let words = vmovl_s8(vreinterpret_s8_u8(small(group * 2 + part)));
            let integers = vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
            (vmulq_f32(halves(block), integers), vdupq_n_f32(0.0))
        }
        Scales::Nibbles => {
            let both = small(group * 2 + part);
            let minima = vmulq_f32(halves(block * 2 + 1), integers(vshr_n_u8::<4>(both)));
            let low = integers(vand_u8(both, vdup_n_u8(15)));
            (vmulq_f32(halves(block * 2), low), vnegq_f32(minima))
        }
    }
}
