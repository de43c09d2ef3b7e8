//! Codes to values, and the pieces that all decoders are made of.
//!
//! Loops are plain and run over arrays of known size, which compilers turn into vector code for any
//! processor: codes are unpacked 16 bytes at a time, widened and multiplied four at a time.

use super::f16;

/// Each group's `scale · code`. Groups are of one size, and as many as scales.
#[inline]
pub(super) fn multiply<const ELEMENTS: usize, const GROUPS: usize>(
    codes: &[i8; ELEMENTS],
    scales: &[f32; GROUPS],
    values: &mut [f32; ELEMENTS],
) {
    const { assert!(ELEMENTS.is_multiple_of(GROUPS)) };
    let size = ELEMENTS / GROUPS;
    let groups = codes.chunks_exact(size).zip(values.chunks_exact_mut(size));
    for ((codes, values), &scale) in groups.zip(scales) {
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = scale * f32::from(code);
        }
    }
}

/// Each group's `scale · code − minimum`, rounded after the one and after the other.
#[inline]
pub(super) fn multiply_less<const ELEMENTS: usize, const GROUPS: usize>(
    codes: &[i8; ELEMENTS],
    scales: &[f32; GROUPS],
    minima: &[f32; GROUPS],
    values: &mut [f32; ELEMENTS],
) {
    const { assert!(ELEMENTS.is_multiple_of(GROUPS)) };
    let size = ELEMENTS / GROUPS;
    let groups = codes.chunks_exact(size).zip(values.chunks_exact_mut(size));
    for (((codes, values), &scale), &minimum) in groups.zip(scales).zip(minima) {
        multiply_group_less(codes, scale, minimum, values);
    }
}

/// Not inlined, or LLVM unrolls it and makes vectors across groups, which is slower by half.
#[inline(never)]
fn multiply_group_less(codes: &[i8], scale: f32, minimum: f32, values: &mut [f32]) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(code) - minimum;
    }
}

/// The `N` bytes of `block` from `offset` on.
#[inline]
pub(super) fn bytes<const N: usize>(block: &[u8], offset: usize) -> &[u8; N] {
    block[offset..].first_chunk().expect("a field lies within its block")
}

/// The F16 at `offset` of `block`.
#[inline]
pub(super) fn f16(block: &[u8], offset: usize) -> f32 {
    f16::to_f32(u16::from_le_bytes(*bytes(block, offset)))
}

/// Bits of a byte, lowest first, each as a byte of 0 or 1.
#[inline]
pub(super) fn bits(byte: u8) -> [u8; 8] {
    // Of eight copies, copy i keeps bit i alone; adding 127 carries it, if it is set, to the top.
    let copies = u64::from(byte) * 0x0101_0101_0101_0101;
    let alone = copies & 0x8040_2010_0804_0201;
    let top = alone + 0x7f7f_7f7f_7f7f_7f7f;
    ((top >> 7) & 0x0101_0101_0101_0101).to_le_bytes()
}
