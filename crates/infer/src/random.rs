//! Random numbers by place: which sequence and which step, not how many were drawn before.

/// A number from 0 (included) to 1 that follows from its arguments alone.
///
/// `SplitMix64`'s mixing (Steele et al. 2014) of each in turn; 53 bits.
pub(crate) fn uniform(seed: u64, sequence: u64, step: u64) -> f64 {
    let mixed = [seed, sequence, step].into_iter().fold(0, |state: u64, part| mix(state ^ part));
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly_over_steps_sequences_and_seeds() {
        const N: u64 = 30_000;
        let by = [|i| uniform(0, 0, i), |i| uniform(0, i, 0), |i| uniform(i, 0, 0)];
        for numbers in by {
            let mut counts = [0_u64; 10];
            for i in 0..N {
                let tenth = (1..10).filter(|&tenth| numbers(i) >= f64::from(tenth) / 10.0).count();
                counts[tenth] += 1;
            }
            // Six standard deviations of a count.
            let far = counts.iter().any(|&count| count.abs_diff(N / 10) > 312);
            assert!(!far, "{counts:?}");
        }
    }
}
