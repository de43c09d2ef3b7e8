//! Philox4x32-10, the counter-based generator of Random123.
//!
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section
//! 3.3: ten rounds that turn a counter of 128 bits under a key of 64 into 128 random bits. It
//! passes `BigCrush`, and any counter can be asked for at any time.

/// Blocks that are computed side by side, in vector registers.
pub(super) const LANES: usize = 8;

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// The random words of `LANES` counters: `counters[w][lane]` is word `w` of a lane's counter, and
/// the same holds for what is returned.
pub(super) fn philox4x32(counters: [[u32; LANES]; 4], key: [u32; 2]) -> [[u32; LANES]; 4] {
    let [mut a, mut b, mut c, mut d] = counters;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        for lane in 0..LANES {
            let (low_a, high_a) = a[lane].carrying_mul(MULTIPLIERS[0], 0);
            let (low_c, high_c) = c[lane].carrying_mul(MULTIPLIERS[1], 0);
            a[lane] = high_c ^ b[lane] ^ k0;
            c[lane] = high_a ^ d[lane] ^ k1;
            b[lane] = low_c;
            d[lane] = low_a;
        }
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors`.
    #[test]
    fn known_answers_hold_in_every_lane() {
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in known {
            let words = philox4x32(counter.map(|word| [word; LANES]), key);
            assert_eq!(words, expected.map(|word| [word; LANES]));
        }
    }
}
