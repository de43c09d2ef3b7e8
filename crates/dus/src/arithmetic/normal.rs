//! Standard normal numbers from random words, by inversion.
//!
//! Wichura, "Algorithm AS 241: The percentage points of the normal distribution" (Applied
//! Statistics 37, 1988), routine PPND16, good to 16 digits. The logarithm is ours, since the
//! system's differs from one system to the next; everything else here is exact or rounded as IEEE
//! 754 says.

#![expect(clippy::excessive_precision, reason = "numbers as published")]

use std::f64::consts::{LN_2, SQRT_2};

/// The standard normal number below which lies (`word` + ½) / 2³² of the distribution.
///
/// Words are symmetric: `!word` gives the negative. Zero never comes, and ±6.34 is the farthest.
#[inline]
pub(super) fn from_word(word: u32) -> f64 {
    // How far from the middle, exactly: the top bit turned over, a word is a signed one.
    let q = (f64::from(word.cast_signed() ^ i32::MIN) + 0.5) / 4_294_967_296.0;
    if q.abs() <= 0.425 { centre(q) } else { tail(q) }
}

/// The quantile of ½ + `q`, |q| ≤ 0.425.
#[inline]
fn centre(q: f64) -> f64 {
    const NUMERATOR: [f64; 8] = [
        2.509_080_928_730_122_672_7e3,
        3.343_057_558_358_812_810_5e4,
        6.726_577_092_700_870_085_3e4,
        4.592_195_393_154_987_145_7e4,
        1.373_169_376_550_946_112_5e4,
        1.971_590_950_306_551_442_7e3,
        1.331_416_678_917_843_774_5e2,
        3.387_132_872_796_366_608,
    ];
    const DENOMINATOR: [f64; 8] = [
        5.226_495_278_852_854_561e3,
        2.872_908_573_572_194_267_4e4,
        3.930_789_580_009_271_061e4,
        2.121_379_430_158_659_586_7e4,
        5.394_196_021_424_751_107_7e3,
        6.871_870_074_920_579_083e2,
        4.231_333_070_160_091_125_2e1,
        1.0,
    ];
    let r = 0.180_625 - q * q;
    polynomial(&NUMERATOR, r) * q / polynomial(&DENOMINATOR, r)
}

/// The quantile of ½ + `q`, 0.425 < |q| < ½. A word leaves at least 2⁻³³ of the distribution
/// beyond, so that Wichura's third part, for less than e⁻²⁵, is not needed.
fn tail(q: f64) -> f64 {
    const NUMERATOR: [f64; 8] = [
        7.745_450_142_783_414_076_4e-4,
        2.272_384_498_926_918_458_33e-2,
        2.417_807_251_774_506_117_7e-1,
        1.270_458_252_452_368_382_58,
        3.647_848_324_763_204_605_04,
        5.769_497_221_460_691_405_5,
        4.630_337_846_156_545_295_9,
        1.423_437_110_749_683_577_34,
    ];
    const DENOMINATOR: [f64; 8] = [
        1.050_750_071_644_416_843_24e-9,
        5.475_938_084_995_344_946e-4,
        1.519_866_656_361_645_719_66e-2,
        1.481_039_764_274_800_745_9e-1,
        6.897_673_349_851_000_045_5e-1,
        1.676_384_830_183_803_849_4,
        2.053_191_626_637_758_821_87,
        1.0,
    ];
    let r = (-ln(0.5 - q.abs())).sqrt() - 1.6;
    (polynomial(&NUMERATOR, r) / polynomial(&DENOMINATOR, r)).copysign(q)
}

/// Horner's rule; the coefficient of the highest power comes first.
#[inline]
fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients[1..].iter().fold(coefficients[0], |sum, coefficient| sum * x + coefficient)
}

/// The natural logarithm of a normal, positive number.
///
/// x = 2^e·m with √½ ≤ m < √2, and ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …) with
/// s = (m − 1)/(m + 1), |s| < 0.172: eleven terms are good to the last bit or two.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = f64::from((bits >> 52) as u16) - 1023.0;
    let mut mantissa = f64::from_bits(bits & (u64::MAX >> 12) | 1.0_f64.to_bits());
    if mantissa >= SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..11).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    exponent * LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(actual: f64, expected: f64) {
        assert!((actual / expected - 1.0).abs() < 2e-15, "{actual:e}, expected {expected:e}");
    }

    /// Expected: mpmath with 40 digits, √2·erfinv(2p − 1).
    #[test]
    fn quantiles_are_good_to_fifteen_digits() {
        check(from_word(0), -6.337_957_754_553_789_252_5);
        check(from_word(1), -6.166_429_517_819_750_247);
        check(from_word(0x00bc_614e), -2.761_769_519_859_485_755_2);
        check(from_word(0x1200_0000), -1.473_467_577_083_029_342_8);
        check(from_word(0x1333_3333), -1.439_531_470_445_015_311_6);
        check(from_word(0x4000_0000), -0.674_489_749_829_738_432_15);
        check(from_word(0x7fff_ffff), -2.918_099_372_916_622_672_3e-10);
        check(from_word(0xd16c_fe09), 0.908_031_994_658_868_184_12);
        check(from_word(0x94fd_cceb), 0.207_006_702_065_692_313_12);
    }

    /// Expected: mpmath.
    #[test]
    fn logarithms_are_good_to_fifteen_digits() {
        check(ln(f64::from_bits((1023 - 33) << 52)), -22.873_856_958_478_195_211);
        check(ln(1e-5), -11.512_925_464_970_228_338);
        check(ln(0.001), -6.907_755_278_982_137_031_2);
        check(ln(0.07), -2.659_260_036_932_777_967_8);
        check(ln(0.0751), -2.588_934_720_212_047_990_6);
    }

    #[test]
    fn a_word_and_its_complement_are_opposite() {
        for word in (0..=u32::MAX).step_by(1_000_003) {
            assert_eq!(from_word(word).to_bits(), (-from_word(!word)).to_bits());
        }
    }

    #[test]
    fn quantiles_rise() {
        let words = (0..=u32::MAX).step_by(10_007).map(from_word);
        assert!(words.is_sorted_by(|a, b| a < b));
    }
}
