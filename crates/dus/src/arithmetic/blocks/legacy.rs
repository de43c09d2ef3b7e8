//! The first types: blocks of 32 elements with a scale, or a scale and a minimum.
//!
//! Of the bytes that hold two elements each, the lower halves are the first 16 elements and the upper
//! halves the last 16.

use super::codes::{bits, bytes, f16, multiply, multiply_less};

/// `d: f16, quants: 32 × 4 bits`: `d · (quant − 8)`.
pub(super) fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let codes = halves(bytes(block, 2)).map(|quant| quant - 8);
    multiply(&codes, &[f16(block, 0)], values);
}

/// `d: f16, m: f16, quants: 32 × 4 bits`: `d · quant + m`.
pub(super) fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let codes = halves(bytes(block, 4));
    multiply_less(&codes, &[f16(block, 0)], &[-f16(block, 2)], values);
}

/// `d: f16, fifth bits: 32 × 1 bit, quants: 32 × 4 bits`: `d · (quant − 16)`.
pub(super) fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let codes = fifth(*bytes(block, 2), halves(bytes(block, 6))).map(|quant| quant - 16);
    multiply(&codes, &[f16(block, 0)], values);
}

/// `d: f16, m: f16, fifth bits: 32 × 1 bit, quants: 32 × 4 bits`: `d · quant + m`.
pub(super) fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let codes = fifth(*bytes(block, 4), halves(bytes(block, 8)));
    multiply_less(&codes, &[f16(block, 0)], &[-f16(block, 2)], values);
}

/// `d: f16, quants: 32 × i8`: `d · quant`.
pub(super) fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let codes = bytes::<32>(block, 2).map(u8::cast_signed);
    multiply(&codes, &[f16(block, 0)], values);
}

/// 32 elements of 4 bits.
#[inline]
pub(super) fn halves(packed: &[u8; 16]) -> [i8; 32] {
    let mut codes = [0; 32];
    for (i, byte) in packed.iter().enumerate() {
        codes[i] = (byte & 15).cast_signed();
        codes[i + 16] = (byte >> 4).cast_signed();
    }
    codes
}

/// `codes` with a fifth bit above their four.
#[inline]
fn fifth(high: [u8; 4], mut codes: [i8; 32]) -> [i8; 32] {
    for (codes, high) in codes.as_chunks_mut::<8>().0.iter_mut().zip(high) {
        for (code, bit) in codes.iter_mut().zip(bits(high)) {
            *code |= (bit << 4).cast_signed();
        }
    }
    codes
}
