//! Rows of activations, quantised to 8 bits in groups of 32.

use super::tiles::GROUP;
use crate::instructions::{self, Loop};

/// Codes of a group, four in a word.
pub(super) const WORDS: usize = GROUP / 4;

/// Some rows that are multiplied together, by tiles of one form.
///
/// Within each group the numbers of all rows lie side by side, in the order in which they are read.
#[derive(Debug)]
pub(super) struct Activations {
    /// How many rows there are.
    pub(super) rows: usize,
    /// (groups, 8, rows): four codes each, from −127 to 127.
    pub(super) words: Vec<i32>,
    /// (groups, rows): what a code is multiplied by.
    pub(super) scales: Vec<f32>,
    /// (groups, parts, rows): the sum of the codes times what is taken from the other side's codes,
    /// negative: what a sum begins with.
    pub(super) starts: Vec<i32>,
    /// (groups, parts, rows): the sum of the numbers, for minima.
    pub(super) sums: Vec<f32>,
}

impl Activations {
    /// Quantises `x`, (rows, inputs), to be multiplied by codes less `offset` in `parts` parts of a
    /// group.
    pub(super) fn new(x: &[f32], rows: usize, offset: i32, parts: usize) -> Self {
        let inputs = x.len() / rows;
        let groups = inputs / GROUP;
        let mut all = Self {
            rows,
            words: vec![0; groups * WORDS * rows],
            scales: vec![0.0; groups * rows],
            starts: vec![0; groups * parts * rows],
            sums: vec![0.0; groups * parts * rows],
        };
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            instructions::run(Quantise { x, row, offset, parts, to: &mut all });
        }
        all
    }
}

/// Quantises a row.
struct Quantise<'a> {
    x: &'a [f32],
    row: usize,
    offset: i32,
    parts: usize,
    to: &'a mut Activations,
}

impl Loop for Quantise<'_> {
    #[expect(clippy::inline_always, reason = "only what is inlined is compiled for the set")]
    #[inline(always)]
    fn run(self) {
        let Self { x, row, offset, parts, to } = self;
        let rows = to.rows;
        for (group, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let (codes, scale) = quantise(x);
            to.scales[group * rows + row] = scale;
            let halves = codes.as_chunks::<{ GROUP / 2 }>().0;
            let [first, second] =
                [0, 1].map(|half| halves[half].iter().map(|&code| i32::from(code)).sum::<i32>());
            let sums: &[i32] = if parts == 1 { &[first + second] } else { &[first, second] };
            for (part, &sum) in sums.iter().enumerate() {
                let at = (group * parts + part) * rows + row;
                to.starts[at] = -offset * sum;
                to.sums[at] = scale * sum as f32;
            }
            for (word, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                let word = &mut to.words[(group * WORDS + word) * rows + row];
                *word = i32::from_le_bytes(codes.map(i8::cast_unsigned));
            }
        }
    }
}

/// A group's codes, and what they are multiplied by; that is NaN where a number is not finite.
#[inline(always)]
fn quantise(x: &[f32; GROUP]) -> ([i8; GROUP], f32) {
    /// Numbers this large have no digits behind the point: adding it rounds.
    const WHOLE: f32 = 12_582_912.0;
    let mut lanes = [0.0_f32; 8];
    let mut zeros = [0.0_f32; 8];
    for x in x.as_chunks::<8>().0 {
        for lane in 0..8 {
            lanes[lane] = lanes[lane].max(x[lane].abs());
            zeros[lane] += x[lane] * 0.0;
        }
    }
    let largest = lanes.into_iter().fold(0.0, f32::max);
    let zero: f32 = zeros.iter().sum(); // NaN where a number is infinite or NaN
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let codes = x.map(|x| (x * inverse + WHOLE).to_bits() as i8);
    (codes, largest / 127.0 + zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_times_scales_are_the_numbers() {
        let x: Vec<f32> = (0..128).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let all = Activations::new(&x, 2, 8, 2);
        for (row, x) in x.chunks(64).enumerate() {
            for (i, &x) in x.iter().enumerate() {
                let word = all.words[(i / 4) * 2 + row].to_le_bytes();
                let scale = all.scales[i / 32 * 2 + row];
                let found = f32::from(word[i % 4].cast_signed()) * scale;
                assert!((found - x).abs() <= scale * 0.51, "{found} and {x}");
            }
        }
        // (groups, parts, rows)
        assert_eq!(all.starts.len(), 8);
    }

    #[test]
    fn numbers_that_are_not_finite_are_not_lost() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; GROUP];
            x[7] = bad;
            assert!(Activations::new(&x, 1, 0, 1).scales[0].is_nan());
        }
        assert_eq!(Activations::new(&[0.0; GROUP], 1, 0, 1).scales, [0.0]);
    }
}
