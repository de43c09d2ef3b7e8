//! Stored bytes to numbers, on all cores; and the types of numbers that matrices are made of.
//!
//! safetensors and GGUF are little-endian. Nothing here expects a tensor's bytes to be aligned.

use checkpoint::Dtype;
use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::instructions::{self, Loop};

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

/// What a matrix is made of.
pub(crate) trait Number: Copy + Send + Sync + Sized {
    const KIND: Kind;

    fn to_f32(self) -> f32;

    /// The f32 that `numbers` are.
    fn widen(numbers: &[Self], wide: &mut [f32]);
}

/// The types of a matrix's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    BF16,
}

impl Number for f32 {
    const KIND: Kind = Kind::F32;

    fn to_f32(self) -> f32 {
        self
    }

    fn widen(numbers: &[Self], wide: &mut [f32]) {
        wide.copy_from_slice(numbers);
    }
}

impl Number for f16 {
    const KIND: Kind = Kind::F16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn widen(numbers: &[Self], wide: &mut [f32]) {
        // By F16C where there is any.
        numbers.convert_to_f32_slice(wide);
    }
}

impl Number for bf16 {
    const KIND: Kind = Kind::BF16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn widen(numbers: &[Self], wide: &mut [f32]) {
        instructions::run(WidenBf16 { numbers, wide });
    }
}

struct WidenBf16<'a> {
    numbers: &'a [bf16],
    wide: &'a mut [f32],
}

impl Loop for WidenBf16<'_> {
    #[expect(clippy::inline_always, reason = "only what is inlined is compiled for the set")]
    #[inline(always)]
    fn run(self) {
        for (wide, number) in self.wide.iter_mut().zip(self.numbers) {
            *wide = f32::from_bits(u32::from(number.to_bits()) << 16);
        }
    }
}
