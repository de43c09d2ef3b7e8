//! Exponentials of many numbers: softmax and `SiLU`, in loops that the compiler keeps in vectors.

use crate::instructions::{self, Loop};

/// Partial sums and maxima that a loop keeps side by side.
const LANES: usize = 16;

/// `softmax(scale · scores)`, in place. Numbers that are not finite leave NaN.
pub(crate) fn softmax(scores: &mut [f32], scale: f32) {
    instructions::run(Softmax { scores, scale });
}

/// `silu(gate) · up` into `out`; all three are of one length.
pub(crate) fn silu_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
    instructions::run(SiluTimes { gate, up, out });
}

/// `exp(x)` to 2 units in the last place; nothing is smaller than 1e-38 or larger than 1.6e38.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which is then in the last bits.
    const WHOLE: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first has bits to spare for its multiples.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = x.clamp(-87.0, 88.0); // NaN stays NaN
    let whole = x * std::f32::consts::LOG2_E + WHOLE;
    let n = whole - WHOLE;
    let r = x - n * LN_2.0 - n * LN_2.1; // at most ln 2 / 2 in magnitude
    // The polynomial of Cephes' expf (Moshier 1989).
    let mut p = 1.987_569_1e-4_f32;
    for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = p * r + factor;
    }
    let power =
        f32::from_bits(whole.to_bits().wrapping_sub(WHOLE.to_bits()).wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

struct Softmax<'a> {
    scores: &'a mut [f32],
    scale: f32,
}

impl Loop for Softmax<'_> {
    #[expect(clippy::inline_always, reason = "only what is inlined is compiled for the set")]
    #[inline(always)]
    fn run(self) {
        let Self { scores, scale } = self;
        let mut largest = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = scores.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                largest[lane] = largest[lane].max(chunk[lane]);
            }
        }
        let max = largest.into_iter().chain(rest.iter().copied());
        let max = max.fold(f32::NEG_INFINITY, f32::max);

        let mut sums = [0.0_f32; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                chunk[lane] = exp((chunk[lane] - max) * scale);
                sums[lane] += chunk[lane];
            }
        }
        let mut sum: f32 = sums.iter().sum();
        for score in rest {
            *score = exp((*score - max) * scale);
            sum += *score;
        }
        let inverse = 1.0 / sum;
        for score in scores {
            *score *= inverse;
        }
    }
}

struct SiluTimes<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Loop for SiluTimes<'_> {
    #[expect(clippy::inline_always, reason = "only what is inlined is compiled for the set")]
    #[inline(always)]
    fn run(self) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_f64() {
        for i in -8600..8700 {
            let x = i as f32 / 100.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2.5e-7, "{x}: {found} and {expected}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn weights_sum_to_one_and_nan_stays() {
        for n in [1, 15, 16, 33, 100] {
            let mut scores: Vec<f32> = (0..n).map(|i| (i as f32 * 1.3).sin() * 9.0).collect();
            let exact: Vec<f64> = scores.iter().map(|&x| (f64::from(x) * 0.5).exp()).collect();
            softmax(&mut scores, 0.5);
            let sum: f64 = exact.iter().sum();
            for (found, exact) in scores.iter().zip(&exact) {
                assert!((f64::from(*found) - exact / sum).abs() < 1e-6, "of {n}");
            }
            scores[n / 2] = f32::NAN;
            softmax(&mut scores, 1.0);
            assert!(scores.iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn silu_is_what_it_is() {
        let (gate, up) = ([-90.0, -1.0, 0.0, 2.0, 200.0], [1.0, 2.0, 3.0, 0.5, 1.0]);
        let mut out = [0.0; 5];
        silu_times(&gate, &up, &mut out);
        for ((found, gate), up) in out.iter().zip(gate).zip(up) {
            let expected = gate / (1.0 + (-gate).exp()) * up;
            assert!((found - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{gate}");
        }
    }
}
