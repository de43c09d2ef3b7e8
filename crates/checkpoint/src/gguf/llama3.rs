//! The curve of Llama 3.1's RoPE: four numbers in a config, a factor for each frequency in a file.
//!
//! A wave longer than `original / low` positions is stretched by the whole factor, one shorter than
//! `original / high` not at all, and between them the frequencies go over smoothly. GGUF files hold
//! what comes out, one factor for each pair of a head's numbers.

use std::f32::consts::PI;

/// The numbers of `rope_scaling` with `rope_type` `llama3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Llama3 {
    /// `factor`.
    pub(super) factor: f64,
    /// `low_freq_factor`.
    pub(super) low: f64,
    /// `high_freq_factor`.
    pub(super) high: f64,
    /// `original_max_position_embeddings`.
    pub(super) original: f64,
}

/// The numbers of all published models but for the factor.
const USUAL: Llama3 = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };

/// How far a factor may be from the curve, relative to it: some roundings of f32.
const TOLERANCE: f32 = 2e-5;

/// The wave lengths, in positions, of the pairs of a head's numbers, in single precision as
/// llama.cpp's converter has them.
fn wave_lengths(theta: f64, head_dim: usize) -> impl Iterator<Item = f32> {
    (0..head_dim / 2).map(move |pair| {
        let exponent = (2 * pair) as f32 / head_dim as f32;
        2.0 * PI / (1.0 / (theta as f32).powf(exponent))
    })
}

impl Llama3 {
    /// The factor of each pair of a head's numbers.
    pub(super) fn factors(&self, theta: f64, head_dim: usize) -> Vec<f32> {
        let [factor, low, high, original] =
            [self.factor, self.low, self.high, self.original].map(|number| number as f32);
        wave_lengths(theta, head_dim)
            .map(|length| {
                if length < original / high {
                    1.0
                } else if length > original / low {
                    factor
                } else {
                    let smooth = (original / length - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            })
            .collect()
    }

    /// The numbers whose curve the `factors` of a file are; `None` if there are none.
    ///
    /// Only the product of the lengths counts, so two of the numbers are free up to a common
    /// multiple: the usual ones are taken if they fit, else those with a `low_freq_factor` of 1.
    pub(super) fn of_factors(factors: &[f32], theta: f64, head_dim: usize) -> Option<Self> {
        let factor = factors.iter().copied().fold(1.0, f32::max);
        let is_sound = |it: &f32| it.is_finite() && *it >= 1.0;
        if factor <= 1.0 || !factors.iter().all(is_sound) || factors.len() != head_dim / 2 {
            return None;
        }
        let usual = Self { factor: shortest(factor), ..USUAL };
        let fits = |it: &Self| {
            let curve = it.factors(theta, head_dim);
            curve.iter().zip(factors).all(|(a, b)| (a - b).abs() <= TOLERANCE * a)
        };
        let powers = (9..=22).map(|power| Self { original: f64::from(1 << power), ..usual });
        std::iter::once(usual)
            .chain(usual.solved(factors, theta, head_dim))
            .chain(powers)
            .find(fits)
    }

    /// The curve through the factors that lie between 1 and the whole one, if at least two do.
    ///
    /// There `original / (high − low) · 1 / length − low / (high − low)` is the smooth part, a line
    /// over the reciprocal of the length.
    fn solved(self, factors: &[f32], theta: f64, head_dim: usize) -> Option<Self> {
        let points: Vec<(f64, f64)> = wave_lengths(theta, head_dim)
            .zip(factors)
            .map(|(length, factor)| (1.0 / f64::from(length), f64::from(*factor)))
            .filter(|(_, factor)| *factor > 1.0 && *factor < self.factor)
            .map(|(x, factor)| (x, (1.0 / factor - 1.0 / self.factor) / (1.0 - 1.0 / self.factor)))
            .collect();
        let (first, last) = (points.first()?, points.last()?);
        let slope = (first.1 - last.1) / (first.0 - last.0);
        let drop = slope * first.0 - first.1;
        let width = 1.0 / drop;
        let near = |number: f64| {
            let whole = number.round();
            if (number - whole).abs() < 1e-3 * whole { whole } else { number }
        };
        let solved =
            Self { low: 1.0, high: near(1.0 + width), original: near(slope * width), ..self };
        let is_sound = solved.high > 1.0 && solved.original.is_finite() && solved.original > 0.0;
        (points.len() > 1 && is_sound).then_some(solved)
    }
}

/// The number with the fewest decimals that is `value` in single precision.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: Llama3, theta: f64, head_dim: usize, expected: Llama3) {
        let factors = numbers.factors(theta, head_dim);
        assert_eq!(Llama3::of_factors(&factors, theta, head_dim), Some(expected));
    }

    #[test]
    fn the_usual_numbers_are_found_again() {
        for factor in [8.0, 16.0, 32.0] {
            let numbers = Llama3 { factor, ..USUAL };
            check(numbers, 500_000.0, 128, numbers);
            check(numbers, 500_000.0, 64, numbers);
        }
        // a common multiple does not show
        check(Llama3 { low: 2.0, high: 8.0, original: 16384.0, ..USUAL }, 500_000.0, 128, USUAL);
    }

    #[test]
    fn other_numbers_are_solved_for() {
        let numbers = Llama3 { factor: 4.0, low: 1.0, high: 8.0, original: 5000.0 };
        check(numbers, 10_000.0, 128, numbers);
        check(
            Llama3 { original: 4096.0, ..USUAL },
            500_000.0,
            128,
            Llama3 { original: 4096.0, ..USUAL },
        );
    }

    #[test]
    fn what_is_on_no_curve_is_not_taken_for_one() {
        let mut factors = USUAL.factors(500_000.0, 128);
        factors[40] *= 1.01;
        assert_eq!(Llama3::of_factors(&factors, 500_000.0, 128), None);
        for factors in [vec![1.0; 64], vec![0.5; 64], vec![f32::NAN; 64], vec![8.0; 63]] {
            assert_eq!(Llama3::of_factors(&factors, 500_000.0, 128), None, "{factors:?}");
        }
    }
}
