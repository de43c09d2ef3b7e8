//! Sums of products by instructions of aarch64.

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddvq_f32, vcvt_f32_f16, vdupq_n_f32, vfmaq_f32, vld1_u16, vld1q_f32,
    vreinterpret_f16_u16, vreinterpretq_f32_u32, vshll_n_u16,
};

use crate::numbers::{Kind, Number};

/// The sum of products of `a` and `b`, of one length, with NEON.
#[target_feature(enable = "neon")]
pub(crate) fn neon<T: Number>(a: &[f32], b: &[T]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    let mut sums = [vdupq_n_f32(0.0); 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (i, sum) in sums.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "loads are by address")]
            // SAFETY: eight times four are the 32 of a chunk.
            unsafe {
                let (a, b) = (a.as_ptr().add(i * 4), b.as_ptr().add(i * 4));
                *sum = vfmaq_f32(*sum, vld1q_f32(a), four(b));
            }
        }
    }
    let mut rest = 0.0;
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        rest += a * b.to_f32();
    }
    let [one, two, three, four, five, six, seven, eight] = sums;
    let first = vaddq_f32(vaddq_f32(one, two), vaddq_f32(three, four));
    let second = vaddq_f32(vaddq_f32(five, six), vaddq_f32(seven, eight));
    vaddvq_f32(vaddq_f32(first, second)) + rest
}

#[target_feature(enable = "neon")]
#[inline]
#[expect(unsafe_code, reason = "loads are by address")]
// SAFETY: four numbers must lie at `from`.
unsafe fn four<T: Number>(from: *const T) -> float32x4_t {
    // SAFETY: as the caller says; a number is as wide as its kind.
    unsafe {
        match T::KIND {
            Kind::F32 => vld1q_f32(from.cast()),
            Kind::F16 => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))),
            Kind::BF16 => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))),
        }
    }
}
