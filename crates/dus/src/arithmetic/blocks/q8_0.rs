//! Encoding as `Q8_0`.

use super::f16;

/// Encodes `values` as `blocks` of `Q8_0`, and returns how many values it cannot hold: NaN,
/// infinities, and those so large that their block's scale is infinite.
///
/// Blocks are those of llama.cpp's `quantize_row_q8_0_ref` and gguf-py's `quantize`, byte for byte,
/// where every value can be held; the values of other blocks are lost.
///
/// # Panics
///
/// If `values` are not whole blocks of 32, or `blocks` not as many blocks of 34 bytes.
#[must_use = "values that are not finite are lost"]
pub fn encode_q8_0(values: &[f32], blocks: &mut [u8]) -> u64 {
    let (values, rest) = values.as_chunks::<32>();
    assert!(rest.is_empty(), "a piece of a block");
    assert_eq!(blocks.len(), values.len() * 34, "blocks of another number");
    let blocks = blocks.as_chunks_mut::<34>().0;
    values.iter().zip(blocks).map(|(values, block)| u64::from(encode(values, block))).sum()
}

fn encode(values: &[f32; 32], block: &mut [u8; 34]) -> u32 {
    /// The least magnitude of which the 127th part is nearer to 2^16 than to the largest F16.
    const OVERFLOW: f32 = 65_520.0 * 127.0;

    let d = largest_magnitude(values) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };

    let (scale, quants) = block.split_at_mut(2);
    scale.copy_from_slice(&f16::from_magnitude(d).to_le_bytes());
    for (quant, value) in quants.iter_mut().zip(values) {
        *quant = rounded(value * inverse);
    }
    // NaN's bits are greater than all others.
    let lost = |value: &f32| value.abs().to_bits() >= OVERFLOW.to_bits();
    values.iter().map(|value| u32::from(lost(value))).sum()
}

/// The largest magnitude that is not NaN: of every fourth value first, which need not wait for others.
#[inline]
fn largest_magnitude(values: &[f32; 32]) -> f32 {
    let mut largest = [0.0_f32; 4];
    for values in values.as_chunks::<4>().0 {
        for (largest, value) in largest.iter_mut().zip(values) {
            *largest = if value.abs() > *largest { value.abs() } else { *largest };
        }
    }
    largest.into_iter().fold(0.0, f32::max)
}

/// `value`, at most 127 in magnitude, rounded to an i8, ties away from zero.
#[inline]
fn rounded(value: f32) -> u8 {
    /// Numbers from here on are whole: adding it rounds, ties to even.
    const WHOLE: f32 = 8_388_608.0;

    let magnitude = value.abs();
    let even = magnitude + WHOLE - WHOLE;
    let away = if magnitude - even >= 0.5 { even + 1.0 } else { even };
    // The last bits of a sum as large as this are its last bits as an integer, negative or not.
    (away.copysign(value) + 1.5 * WHOLE).to_bits() as u8
}
