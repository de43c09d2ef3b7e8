//! F16 to f32 and back, one at a time: the scales of blocks.

pub(super) use crate::arithmetic::cast::f16_to_f32 as to_f32;

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
