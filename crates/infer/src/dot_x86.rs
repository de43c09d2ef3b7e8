//! Sums of products by instructions of x86.

use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128,
    _mm_movehl_ps, _mm_prefetch, _mm_shuffle_ps, _mm256_add_ps, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskz_loadu_epi16,
    _mm256_setzero_ps, _mm256_slli_epi32, _mm512_add_ps, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};

use crate::numbers::{Kind, Number};

/// How far ahead of what is multiplied memory is asked for, in bytes: the processor does so by
/// itself, but not across the bounds of pages.
const AHEAD: usize = 3072;

/// The sum of products of `a` and `b`, of one length, with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(crate) fn avx512<T: Number>(a: &[f32], b: &[T]) -> f32 {
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
                let from = b.add(at);
                _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(AHEAD));
                *sum = _mm512_fmadd_ps(_mm512_loadu_ps(a.add(at)), sixteen(from), *sum);
            }
        }
    }
    for (i, at) in (whole..n).step_by(16).enumerate() {
        let mask = if n - at >= 16 { u16::MAX } else { (1 << (n - at)) - 1 };
        #[expect(unsafe_code, reason = "loads are by address")]
        // SAFETY: what the mask leaves out is not read.
        unsafe {
            let a = _mm512_maskz_loadu_ps(mask, a.add(at));
            sums[i] = _mm512_fmadd_ps(a, up_to_sixteen(mask, b.add(at)), sums[i]);
        }
    }
    let [one, two, three, four] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(one, two), _mm512_add_ps(three, four)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
#[inline]
#[expect(unsafe_code, reason = "loads are by address")]
// SAFETY: sixteen numbers must lie at `from`.
unsafe fn sixteen<T: Number>(from: *const T) -> __m512 {
    // SAFETY: as the caller says; a number is as wide as its kind.
    unsafe {
        match T::KIND {
            Kind::F32 => _mm512_loadu_ps(from.cast()),
            Kind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            Kind::BF16 => {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
#[inline]
#[expect(unsafe_code, reason = "loads are by address")]
// SAFETY: the numbers that `mask` names must lie behind `from`.
unsafe fn up_to_sixteen<T: Number>(mask: u16, from: *const T) -> __m512 {
    // SAFETY: as the caller says; a number is as wide as its kind.
    unsafe {
        match T::KIND {
            Kind::F32 => _mm512_maskz_loadu_ps(mask, from.cast()),
            Kind::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())),
            Kind::BF16 => {
                let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }
    }
}

/// The sum of products of `a` and `b`, of one length, with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn avx2<T: Number>(a: &[f32], b: &[T]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<32>();
    let (b_chunks, b_rest) = b.as_chunks::<32>();
    let mut sums = [_mm256_setzero_ps(); 4];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (i, sum) in sums.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "loads are by address")]
            // SAFETY: four times eight are the 32 of a chunk; what is only prefetched may lie anywhere.
            unsafe {
                let (a, b) = (a.as_ptr().add(i * 8), b.as_ptr().add(i * 8));
                _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD));
                *sum = _mm256_fmadd_ps(_mm256_loadu_ps(a), eight(b), *sum);
            }
        }
    }
    let mut rest = 0.0;
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        rest += a * b.to_f32();
    }
    let [one, two, three, four] = sums;
    let sum = _mm256_add_ps(_mm256_add_ps(one, two), _mm256_add_ps(three, four));
    let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum))) + rest
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
#[expect(unsafe_code, reason = "loads are by address")]
// SAFETY: eight numbers must lie at `from`.
unsafe fn eight<T: Number>(from: *const T) -> __m256 {
    // SAFETY: as the caller says; a number is as wide as its kind.
    unsafe {
        match T::KIND {
            Kind::F32 => _mm256_loadu_ps(from.cast()),
            Kind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            Kind::BF16 => {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
        }
    }
}
