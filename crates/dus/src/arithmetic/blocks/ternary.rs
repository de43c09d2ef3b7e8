//! Types of one, one and a half and two bits: a few values around zero, with one scale.

use super::codes::{bits, bytes, f16, multiply};
use super::k_quants::quarters;

/// `d: f16, quants: 128 × 1 bit`: `d` for a one, `−d` for a zero.
pub(super) fn q1_0(block: &[u8; 18], values: &mut [f32; 128]) {
    let mut codes = [0; 128];
    for (codes, &byte) in codes.as_chunks_mut::<8>().0.iter_mut().zip(bytes::<16>(block, 2)) {
        *codes = bits(byte).map(|bit| 2 * bit.cast_signed() - 1);
    }
    multiply(&codes, &[f16(block, 0)], values);
}

/// `d: f16, quants: 64 × 2 bits`, four neighbours a byte: `d · (quant − 1)`.
pub(super) fn q2_0(block: &[u8; 18], values: &mut [f32; 64]) {
    let mut codes = [0; 64];
    for (codes, &byte) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes::<16>(block, 2)) {
        *codes = [0, 2, 4, 6].map(|shift| (byte >> shift & 3).cast_signed() - 1);
    }
    multiply(&codes, &[f16(block, 0)], values);
}

/// `quants: 48 × five elements, 4 × four elements, d: f16`: `d · (quant − 1)`.
///
/// A byte is a fraction of 256 whose digits to the base of 3 are its elements. Each of 32 bytes, then
/// of 16, then of 4, gives its first digit, then each its second, and so on.
pub(super) fn tq1_0(block: &[u8; 54], values: &mut [f32; 256]) {
    let mut codes = [0; 256];
    let (first, rest) = codes.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    digits(bytes::<32>(block, 0), first);
    digits(bytes::<16>(block, 32), second);
    digits(bytes::<4>(block, 48), third);
    multiply(&codes, &[f16(block, 52)], values);
}

/// `quants: 256 × 2 bits, d: f16`: `d · (quant − 1)`.
pub(super) fn tq2_0(block: &[u8; 66], values: &mut [f32; 256]) {
    let codes = quarters(bytes(block, 0)).map(|quant| quant - 1);
    multiply(&codes, &[f16(block, 64)], values);
}

/// Digits to the base of 3, less 1: the first of all `fractions`, the second of all, and so on.
#[inline]
fn digits<const N: usize>(fractions: &[u8; N], codes: &mut [i8]) {
    let mut fractions = *fractions;
    for codes in codes.as_chunks_mut::<N>().0 {
        for (code, fraction) in codes.iter_mut().zip(&mut fractions) {
            // What three times the fraction carries is the digit, what is left the next fraction.
            *code = i8::from(*fraction > 85) + i8::from(*fraction > 170) - 1;
            *fraction = fraction.wrapping_mul(3);
        }
    }
}
