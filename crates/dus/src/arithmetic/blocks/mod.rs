//! Blocks of ggml's quantised types: decoded to f32, encoded, zeroed, scaled. Bytes in, numbers out.
//!
//! Whatever the type, an element is a small integer, its code, times a scale that a group of
//! elements shares, in some types less a minimum that the group shares too. A decoder unpacks codes
//! and scales; `codes` does the multiplying for all of them. Values are those of gguf-py's
//! `dequantize` and llama.cpp's `dequantize_row_…` bit for bit, on every machine.
//!
//! Plain types (F32, F16, BF16, integers) have no business here, and neither have `Q8_1` and `Q8_K`,
//! which llama.cpp keeps activations in and never stores. It knows nothing of tensors or files.

use checkpoint::gguf::GgmlType;

mod codes;
mod f16;
mod fp4;
mod grids;
mod i_quants;
mod k_quants;
mod legacy;
mod q8_0;
mod scale;
mod ternary;

pub use q8_0::encode_q8_0;
pub use scale::{can_scale, is_exact_factor, scale};

/// Whether [`decode`] knows blocks of this type.
#[must_use]
pub fn can_decode(ty: GgmlType) -> bool {
    decoder(ty).is_some()
}

/// Decodes `blocks`, whole blocks of type `ty`, into as many `values`.
///
/// Scales may be NaN or infinite; values then are what IEEE 754 makes of that, and which NaN is open.
///
/// # Panics
///
/// If `ty` is none of those that [`can_decode`] tells, or `values` are not as many as `blocks` hold.
pub fn decode(ty: GgmlType, blocks: &[u8], values: &mut [f32]) {
    let decoder = decoder(ty).unwrap_or_else(|| panic!("{ty} has no decoder"));
    let num_blocks = blocks.len() / ty.block_bytes();
    assert_eq!(blocks.len(), num_blocks * ty.block_bytes(), "a piece of a block");
    assert_eq!(values.len(), num_blocks * ty.block_elements(), "values of another number");
    decoder(blocks, values);
}

/// Makes every element of `blocks` zero, positive or negative, whatever they held.
///
/// Every type in this table has that for all bytes zero: its scales are then zero, or its codes
/// where the scale is a power of two (`MXFP4`).
pub fn zero(blocks: &mut [u8]) {
    blocks.fill(0);
}

/// Decodes any number of blocks of one type.
type Decoder = fn(&[u8], &mut [f32]);

fn decoder(ty: GgmlType) -> Option<Decoder> {
    Some(match ty {
        GgmlType::Q1_0 => |blocks, values| each(blocks, values, ternary::q1_0),
        GgmlType::Q2_0 => |blocks, values| each(blocks, values, ternary::q2_0),
        GgmlType::TQ1_0 => |blocks, values| each(blocks, values, ternary::tq1_0),
        GgmlType::TQ2_0 => |blocks, values| each(blocks, values, ternary::tq2_0),

        GgmlType::Q4_0 => |blocks, values| each(blocks, values, legacy::q4_0),
        GgmlType::Q4_1 => |blocks, values| each(blocks, values, legacy::q4_1),
        GgmlType::Q5_0 => |blocks, values| each(blocks, values, legacy::q5_0),
        GgmlType::Q5_1 => |blocks, values| each(blocks, values, legacy::q5_1),
        GgmlType::Q8_0 => |blocks, values| each(blocks, values, legacy::q8_0),

        GgmlType::Q2_K => |blocks, values| each(blocks, values, k_quants::q2_k),
        GgmlType::Q3_K => |blocks, values| each(blocks, values, k_quants::q3_k),
        GgmlType::Q4_K => |blocks, values| each(blocks, values, k_quants::q4_k),
        GgmlType::Q5_K => |blocks, values| each(blocks, values, k_quants::q5_k),
        GgmlType::Q6_K => |blocks, values| each(blocks, values, k_quants::q6_k),

        GgmlType::IQ1_S => |blocks, values| each(blocks, values, i_quants::iq1_s),
        GgmlType::IQ1_M => |blocks, values| each(blocks, values, i_quants::iq1_m),
        GgmlType::IQ2_XXS => |blocks, values| each(blocks, values, i_quants::iq2_xxs),
        GgmlType::IQ2_XS => |blocks, values| each(blocks, values, i_quants::iq2_xs),
        GgmlType::IQ2_S => |blocks, values| each(blocks, values, i_quants::iq2_s),
        GgmlType::IQ3_XXS => |blocks, values| each(blocks, values, i_quants::iq3_xxs),
        GgmlType::IQ3_S => |blocks, values| each(blocks, values, i_quants::iq3_s),
        GgmlType::IQ4_NL => |blocks, values| each(blocks, values, i_quants::iq4_nl),
        GgmlType::IQ4_XS => |blocks, values| each(blocks, values, i_quants::iq4_xs),

        GgmlType::MXFP4 => |blocks, values| each(blocks, values, fp4::mxfp4),
        GgmlType::NVFP4 => |blocks, values| each(blocks, values, fp4::nvfp4),

        _ => return None,
    })
}

/// Calls `decode` with every block and its values. One loop a type, so that all sizes in it are
/// known when it is compiled.
#[inline]
fn each<const BYTES: usize, const ELEMENTS: usize>(
    blocks: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (block, values) in blocks.as_chunks().0.iter().zip(values.as_chunks_mut().0) {
        decode(block, values);
    }
}

#[cfg(test)]
mod tests;
