//! K-quants: 256 elements in groups of 16 or 32, whose scales are small integers times the block's.

use super::codes::{bytes, f16, multiply, multiply_less};

/// `groups: 16 × (scale: 4 bits, minimum: 4 bits), quants: 256 × 2 bits, d: f16, dmin: f16`.
///
/// A byte holds one element of four runs of 32, as in all types here of two bits.
pub(super) fn q2_k(block: &[u8; 84], values: &mut [f32; 256]) {
    let (d, dmin) = (f16(block, 80), f16(block, 82));
    let groups = bytes::<16>(block, 0);
    let scales = groups.map(|group| d * f32::from(group & 15));
    let minima = groups.map(|group| dmin * f32::from(group >> 4));
    let codes = quarters(bytes(block, 16));
    multiply_less(&codes, &scales, &minima, values);
}

/// `third bits: 256 × 1 bit, quants: 256 × 2 bits, scales: 16 × 6 bits, d: f16`.
///
/// Quants are less 4 and scales less 32.
pub(super) fn q3_k(block: &[u8; 110], values: &mut [f32; 256]) {
    let d = f16(block, 108);
    let (low, high) = (bytes::<8>(block, 96), bytes::<4>(block, 104));
    let mut scales = [0.0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        let four = low[i % 8] >> (i / 8 * 4) & 15;
        let two = high[i % 4] >> (i / 4 * 2) & 3;
        *scale = d * f32::from((four | two << 4).cast_signed() - 32);
    }
    let mut codes = quarters(bytes(block, 32));
    let third = bytes::<32>(block, 0);
    for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, third) in codes.iter_mut().zip(third) {
            *code += (third >> run << 2 & 4).cast_signed() - 4;
        }
    }
    multiply(&codes, &scales, values);
}

/// `d: f16, dmin: f16, scales and minima: 8 × (6 + 6 bits), quants: 256 × 4 bits`.
pub(super) fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (scales, minima) = scales_and_minima(bytes(block, 0));
    let codes = runs(bytes(block, 16));
    multiply_less(&codes, &scales, &minima, values);
}

/// `d: f16, dmin: f16, scales and minima: 8 × (6 + 6 bits), fifth bits: 256 × 1 bit,
/// quants: 256 × 4 bits`.
pub(super) fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let (scales, minima) = scales_and_minima(bytes(block, 0));
    let mut codes = runs(bytes(block, 48));
    let fifth = bytes::<32>(block, 16);
    for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, fifth) in codes.iter_mut().zip(fifth) {
            *code |= (fifth >> run << 4 & 16).cast_signed();
        }
    }
    multiply_less(&codes, &scales, &minima, values);
}

/// `low: 256 × 4 bits, high: 256 × 2 bits, scales: 16 × i8, d: f16`. Quants are less 32.
pub(super) fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = f16(block, 208);
    let scales = bytes::<16>(block, 192).map(|scale| d * f32::from(scale.cast_signed()));

    let mut codes = quarters(bytes(block, 128));
    let halves = codes.as_chunks_mut::<128>().0.iter_mut();
    for (codes, low) in halves.zip(bytes::<128>(block, 0).as_chunks::<64>().0) {
        let (first, second) = codes.split_at_mut(64);
        for ((first, second), low) in first.iter_mut().zip(second).zip(low) {
            *first = (*first << 4 | (low & 15).cast_signed()) - 32;
            *second = (*second << 4 | (low >> 4).cast_signed()) - 32;
        }
    }
    multiply(&codes, &scales, values);
}

/// 256 elements of 2 bits: each 32 bytes hold four runs of 32, the first in the lowest bits.
#[inline]
pub(super) fn quarters(packed: &[u8; 64]) -> [i8; 256] {
    let mut codes = [0; 256];
    for (codes, packed) in codes.as_chunks_mut::<128>().0.iter_mut().zip(packed.as_chunks::<32>().0)
    {
        for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(packed) {
                *code = (byte >> (2 * run) & 3).cast_signed();
            }
        }
    }
    codes
}

/// 256 elements of 4 bits: each 32 bytes hold two runs of 32, the first in the lower halves.
#[inline]
fn runs(packed: &[u8; 128]) -> [i8; 256] {
    let mut codes = [0; 256];
    for (codes, packed) in codes.as_chunks_mut::<64>().0.iter_mut().zip(packed.as_chunks::<32>().0)
    {
        let (first, second) = codes.split_at_mut(32);
        for ((first, second), byte) in first.iter_mut().zip(second).zip(packed) {
            *first = (byte & 15).cast_signed();
            *second = (byte >> 4).cast_signed();
        }
    }
    codes
}

/// Eight scales and minima, multiplied by `d` and `dmin`, which stand before them.
///
/// Bytes 0 to 3 end in the first four scales and bytes 4 to 7 in the first four minima. The last four
/// of both have their lower four bits in bytes 8 to 11 and their upper two above the first four.
#[inline]
fn scales_and_minima(head: &[u8; 16]) -> ([f32; 8], [f32; 8]) {
    let (d, dmin) = (f16(head, 0), f16(head, 2));
    let (sixes, fours) = (bytes::<8>(head, 4), bytes::<4>(head, 12));
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for i in 0..4 {
        scales[i] = d * f32::from(sixes[i] & 0x3f);
        minima[i] = dmin * f32::from(sixes[i + 4] & 0x3f);
        scales[i + 4] = d * f32::from(fours[i] & 0x0f | sixes[i] >> 2 & 0x30);
        minima[i + 4] = dmin * f32::from(fours[i] >> 4 | sixes[i + 4] >> 2 & 0x30);
    }
    (scales, minima)
}
