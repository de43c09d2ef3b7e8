//! Sums over a tile by instructions of x86: the same steps as in `plain`, sixteen rows at once.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, __m512i, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi32,
    _mm256_and_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_sign_epi8, _mm256_srli_epi16, _mm256_srli_epi32, _mm256_storeu_ps,
    _mm256_sub_ps, _mm512_and_si512, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
    _mm512_xor_si512,
};

use super::activations::{Activations, WORDS};
use super::forms::{Form, Scales};
use super::tiles::{GROUP, Line, TILE, Tile};

/// What a code with a sign has added to be one without, which VNNI multiplies.
pub(super) const SIGN: i32 = 128;

/// Multiplies the `ROWS` rows of `x` by a tile with AVX-512: `out` is (rows, 16).
///
/// Codes with a sign have [`SIGN`] added, so that `x` must begin with it as its offset.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn avx512<F: Form, const ROWS: usize>(tile: &Tile, x: &Activations, out: &mut [f32]) {
    let groups = x.scales.len() / ROWS;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    let lines = tile.codes.chunks_exact(F::BITS);
    let words = x.words.as_chunks::<ROWS>().0.chunks_exact(WORDS);
    let scales_of_x = x.scales.as_chunks::<ROWS>().0;
    let sums_of_x = x.sums.as_chunks::<ROWS>().0.chunks_exact(F::PARTS);
    let starts = x.starts.as_chunks::<ROWS>().0.chunks_exact(F::PARTS).zip(sums_of_x);
    let all = lines.zip(words).zip(scales_of_x).zip(starts).enumerate().take(groups);
    for (group, (((lines, words), scales_of_x), (starts, sums_of_x))) in all {
        for (part, (starts, sums_of_x)) in starts.iter().zip(sums_of_x).enumerate() {
            let mut sums = [_mm512_set1_epi32(0); ROWS];
            for row in 0..ROWS {
                sums[row] = _mm512_set1_epi32(starts[row]);
            }
            let mut add = |codes: __m512i, words: &[i32; ROWS]| {
                for row in 0..ROWS {
                    sums[row] =
                        _mm512_dpbusd_epi32(sums[row], codes, _mm512_set1_epi32(words[row]));
                }
            };
            if F::BITS == 8 {
                for word in part * WORDS / F::PARTS..(part + 1) * WORDS / F::PARTS {
                    let codes = load(&lines[word]);
                    let sign = _mm512_set1_epi8(i8::MIN);
                    let codes = if F::SIGNED { _mm512_xor_si512(codes, sign) } else { codes };
                    add(codes, &words[word]);
                }
            } else {
                for line in part * F::LINES..(part + 1) * F::LINES {
                    let (mut packed, low) = (load(&lines[line]), _mm512_set1_epi8(low::<F>()));
                    for words in &words[line * F::PACKED..][..F::PACKED] {
                        add(_mm512_and_si512(packed, low), words);
                        packed = match F::BITS {
                            2 => _mm512_srli_epi16::<2>(packed),
                            _ => _mm512_srli_epi16::<4>(packed),
                        };
                    }
                }
            }
            let (scales, minima) = scales_512::<F>(tile, group, part);
            for row in 0..ROWS {
                let scales = _mm512_mul_ps(scales, _mm512_set1_ps(scales_of_x[row]));
                let sums = _mm512_cvtepi32_ps(sums[row]);
                totals[row] = _mm512_fmadd_ps(sums, scales, totals[row]);
                if F::HAS_MINIMUM {
                    let sum = _mm512_set1_ps(sums_of_x[row]);
                    totals[row] = _mm512_fmadd_ps(minima, sum, totals[row]);
                }
            }
        }
    }
    for (out, total) in out.as_chunks_mut::<TILE>().0.iter_mut().zip(totals) {
        #[expect(unsafe_code, reason = "stores are by address")]
        // SAFETY: sixteen f32 are 64 bytes.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), total);
        }
    }
}

/// The bits of the first of a byte's codes.
fn low<F: Form>() -> i8 {
    (1 << F::BITS) - 1
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load(line: &Line) -> __m512i {
    #[expect(unsafe_code, reason = "loads are by address")]
    // SAFETY: a line is 64 bytes.
    unsafe {
        _mm512_loadu_si512(line.0.as_ptr().cast())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn scales_512<F: Form>(tile: &Tile, group: usize, part: usize) -> (__m512, __m512) {
    let halves = |at: usize| _mm512_cvtph_ps(load_256(&tile.halves[at]));
    let small = |at: usize| load_128(&tile.small[at]);
    let block = group / (F::BLOCK / GROUP);
    match F::SCALES {
        Scales::One => (halves(block), _mm512_setzero_ps()),
        Scales::Two => (halves(block * 2), halves(block * 2 + 1)),
        Scales::Super => {
            let integers = |at| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(small(at)));
            let minima = _mm512_mul_ps(halves(block * 2 + 1), integers(group * 2 + 1));
            let scales = _mm512_mul_ps(halves(block * 2), integers(group * 2));
            (scales, _mm512_sub_ps(_mm512_setzero_ps(), minima))
        }
        Scales::Signed => {
            let integers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(small(group * 2 + part)));
            (_mm512_mul_ps(halves(block), integers), _mm512_setzero_ps())
        }
        Scales::Nibbles => {
            let both = _mm512_cvtepu8_epi32(small(group * 2 + part));
            let low = _mm512_and_si512(both, _mm512_set1_epi32(15));
            let high = _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both));
            let minima = _mm512_mul_ps(halves(block * 2 + 1), high);
            let scales = _mm512_mul_ps(halves(block * 2), _mm512_cvtepi32_ps(low));
            (scales, _mm512_sub_ps(_mm512_setzero_ps(), minima))
        }
    }
}

/// Multiplies the `ROWS` rows of `x` by a tile with AVX2: `out` is (rows, 16).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2<F: Form, const ROWS: usize>(tile: &Tile, x: &Activations, out: &mut [f32]) {
    let groups = x.scales.len() / ROWS;
    let words = x.words.as_chunks::<ROWS>().0;
    let scales_of_x = x.scales.as_chunks::<ROWS>().0;
    let sums_of_x = x.sums.as_chunks::<ROWS>().0;
    let starts = x.starts.as_chunks::<ROWS>().0;
    // Eight rows of the tile at a time.
    for half in 0..2 {
        let mut totals = [_mm256_setzero_ps(); ROWS];
        for group in 0..groups {
            let lines = &tile.codes[group * F::BITS..][..F::BITS];
            let words = &words[group * WORDS..][..WORDS];
            for part in 0..F::PARTS {
                let mut sums = [_mm256_set1_epi32(0); ROWS];
                for row in 0..ROWS {
                    sums[row] = _mm256_set1_epi32(starts[group * F::PARTS + part][row]);
                }
                let mut add = |codes: __m256i, words: &[i32; ROWS]| {
                    for row in 0..ROWS {
                        let x = _mm256_set1_epi32(words[row]);
                        // Two products of at most 128 · 127 fit into 16 bits.
                        let pairs = if F::SIGNED {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
                        } else {
                            _mm256_maddubs_epi16(codes, x)
                        };
                        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                        sums[row] = _mm256_add_epi32(sums[row], fours);
                    }
                };
                if F::BITS == 8 {
                    for word in part * WORDS / F::PARTS..(part + 1) * WORDS / F::PARTS {
                        add(load_half(&lines[word], half), &words[word]);
                    }
                } else {
                    for line in part * F::LINES..(part + 1) * F::LINES {
                        let low = _mm256_set1_epi8(low::<F>());
                        let mut packed = load_half(&lines[line], half);
                        for words in &words[line * F::PACKED..][..F::PACKED] {
                            add(_mm256_and_si256(packed, low), words);
                            packed = match F::BITS {
                                2 => _mm256_srli_epi16::<2>(packed),
                                _ => _mm256_srli_epi16::<4>(packed),
                            };
                        }
                    }
                }
                let (scales, minima) = scales_256::<F>(tile, group, part, half);
                for row in 0..ROWS {
                    let scale = _mm256_set1_ps(scales_of_x[group][row]);
                    let scales = _mm256_mul_ps(scales, scale);
                    let sums = _mm256_cvtepi32_ps(sums[row]);
                    totals[row] = _mm256_fmadd_ps(sums, scales, totals[row]);
                    if F::HAS_MINIMUM {
                        let sum = _mm256_set1_ps(sums_of_x[group * F::PARTS + part][row]);
                        totals[row] = _mm256_fmadd_ps(minima, sum, totals[row]);
                    }
                }
            }
        }
        for (out, total) in out.as_chunks_mut::<TILE>().0.iter_mut().zip(totals) {
            let out = &mut out.as_chunks_mut::<8>().0[half];
            #[expect(unsafe_code, reason = "stores are by address")]
            // SAFETY: eight f32 are 32 bytes.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), total);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_half(line: &Line, half: usize) -> __m256i {
    let bytes = &line.0.as_chunks::<32>().0[half];
    #[expect(unsafe_code, reason = "loads are by address")]
    // SAFETY: half a line is 32 bytes.
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales_256<F: Form>(tile: &Tile, group: usize, part: usize, half: usize) -> (__m256, __m256) {
    let halves = |at: usize| {
        let bits = &tile.halves[at].as_chunks::<8>().0[half];
        #[expect(unsafe_code, reason = "loads are by address")]
        // SAFETY: eight F16 are 16 bytes.
        let bits = unsafe { _mm_loadu_si128(bits.as_ptr().cast()) };
        _mm256_cvtph_ps(bits)
    };
    let small = |at: usize| {
        let mut eight = [0; 16];
        eight[..8].copy_from_slice(&tile.small[at].as_chunks::<8>().0[half]);
        load_128(&eight)
    };
    let block = group / (F::BLOCK / GROUP);
    match F::SCALES {
        Scales::One => (halves(block), _mm256_setzero_ps()),
        Scales::Two => (halves(block * 2), halves(block * 2 + 1)),
        Scales::Super => {
            let integers = |at| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(small(at)));
            let minima = _mm256_mul_ps(halves(block * 2 + 1), integers(group * 2 + 1));
            let scales = _mm256_mul_ps(halves(block * 2), integers(group * 2));
            (scales, _mm256_sub_ps(_mm256_setzero_ps(), minima))
        }
        Scales::Signed => {
            let integers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(small(group * 2 + part)));
            (_mm256_mul_ps(halves(block), integers), _mm256_setzero_ps())
        }
        Scales::Nibbles => {
            let both = _mm256_cvtepu8_epi32(small(group * 2 + part));
            let low = _mm256_and_si256(both, _mm256_set1_epi32(15));
            let high = _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both));
            let minima = _mm256_mul_ps(halves(block * 2 + 1), high);
            let scales = _mm256_mul_ps(halves(block * 2), _mm256_cvtepi32_ps(low));
            (scales, _mm256_sub_ps(_mm256_setzero_ps(), minima))
        }
    }
}

/// The F16 of sixteen rows.
#[target_feature(enable = "avx2")]
#[inline]
fn load_256(halves: &[u16; TILE]) -> __m256i {
    #[expect(unsafe_code, reason = "loads are by address")]
    // SAFETY: sixteen F16 are 32 bytes.
    unsafe {
        _mm256_loadu_si256(halves.as_ptr().cast())
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_128(bytes: &[u8; 16]) -> __m128i {
    #[expect(unsafe_code, reason = "loads are by address")]
    // SAFETY: it is 16 bytes.
    unsafe {
        _mm_loadu_si128(bytes.as_ptr().cast())
    }
}
