//! F16 and BF16 to f32 and back, rounded to nearest even, and what that rounding loses.
//!
//! The loops are written without branches over plain slices, which compilers turn into vector code
//! for any processor.

use safetensors::Dtype;

/// The types that have arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F16,
    Bf16,
    F32,
}

impl Float {
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F32 => Some(Self::F32),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Counts over one chunk; 32 bits so that they add up beside the values in vector registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) lossy: u32,
    pub(super) flushed: u32,
    pub(super) overflowed: u32,
}

impl Tally {
    fn add(&mut self, lossy: bool, flushed: bool, overflowed: bool) {
        self.lossy += u32::from(lossy);
        self.flushed += u32::from(flushed);
        self.overflowed += u32::from(overflowed);
    }
}

/// Casts a chunk of no more elements than `buffer` has.
pub(super) fn convert(
    from: Float,
    to: Float,
    source: &[u8],
    target: &mut [u8],
    buffer: &mut [f32],
) -> Tally {
    if (from, to) == (Float::Bf16, Float::F16) {
        return bf16_to_f16(source, target);
    }
    let values = &mut buffer[..source.len() / from.width()];
    widen(from, source, values);
    narrow(to, values, target)
}

/// Reads `source` as f32, which holds every value of the other types. NaNs keep their payload.
pub(super) fn widen(from: Float, source: &[u8], values: &mut [f32]) {
    match from {
        Float::F16 => {
            for (value, bytes) in values.iter_mut().zip(source.as_chunks().0) {
                *value = f16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        Float::Bf16 => {
            for (value, bytes) in values.iter_mut().zip(source.as_chunks().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Float::F32 => {
            for (value, bytes) in values.iter_mut().zip(source.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
    }
}

/// Writes `values` rounded to nearest, ties to even. A NaN becomes a quiet one with the upper bits
/// of its payload.
pub(super) fn narrow(to: Float, values: &[f32], target: &mut [u8]) -> Tally {
    let mut tally = Tally::default();
    match to {
        Float::F16 => {
            for (value, bytes) in values.iter().zip(target.as_chunks_mut().0) {
                *bytes = f32_to_f16(*value, &mut tally).to_le_bytes();
            }
        }
        Float::Bf16 => {
            for (value, bytes) in values.iter().zip(target.as_chunks_mut().0) {
                *bytes = f32_to_bf16(*value, &mut tally).to_le_bytes();
            }
        }
        Float::F32 => {
            for (value, bytes) in values.iter().zip(target.as_chunks_mut().0) {
                *bytes = value.to_le_bytes();
            }
        }
    }
    tally
}

/// The exponent field of f32 infinities.
const INFINITY: u32 = 0x7f80_0000;

/// F16's exponents are biased by 15, those of f32 by 127: the difference, in place.
const REBIAS: u32 = (127 - 15) << 23;

/// F16 as f32, which holds all its values. NaNs keep their payload.
#[inline]
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let magnitude = half & 0x7fff;
    let shifted = u32::from(magnitude) << 13;
    // Below 2^-14 a magnitude counts units of 2^-24; the product is exact and a normal f32.
    let subnormal = (f32::from(magnitude) * f32::from_bits((127 - 24) << 23)).to_bits();
    let bits = if magnitude < 0x0400 {
        subnormal
    } else if magnitude < 0x7c00 {
        shifted + REBIAS
    } else {
        shifted | INFINITY
    };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "what is kept fits in 16 bits")]
fn f32_to_f16(value: f32, tally: &mut Tally) -> u16 {
    /// 2^-14, the least normal F16.
    const LEAST_NORMAL: u32 = (127 - 14) << 23;
    /// 65,520, halfway between the largest F16 and what would come next: rounds to infinity.
    const OVERFLOW: u32 = 0x477f_f000;

    let magnitude = value.to_bits() & 0x7fff_ffff;
    // Near 0.5 the last bit of an f32 is worth 2^-24, as that of a subnormal F16: adding 0.5 rounds
    // to it, and taking 0.5 away again is exact.
    let shifted = f32::from_bits(magnitude) + 0.5;
    let subnormal = shifted.to_bits() - 0.5_f32.to_bits();
    // Half of what is cut off, less one if the last bit kept is even; a carry is a larger exponent.
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0x0fff + odd) >> 13;

    let small = magnitude < LEAST_NORMAL;
    let finite = if small { subnormal } else { normal };
    let large = if magnitude > INFINITY { 0x7e00 | (magnitude >> 13) & 0x03ff } else { 0x7c00 };
    let rounded = if magnitude < OVERFLOW { finite } else { large };

    let lost = if small { (shifted - 0.5).to_bits() ^ magnitude } else { magnitude & 0x1fff };
    tally.add(
        lost != 0 && magnitude < OVERFLOW,
        rounded == 0 && magnitude != 0,
        (OVERFLOW..INFINITY).contains(&magnitude),
    );
    rounded as u16 | sign(value)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "what is kept fits in 16 bits")]
fn f32_to_bf16(value: f32, tally: &mut Tally) -> u16 {
    /// Halfway between the largest BF16 and what would come next: rounds to infinity.
    const OVERFLOW: u32 = 0x7f7f_8000;

    let magnitude = value.to_bits() & 0x7fff_ffff;
    let odd = (magnitude >> 16) & 1;
    // Half of what is cut off, less one if the last bit kept is even; a carry is a larger exponent.
    let number = (magnitude + 0x7fff + odd) >> 16;
    let nan = magnitude >> 16 | 0x0040;
    let rounded = if magnitude > INFINITY { nan } else { number };

    tally.add(
        magnitude & 0xffff != 0 && magnitude < OVERFLOW,
        rounded == 0 && magnitude != 0,
        (OVERFLOW..INFINITY).contains(&magnitude),
    );
    rounded as u16 | sign(value)
}

#[inline]
fn sign(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16 & 0x8000
}

/// The cast of most builds, without f32: where F16 is normal it holds each BF16 exactly, with
/// another bias and three more bits of mantissa. Groups with any other value go the long way.
fn bf16_to_f16(source: &[u8], target: &mut [u8]) -> Tally {
    /// Elements of a group. About one trained weight in 500 is below 2^-14.
    const GROUP: usize = 32;
    /// 2^-14, the least normal F16, as BF16.
    const LEAST_NORMAL: u16 = (127 - 14) << 7;
    /// 2^16, the first power of two beyond F16, as BF16.
    const BEYOND: u16 = (127 + 16) << 7;
    const REBIAS: u16 = (127 - 15) << 7;

    let mut tally = Tally::default();
    let sources = source.chunks(2 * GROUP);
    let targets = target.chunks_mut(2 * GROUP);
    for (source, target) in sources.zip(targets) {
        let mut outside = 0;
        for (from, to) in source.as_chunks().0.iter().zip(target.as_chunks_mut().0) {
            let bits = u16::from_le_bytes(*from);
            let magnitude = bits & 0x7fff;
            let normal = magnitude.wrapping_sub(LEAST_NORMAL) < BEYOND - LEAST_NORMAL;
            outside |= u16::from(!normal && magnitude != 0);
            let half = magnitude.saturating_sub(REBIAS) << 3 | bits & 0x8000;
            *to = half.to_le_bytes();
        }
        if outside != 0 {
            let mut buffer = [0.0; GROUP];
            let values = &mut buffer[..source.len() / 2];
            widen(Float::Bf16, source, values);
            let group = narrow(Float::F16, values, target);
            tally.lossy += group.lossy;
            tally.flushed += group.flushed;
            tally.overflowed += group.overflowed;
        }
    }
    tally
}
