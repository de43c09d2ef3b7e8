//! Normal noise that depends on a seed, a tensor's name and an element's number, and nothing else.

use super::normal;
use super::philox::{self, LANES};

/// Normal noise for one tensor.
///
/// Element 4·j + w of a tensor gets word w of Philox4x32-10 for the counter (j, seed) under the key
/// FNV-1a-64(name), each least significant word first, turned into a normal number by inversion. A
/// word has 32 bits, so no number is farther out than 6.34 σ.
///
/// Two noises with one seed on one tensor are the same numbers twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    sigma: f64,
    seed: u64,
    key: u64,
}

/// Elements that are computed together.
const BATCH: usize = 4 * LANES;

impl Noise {
    /// Noise of standard deviation `sigma`, in the tensor's own units: what a plan says times the
    /// source tensor's RMS (see [`sum_of_squares`](super::sum_of_squares)). `tensor` is the new
    /// name.
    #[must_use]
    pub fn new(sigma: f64, seed: u64, tensor: &str) -> Self {
        Self { sigma, seed, key: fnv1a(tensor.as_bytes()) }
    }

    /// Calls `f` with each of `values`, the first of which is element `first`, and its noise:
    /// normal number × σ in f64, rounded to f32.
    pub(super) fn for_each(
        &self,
        first: u64,
        values: &mut [f32],
        mut f: impl FnMut(&mut f32, f32),
    ) {
        let mut rest = values;
        let mut batch = first / BATCH as u64;
        let mut skip = usize::try_from(first % BATCH as u64).expect("less than a batch");
        while !rest.is_empty() {
            let noise = self.batch(batch);
            let len = rest.len().min(BATCH - skip);
            let (now, later) = rest.split_at_mut(len);
            for (value, noise) in now.iter_mut().zip(&noise[skip..]) {
                f(value, *noise);
            }
            (rest, batch, skip) = (later, batch + 1, 0);
        }
    }

    /// The noise of elements `BATCH`·`number` and those after it.
    #[expect(clippy::cast_possible_truncation, reason = "halves of 64 bits, and an f32 wanted")]
    fn batch(&self, number: u64) -> [f32; BATCH] {
        let mut counters = [[0; LANES]; 4];
        for lane in 0..LANES {
            let block = number * LANES as u64 + lane as u64;
            let words = [block, block >> 32, self.seed, self.seed >> 32];
            for (counter, word) in counters.iter_mut().zip(words) {
                counter[lane] = word as u32;
            }
        }
        let words = philox::philox4x32(counters, [self.key as u32, (self.key >> 32) as u32]);

        let mut noise = [0.0; BATCH];
        for (word, words) in words.iter().enumerate() {
            for (lane, &word_of_lane) in words.iter().enumerate() {
                noise[4 * lane + word] = (normal::from_word(word_of_lane) * self.sigma) as f32;
            }
        }
        noise
    }
}

/// FNV-1a with 64 bits (Fowler, Noll and Vo; RFC 9923).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(seed: u64, tensor: &str, first: u64, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Noise::new(1.0, seed, tensor).for_each(first, &mut values, |value, noise| *value = noise);
        values
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        let (count, sum) =
            values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
        sum / count
    }

    /// How alike two series are: 0 ± 1/√len if they are independent.
    fn correlation(a: &[f32], b: &[f32]) -> f64 {
        mean(a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)))
    }

    const NAME: &str = "model.layers.24.self_attn.q_proj.weight";

    /// Test vectors of the FNV reference code.
    #[test]
    fn names_are_hashed_by_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn element_numbers_decide_not_where_blocks_begin() {
        let whole = normals(0, NAME, 0, 500);
        for (first, len) in [(0, 1), (1, 3), (31, 2), (32, 32), (33, 200), (499, 1), (7, 0)] {
            let first_index = usize::try_from(first).unwrap();
            assert_eq!(normals(0, NAME, first, len), whole[first_index..first_index + len]);
        }
    }

    #[test]
    fn elements_beyond_32_bits_of_blocks_are_new() {
        assert_ne!(normals(0, NAME, 0, 4), normals(0, NAME, 1 << 34, 4));
    }

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let values = normals(0, NAME, 0, 1 << 20);
        let moment = |power| mean(values.iter().map(|&value| f64::from(value).powi(power)));
        // Bounds: four standard errors, √(Var(zᵏ) / 2²⁰).
        assert!(moment(1).abs() < 4.0 * (1.0_f64).sqrt() / 1024.0);
        assert!((moment(2) - 1.0).abs() < 4.0 * (2.0_f64).sqrt() / 1024.0);
        assert!(moment(3).abs() < 4.0 * (15.0_f64).sqrt() / 1024.0);
        assert!((moment(4) - 3.0).abs() < 4.0 * (96.0_f64).sqrt() / 1024.0);
    }

    #[test]
    fn bins_and_tails_are_those_of_a_normal_distribution() {
        // Textbook quantiles of the upper half, and the share of the distribution beyond them.
        let bounds = [
            (0.253_347_103_1, 0.4),
            (0.524_400_512_7, 0.3),
            (0.841_621_233_6, 0.2),
            (1.281_551_565_5, 0.1),
            (2.326_347_874_0, 0.01),
            (3.090_232_306_2, 0.001),
            (3.719_016_485_5, 0.000_1),
        ];
        let len: u32 = 1 << 20;
        let values = normals(1, NAME, 0, len as usize);
        let mut chi_square = 0.0;
        for sign in [-1.0, 1.0] {
            let beyond = |bound: f64| {
                values.iter().filter(|&&value| f64::from(value) * sign > bound).count() as f64
            };
            let mut inner = (0.0, 0.5);
            for outer in bounds.into_iter().chain([(f64::INFINITY, 0.0)]) {
                let expected = (inner.1 - outer.1) * f64::from(len);
                let observed = beyond(inner.0) - beyond(outer.0);
                chi_square += (observed - expected).powi(2) / expected;
                inner = outer;
            }
        }
        // 16 bins, 15 degrees of freedom: 37.7 is exceeded once in a thousand, 2.96 undercut.
        assert!((2.96..37.7).contains(&chi_square), "{chi_square}");
    }

    #[test]
    fn neighbours_names_and_seeds_have_nothing_in_common() {
        let len = 1 << 18;
        let bound = 4.0 / 512.0;
        let values = normals(0, NAME, 0, len + 64);
        for lag in [1, 2, 3, 4, 5, 32, 64] {
            assert!(
                correlation(&values[..len], &values[lag..len + lag]).abs() < bound,
                "lag {lag}"
            );
        }
        let other_name = normals(0, "model.layers.25.self_attn.q_proj.weight", 0, len);
        assert!(correlation(&values[..len], &other_name).abs() < bound);
        let other_seed = normals(1, NAME, 0, len);
        assert!(correlation(&values[..len], &other_seed).abs() < bound);
    }
}
