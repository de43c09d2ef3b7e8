//! F16 to f32 and back, one at a time: the scales of blocks.

/// F16 as f32, which holds all its values. NaNs keep their payload.
#[inline]
pub(super) fn to_f32(half: u16) -> f32 {
    let magnitude = half & 0x7fff;
    let shifted = u32::from(magnitude) << 13;
    // Below 2^-14 a magnitude counts units of 2^-24; the product is exact and a normal f32.
    let subnormal = (f32::from(magnitude) * f32::from_bits((127 - 24) << 23)).to_bits();
    let bits = if magnitude < 0x0400 {
        subnormal
    } else if magnitude < 0x7c00 {
        shifted + ((127 - 15) << 23)
    } else {
        shifted | 0x7f80_0000
    };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

/// `value`, not negative, as F16, rounded to nearest, ties to even.
#[inline]
pub(super) fn from_magnitude(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        0x7e00
    } else if value < f32::from_bits((127 - 14) << 23) {
        // Near 0.5 the last bit of an f32 is worth 2^-24, as that of a subnormal F16.
        ((value + 0.5).to_bits() - 0.5_f32.to_bits()) as u16
    } else if value < 65_520.0 {
        // Half of what is cut off, less one if the last bit kept is even; a carry is an exponent more.
        ((bits - ((127 - 15) << 23) + 0x0fff + (bits >> 13 & 1)) >> 13) as u16
    } else {
        0x7c00
    }
}
