//! I-quants: codes that are not evenly spaced, looked up one by one or as points of a grid.
//!
//! In types of a grid signs are stored apart: a bit an element, or seven bits for eight elements, of
//! which an even number are then negative. A scale `s` stands for `s + ½`, unless it says otherwise
//! below, and is multiplied by a quarter of the block's (`IQ2`) or a half (`IQ3_XXS`).

use super::codes::{bits, bytes, f16, multiply};
use super::f16::to_f32;
use super::grids::{IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use super::legacy::halves;

/// The sixteen codes of `IQ4_NL` and `IQ4_XS`.
const NONLINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `d: f16, quants: 32 × 4 bits`.
pub(super) fn iq4_nl(block: &[u8; 18], values: &mut [f32; 32]) {
    let codes = halves(bytes(block, 2)).map(nonlinear);
    multiply(&codes, &[f16(block, 0)], values);
}

/// `d: f16, upper bits of scales: 8 × 2 bits, lower bits: 8 × 4 bits, quants: 256 × 4 bits`.
///
/// Scales are less 32.
pub(super) fn iq4_xs(block: &[u8; 136], values: &mut [f32; 256]) {
    let d = f16(block, 0);
    let high = u16::from_le_bytes(*bytes(block, 2));
    let low = u32::from_le_bytes(*bytes(block, 4));
    let mut scales = [0.0; 8];
    for (i, scale) in scales.iter_mut().enumerate() {
        let (four, two) = ((low >> (4 * i) & 15) as i8, (high >> (2 * i) & 3) as i8);
        *scale = d * f32::from((four | two << 4) - 32);
    }
    let mut codes = [0; 256];
    let groups = codes.as_chunks_mut::<32>().0.iter_mut();
    for (codes, packed) in groups.zip(bytes::<128>(block, 8).as_chunks().0) {
        *codes = halves(packed).map(nonlinear);
    }
    multiply(&codes, &scales, values);
}

/// `d: f16, groups: 8 × (points: 4 × 8 bits, signs: 4 × 7 bits, scale: 4 bits)`.
pub(super) fn iq2_xxs(block: &[u8; 66], values: &mut [f32; 256]) {
    let d = f16(block, 0);
    let (mut codes, mut scales) = ([0; 256], [0.0; 8]);
    let groups = codes.as_chunks_mut::<32>().0.iter_mut().zip(&mut scales);
    for ((codes, scale), group) in groups.zip(bytes::<64>(block, 2).as_chunks::<8>().0) {
        let rest = u32::from_le_bytes(*bytes(group, 4));
        for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *codes = signed(IQ2_XXS[usize::from(group[i])], even(rest >> (7 * i)));
        }
        *scale = d * (0.5 + (rest >> 28) as f32) * 0.25;
    }
    multiply(&codes, &scales, values);
}

/// `d: f16, quants: 32 × (point: 9 bits, signs: 7 bits), scales: 16 × 4 bits`.
pub(super) fn iq2_xs(block: &[u8; 74], values: &mut [f32; 256]) {
    let mut codes = [0; 256];
    let points = codes.as_chunks_mut::<8>().0.iter_mut();
    for (codes, quant) in points.zip(bytes::<64>(block, 2).as_chunks().0) {
        let quant = u16::from_le_bytes(*quant);
        *codes = signed(IQ2_XS[usize::from(quant & 511)], even(u32::from(quant >> 9)));
    }
    let scales = quarter_scales(f16(block, 0), *bytes(block, 66));
    multiply(&codes, &scales, values);
}

/// `d: f16, points: 32 × 8 bits, signs: 256 × 1 bit, upper bits of points: 32 × 2 bits,
/// scales: 16 × 4 bits`.
pub(super) fn iq2_s(block: &[u8; 82], values: &mut [f32; 256]) {
    let (low, signs) = (bytes::<32>(block, 2), bytes::<32>(block, 34));
    let high = bytes::<8>(block, 66);
    let mut codes = [0; 256];
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = high[i / 4] >> (i % 4 * 2) & 3;
        let point = usize::from(low[i]) | usize::from(high) << 8;
        *codes = signed(IQ2_S[point], signs[i]);
    }
    let scales = quarter_scales(f16(block, 0), *bytes(block, 74));
    multiply(&codes, &scales, values);
}

/// `d: f16, points: 64 × 8 bits, groups: 8 × (signs: 4 × 7 bits, scale: 4 bits)`.
pub(super) fn iq3_xxs(block: &[u8; 98], values: &mut [f32; 256]) {
    let d = f16(block, 0);
    let (mut codes, mut scales) = ([0; 256], [0.0; 8]);
    let groups = codes.as_chunks_mut::<32>().0.iter_mut().zip(&mut scales);
    let packed = bytes::<64>(block, 2).as_chunks::<8>().0.iter();
    for (((codes, scale), points), rest) in
        groups.zip(packed).zip(bytes::<32>(block, 66).as_chunks().0)
    {
        let rest = u32::from_le_bytes(*rest);
        for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let pair = [points[2 * i], points[2 * i + 1]].map(|point| IQ3_XXS[usize::from(point)]);
            *codes = signed(joined(pair), even(rest >> (7 * i)));
        }
        *scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
    }
    multiply(&codes, &scales, values);
}

/// `d: f16, points: 64 × 8 bits, ninth bits of points: 64 × 1 bit, signs: 256 × 1 bit,
/// scales: 8 × 4 bits`. Scales stand for odd numbers.
pub(super) fn iq3_s(block: &[u8; 110], values: &mut [f32; 256]) {
    let d = f16(block, 0);
    let (low, high) = (bytes::<64>(block, 2), bytes::<8>(block, 66));
    let (signs, packed) = (bytes::<32>(block, 74), bytes::<4>(block, 106));
    let mut scales = [0.0; 8];
    for (i, scale) in scales.iter_mut().enumerate() {
        *scale = d * f32::from(1 + 2 * (packed[i / 2] >> (i % 2 * 4) & 15));
    }
    let mut codes = [0; 256];
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let ninths = high[i / 4] >> (i % 4 * 2);
        let first = usize::from(low[2 * i]) | usize::from(ninths & 1) << 8;
        let second = usize::from(low[2 * i + 1]) | usize::from(ninths >> 1 & 1) << 8;
        *codes = signed(joined([IQ3_S[first], IQ3_S[second]]), signs[i]);
    }
    multiply(&codes, &scales, values);
}

/// `d: f16, points: 32 × 8 bits, groups: 8 × (upper bits of points: 4 × 3 bits, scale: 3 bits,
/// delta: 1 bit)`.
///
/// Scales stand for odd numbers. All elements of a group are moved up by an eighth, or down where the
/// bit is set: codes are eight times that, and scales an eighth, which changes no result.
pub(super) fn iq1_s(block: &[u8; 50], values: &mut [f32; 256]) {
    let d = f16(block, 0);
    let (mut codes, mut scales) = ([0; 256], [0.0; 8]);
    let groups = codes.as_chunks_mut::<32>().0.iter_mut().zip(&mut scales);
    let packed = bytes::<32>(block, 2).as_chunks::<4>().0.iter();
    for (((codes, scale), low), rest) in
        groups.zip(packed).zip(bytes::<16>(block, 34).as_chunks().0)
    {
        let rest = u16::from_le_bytes(*rest);
        for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let point = usize::from(low[i]) | usize::from(rest >> (3 * i) & 7) << 8;
            *codes = moved(IQ1_S[point], rest >> 15 == 1);
        }
        *scale = d * f32::from(2 * (rest >> 12 & 7) + 1) * 0.125;
    }
    multiply(&codes, &scales, values);
}

/// `points: 32 × 8 bits, rest of points: 32 × (upper bits: 3 bits, delta: 1 bit),
/// groups: 4 × (scales: 4 × 3 bits, a piece of d: 4 bits)`.
///
/// As `IQ1_S`, but eight elements are moved together, and 16 have a scale.
pub(super) fn iq1_m(block: &[u8; 56], values: &mut [f32; 256]) {
    let (low, high) = (bytes::<32>(block, 0), bytes::<16>(block, 32));
    let d = to_f32(iq1_m_scale(*bytes(block, 48)));
    let packed = u64::from_le_bytes(*bytes(block, 48));
    let mut scales = [0.0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        let three = (packed >> (i / 4 * 16 + i % 4 * 3)) as u8 & 7;
        *scale = d * f32::from(2 * three + 1) * 0.125;
    }
    let mut codes = [0; 256];
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let rest = high[i / 2] >> (i % 2 * 4);
        let point = usize::from(low[i]) | usize::from(rest & 7) << 8;
        *codes = moved(IQ1_S[point], rest & 8 != 0);
    }
    multiply(&codes, &scales, values);
}

/// The F16 whose bits are the upper four of each of `IQ1_M`'s last four words, lowest first.
pub(super) fn iq1_m_scale(words: [u8; 8]) -> u16 {
    let mut scale = 0;
    for (i, word) in words.as_chunks::<2>().0.iter().enumerate() {
        scale |= u16::from(word[1] >> 4) << (4 * i);
    }
    scale
}

#[inline]
fn nonlinear(quant: i8) -> i8 {
    NONLINEAR[usize::from(quant.cast_unsigned() & 15)]
}

/// `d / 4` times `scale + ½`, for 16 scales of 4 bits.
#[inline]
fn quarter_scales(d: f32, packed: [u8; 8]) -> [f32; 16] {
    let mut scales = [0.0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        let four = packed[i / 2] >> (i % 2 * 4) & 15;
        *scale = d * (0.5 + f32::from(four)) * 0.25;
    }
    scales
}

/// Eight signs of which the lowest seven bits are given: an even number of them is negative.
#[inline]
fn even(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    seven | (seven.count_ones() as u8) << 7
}

/// `point` with the coordinates negative whose bits in `signs` are set.
#[inline]
fn signed(point: [i8; 8], signs: u8) -> [i8; 8] {
    let mut codes = point;
    for (code, bit) in codes.iter_mut().zip(bits(signs)) {
        let mask = -bit.cast_signed();
        *code = (*code ^ mask) - mask;
    }
    codes
}

/// Eight times `point`, plus or minus one.
#[inline]
fn moved(point: [i8; 8], down: bool) -> [i8; 8] {
    let delta = if down { -1 } else { 1 };
    point.map(|code| 8 * code + delta)
}

#[inline]
fn joined([first, second]: [[i8; 4]; 2]) -> [i8; 8] {
    let mut point = [0; 8];
    point[..4].copy_from_slice(&first);
    point[4..].copy_from_slice(&second);
    point
}
