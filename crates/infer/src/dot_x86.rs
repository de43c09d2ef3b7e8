//! Sums of products by instructions of x86.

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_prefetch,
    _mm_shuffle_ps, _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_setzero_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps,
};

/// How far ahead of what is multiplied memory is asked for, in elements: the processor does so by
/// itself, but not across the bounds of pages.
const AHEAD: usize = 768;

/// The sum of products of `a` and `b`, of one length, with AVX-512.
#[target_feature(enable = "avx512f")]
pub(crate) fn avx512(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (a.as_ptr(), b.as_ptr());
    let mut sums = [_mm512_setzero_ps(); 4];
    let whole = n / 64 * 64;
    for first in (0..whole).step_by(64) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = first + i * 16;
            #[expect(unsafe_code, reason = "loads are by address")]
            // SAFETY: `at + 16` is at most `n`; what is only prefetched may lie anywhere.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(at + AHEAD).cast());
                *sum = _mm512_fmadd_ps(_mm512_loadu_ps(a.add(at)), _mm512_loadu_ps(b.add(at)), *sum);
            }
        }
    }
    for (i, at) in (whole..n).step_by(16).enumerate() {
        let mask = if n - at >= 16 { u16::MAX } else { (1 << (n - at)) - 1 };
        #[expect(unsafe_code, reason = "loads are by address")]
        // SAFETY: what the mask leaves out is not read.
        unsafe {
            let (a, b) =
                (_mm512_maskz_loadu_ps(mask, a.add(at)), _mm512_maskz_loadu_ps(mask, b.add(at)));
            sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
        }
    }
    let [one, two, three, four] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(one, two), _mm512_add_ps(three, four)))
}

/// The sum of products of `a` and `b`, of one length, with AVX2.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn avx2(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    let mut sums = [_mm256_setzero_ps(); 4];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (i, sum) in sums.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "loads are by address")]
            // SAFETY: four times eight are the 32 of a chunk; what is only prefetched may lie anywhere.
            unsafe {
                let (a, b) = (a.as_ptr().add(i * 8), b.as_ptr().add(i * 8));
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
                *sum = _mm256_fmadd_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), *sum);
            }
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest += a * b;
    }
    let [one, two, three, four] = sums;
    let sum = _mm256_add_ps(_mm256_add_ps(one, two), _mm256_add_ps(three, four));
    let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum))) + rest
}
