//! A block's codes and scales, by the layouts of ggml-common.h.

use super::forms::Form;

/// A block taken apart.
pub(super) struct Unpacked {
    /// The codes; those of types with a sign as their bytes.
    pub(super) codes: [u8; 256],
    /// The F16 in front: scale, and minimum or that of the minima.
    pub(super) halves: [u16; 2],
    /// The small integers of each group: two of 32 elements (scale, minimum), or a byte of each 16.
    pub(super) small: [[u8; 2]; 8],
}

/// Takes a block of the form `F` apart.
pub(super) fn unpack<F: Form>(block: &[u8]) -> Unpacked {
    use checkpoint::gguf::GgmlType;
    let mut to = Unpacked { codes: [0; 256], halves: [0; 2], small: [[0; 2]; 8] };
    let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    // Where the F16 stand.
    to.halves = match F::TYPE {
        GgmlType::Q2_K => [half(80), half(82)],
        GgmlType::Q3_K => [half(108), 0],
        GgmlType::Q6_K => [half(208), 0],
        _ if F::HAS_MINIMUM => [half(0), half(2)],
        _ => [half(0), 0],
    };
    match F::TYPE {
        GgmlType::Q4_0 => nibbles(&block[2..18], &mut to.codes),
        GgmlType::Q4_1 => nibbles(&block[4..20], &mut to.codes),
        GgmlType::Q5_0 => {
            nibbles(&block[6..22], &mut to.codes);
            fifths(&block[2..6], &mut to.codes);
        }
        GgmlType::Q5_1 => {
            nibbles(&block[8..24], &mut to.codes);
            fifths(&block[4..8], &mut to.codes);
        }
        GgmlType::Q8_0 => to.codes[..32].copy_from_slice(&block[2..34]),
        GgmlType::Q2_K => {
            to.small.as_flattened_mut().copy_from_slice(&block[..16]);
            quarters(&block[16..80], &mut to.codes);
        }
        GgmlType::Q3_K => {
            to.small.as_flattened_mut().copy_from_slice(&six_bits_less_32(&block[96..108]));
            quarters(&block[32..96], &mut to.codes);
            for (i, code) in to.codes.iter_mut().enumerate() {
                *code |= (block[i % 32] >> (i / 32) & 1) << 2;
            }
        }
        GgmlType::Q4_K => {
            to.small = six_bits(&block[4..16]);
            runs(&block[16..144], &mut to.codes);
        }
        GgmlType::Q5_K => {
            to.small = six_bits(&block[4..16]);
            runs(&block[48..176], &mut to.codes);
            for (i, code) in to.codes.iter_mut().enumerate() {
                *code |= (block[16 + i % 32] >> (i / 32) & 1) << 4;
            }
        }
        GgmlType::Q6_K => {
            to.small.as_flattened_mut().copy_from_slice(&block[192..208]);
            for (i, code) in to.codes.iter_mut().enumerate() {
                // Each half of 128: low bits in 64 bytes, first the lower then the upper four; high
                // bits in 32 bytes, two for each run of 32.
                let (part, run, at) = (i / 128, i % 128 / 32, i % 32);
                let low = block[part * 64 + i % 64] >> (run / 2 * 4) & 15;
                let high = block[128 + part * 32 + at] >> (run * 2) & 3;
                *code = low | high << 4;
            }
        }
        ty => unreachable!("{ty} is in no form"),
    }
    to
}

/// 32 elements of 4 bits: first the lower halves of 16 bytes, then the upper.
fn nibbles(packed: &[u8], codes: &mut [u8; 256]) {
    for (i, byte) in packed.iter().enumerate() {
        codes[i] = byte & 15;
        codes[i + 16] = byte >> 4;
    }
}

/// The fifth bits of 32 elements.
fn fifths(packed: &[u8], codes: &mut [u8; 256]) {
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= (packed[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// 256 elements of 4 bits: each 32 bytes hold two runs of 32, the first in the lower halves.
fn runs(packed: &[u8], codes: &mut [u8; 256]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = packed[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    }
}

/// 256 elements of 2 bits: each 32 bytes hold four runs of 32, the first in the lowest bits.
fn quarters(packed: &[u8], codes: &mut [u8; 256]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = packed[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
}

/// Sixteen scales of 6 bits, less 32: their lower four bits are in eight bytes, the upper two in four.
fn six_bits_less_32(packed: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| {
        let four = packed[i % 8] >> (i / 8 * 4) & 15;
        let two = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (four | two << 4).wrapping_sub(32)
    })
}

/// Eight pairs of scale and minimum of 6 bits each; the layout is told in `dus::arithmetic::blocks`.
fn six_bits(packed: &[u8]) -> [[u8; 2]; 8] {
    std::array::from_fn(|i| {
        if i < 4 {
            return [packed[i] & 63, packed[i + 4] & 63];
        }
        let (four, scale, minimum) = (packed[i + 4], packed[i - 4] >> 6, packed[i] >> 6);
        [four & 15 | scale << 4, four >> 4 | minimum << 4]
    })
}
