//! Blocks of FP4 (E2M1): a sign, and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6.
//!
//! Codes are twice that, and scales half of what they stand for.

use super::codes::{bytes, multiply};
use super::legacy::halves;

const CODES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `e: e8m0, quants: 32 × 4 bits` (OCP Microscaling Formats 1.0, section 5.3).
pub(super) fn mxfp4(block: &[u8; 17], values: &mut [f32; 32]) {
    let codes = halves(bytes(block, 1)).map(code);
    multiply(&codes, &[half_e8m0(block[0])], values);
}

/// `d: 4 × ue4m3, quants: 4 × 16 × 4 bits`: of a group's eight bytes the lower halves are its first
/// eight elements. What its tensor's own scale multiplies is not in the block.
pub(super) fn nvfp4(block: &[u8; 36], values: &mut [f32; 64]) {
    let scales = bytes::<4>(block, 0).map(half_ue4m3);
    let mut codes = [0; 64];
    for (i, byte) in bytes::<32>(block, 4).iter().enumerate() {
        let first = i / 8 * 16 + i % 8;
        codes[first] = code((byte & 15).cast_signed());
        codes[first + 8] = code((byte >> 4).cast_signed());
    }
    multiply(&codes, &scales, values);
}

#[inline]
fn code(quant: i8) -> i8 {
    CODES[usize::from(quant.cast_unsigned() & 15)]
}

/// Half of 2^(e − 127). The NaN, 255, is 2^127 here as it is for ggml.
#[inline]
fn half_e8m0(e: u8) -> f32 {
    // The first two are subnormal.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// Half of an FP8 of four bits of exponent, three of mantissa. As for ggml its NaN, 127, is zero, and
/// the sign is not looked at otherwise.
#[inline]
fn half_ue4m3(byte: u8) -> f32 {
    if byte == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (byte >> 3 & 15, byte & 7);
    // Of units of 2^-10: subnormal numbers are the mantissa, others have an eighth one before it.
    let units =
        if exponent == 0 { u32::from(mantissa) } else { u32::from(mantissa | 8) << (exponent - 1) };
    units as f32 * f32::from_bits((127 - 10) << 23)
}
