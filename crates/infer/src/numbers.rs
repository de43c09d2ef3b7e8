//! Stored bytes to numbers, on all cores.
//!
//! safetensors and GGUF are little-endian. Nothing here expects a tensor's bytes to be aligned.

use checkpoint::Dtype;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that a thread converts at once: 256 KiB of f32, which a core's second-level cache holds.
const BLOCK: usize = 1 << 16;

/// Bytes of BF16 as they are.
pub(crate) fn bf16(bytes: &[u8]) -> Vec<bf16> {
    convert(bytes, bf16::from_le_bytes)
}

/// Bytes of F16 as they are.
pub(crate) fn f16(bytes: &[u8]) -> Vec<f16> {
    convert(bytes, f16::from_le_bytes)
}

/// Bytes of a floating-point type as f32; `None` for other types. Only F64 is rounded.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => convert(bytes, f32::from_le_bytes),
        Dtype::BF16 => convert(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::F16 => convert(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
        _ => return None,
    })
}

/// f32 rounded to BF16.
pub(crate) fn round_bf16(numbers: &[f32]) -> Vec<bf16> {
    round(numbers, bf16::from_f32)
}

/// f32 rounded to F16.
pub(crate) fn round_f16(numbers: &[f32]) -> Vec<f16> {
    round(numbers, f16::from_f32)
}

fn round<T: Send>(numbers: &[f32], number: impl Fn(f32) -> T + Sync) -> Vec<T> {
    numbers.par_iter().with_min_len(BLOCK).map(|&x| number(x)).collect()
}

fn convert<const SIZE: usize, T: Copy + Default + Send + Sync>(
    bytes: &[u8],
    number: impl Fn([u8; SIZE]) -> T + Sync,
) -> Vec<T> {
    // Zeroed pages come from the system as they are first written, by the thread that writes them.
    let mut numbers = vec![T::default(); bytes.len() / SIZE];
    let blocks = numbers.par_chunks_mut(BLOCK).zip(bytes.par_chunks(BLOCK * SIZE));
    blocks.for_each(|(numbers, bytes)| {
        let (elements, _) = bytes.as_chunks::<SIZE>();
        for (to, &from) in numbers.iter_mut().zip(elements) {
            *to = number(from);
        }
    });
    numbers
}
