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

/// The sums of products of each of `rows` and `b`, of one length, with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(crate) fn avx512<T: Number, const N: usize>(rows: [&[f32]; N], b: &[T]) -> [f32; N] {
    let n = rows.iter().fold(b.len(), |n, row| n.min(row.len()));
    let b = b.as_ptr();
    let mut sums = [[_mm512_setzero_ps(); 4]; N];
    let whole = n / 64 * 64;
    for first in (0..whole).step_by(64) {
        for i in 0..4 {
            let at = first + i * 16;
            #[expect(unsafe_code, reason = "loads are by address")]
            // SAFETY: `at + 16` is at most `n`; what is only prefetched may lie anywhere.
            unsafe {
                let from = b.add(at);
                _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(AHEAD));
                let b = sixteen(from);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    sums[i] = _mm512_fmadd_ps(_mm512_loadu_ps(row.as_ptr().add(at)), b, sums[i]);
                }
            }
        }
    }
    for i in 0..4 {
        let at = whole + i * 16;
        if at >= n {
            break;
        }
        let mask = if n - at >= 16 { u16::MAX } else { (1 << (n - at)) - 1 };
        #[expect(unsafe_code, reason = "loads are by address")]
        // SAFETY: what the mask leaves out is not read.
        unsafe {
            let b = up_to_sixteen(mask, b.add(at));
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let a = _mm512_maskz_loadu_ps(mask, row.as_ptr().add(at));
                sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
            }
        }
    }
    let mut products = [0.0; N];
    for (product, [one, two, three, four]) in products.iter_mut().zip(sums) {
        let sum = _mm512_add_ps(_mm512_add_ps(one, two), _mm512_add_ps(three, four));
        *product = _mm512_reduce_add_ps(sum);
    }
    products
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

/// The sums of products of each of `rows` and `b`, of one length, with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn avx2<T: Number, const N: usize>(rows: [&[f32]; N], b: &[T]) -> [f32; N] {
    let n = rows.iter().fold(b.len(), |n, row| n.min(row.len()));
    let mut sums = [[_mm256_setzero_ps(); 4]; N];
    let whole = n / 32 * 32;
    for first in (0..whole).step_by(32) {
        for i in 0..4 {
            let at = first + i * 8;
            #[expect(unsafe_code, reason = "loads are by address")]
            // SAFETY: `at + 8` is at most `n`; what is only prefetched may lie anywhere.
            unsafe {
                let from = b.as_ptr().add(at);
                _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(AHEAD));
                let b = eight(from);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    sums[i] = _mm256_fmadd_ps(_mm256_loadu_ps(row.as_ptr().add(at)), b, sums[i]);
                }
            }
        }
    }
    let mut products = [0.0; N];
    for ((product, [one, two, three, four]), row) in products.iter_mut().zip(sums).zip(rows) {
        let mut rest = 0.0;
        for (&a, &b) in row[whole..n].iter().zip(&b[whole..n]) {
            rest += a * b.to_f32();
        }
        let sum = _mm256_add_ps(_mm256_add_ps(one, two), _mm256_add_ps(three, four));
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        *product = _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum))) + rest;
    }
    products
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
