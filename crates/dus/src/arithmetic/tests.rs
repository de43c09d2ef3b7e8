//! The oracle for casts is the crate `half`, for noise a Python program over mpmath.

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype;

use super::*;

fn cast(from: Dtype, to: Dtype) -> Transform {
    Transform::cast(from.into(), to.into()).unwrap()
}

fn apply(transform: &Transform, first: u64, source: &[u8]) -> (Vec<u8>, CastReport) {
    // Filled, so that a byte left alone shows.
    let mut target = vec![0xa5; transform.block(0, source.len() as u64).1];
    let report = transform.apply(source, first, &mut target);
    (target, report)
}

fn bytes16(values: impl IntoIterator<Item = u16>) -> Vec<u8> {
    values.into_iter().flat_map(u16::to_le_bytes).collect()
}

fn bytes32(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn words16(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect()
}

fn words32(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// What a cast that turned `source` into `target` has to report.
#[expect(clippy::float_cmp, reason = "equal or not is the question")]
fn report_of(source: f64, target: f64) -> CastReport {
    let overflowed = source.is_finite() && target.is_infinite();
    CastReport {
        lossy: (!source.is_nan() && !overflowed && source != target).into(),
        flushed: (source != 0.0 && target == 0.0).into(),
        overflowed: overflowed.into(),
        inexact: 0,
    }
}

#[track_caller]
fn check_f16(value: f32) {
    let (bytes, report) = apply(&cast(Dtype::F32, Dtype::F16), 0, &value.to_le_bytes());
    let expected = f16::from_f32(value);
    assert_eq!(words16(&bytes), [expected.to_bits()], "{value:e}");
    assert_eq!(report, report_of(value.into(), expected.into()), "{value:e}");
}

#[track_caller]
fn check_bf16(value: f32) {
    let (bytes, report) = apply(&cast(Dtype::F32, Dtype::BF16), 0, &value.to_le_bytes());
    let expected = bf16::from_f32(value);
    assert_eq!(words16(&bytes), [expected.to_bits()], "{value:e}");
    assert_eq!(report, report_of(value.into(), expected.into()), "{value:e}");
}

/// All 16-bit words, neighbours far apart, so that groups hold values of every kind.
fn scattered() -> impl Iterator<Item = u16> {
    (0..=u16::MAX).map(|index| index.wrapping_mul(40_503))
}

#[test]
fn every_bf16_becomes_the_f16_that_half_makes_of_it() {
    let transform = cast(Dtype::BF16, Dtype::F16);
    let mut total = CastReport::default();
    for bits in 0..=u16::MAX {
        let (bytes, report) = apply(&transform, 0, &bits.to_le_bytes());
        let value = bf16::from_bits(bits);
        let expected = f16::from_f32(value.to_f32());
        assert_eq!(words16(&bytes), [expected.to_bits()], "{bits:#06x}");
        assert_eq!(report, report_of(value.into(), expected.into()), "{bits:#06x}");
        total += report;
    }
    for all in [bytes16(0..=u16::MAX), bytes16(scattered())] {
        let (bytes, report) = apply(&transform, 0, &all);
        let expected = words16(&all).into_iter().map(|bits| bf16::from_bits(bits).to_f32());
        assert_eq!(bytes, bytes16(expected.map(|value| f16::from_f32(value).to_bits())));
        assert_eq!(report, total);
    }
    // 2 signs × 112 exponents from 2^16 to 2^127 × 128 mantissas.
    assert_eq!(total.overflowed, 2 * 112 * 128);
}

#[test]
fn every_f16_becomes_the_bf16_that_half_makes_of_it() {
    let transform = cast(Dtype::F16, Dtype::BF16);
    let (bytes, report) = apply(&transform, 0, &bytes16(scattered()));
    let mut total = CastReport::default();
    for (bits, actual) in scattered().zip(words16(&bytes)) {
        let value = f16::from_bits(bits);
        let expected = bf16::from_f32(value.to_f32());
        if value.is_nan() {
            assert!(bf16::from_bits(actual).is_nan(), "{bits:#06x}");
        } else {
            assert_eq!(actual, expected.to_bits(), "{bits:#06x}");
        }
        total += report_of(value.into(), expected.into());
    }
    assert_eq!(report, total);
    assert_eq!((report.overflowed, report.flushed), (0, 0));
}

#[test]
fn f32_holds_every_16_bit_value_and_gives_it_back() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let source = bytes16(scattered());
        let (wide, report) = apply(&cast(dtype, Dtype::F32), 0, &source);
        assert_eq!(report, CastReport::default());
        let (back, report) = apply(&cast(Dtype::F32, dtype), 0, &wide);
        assert_eq!(report, CastReport::default());
        for ((bits, wide), back) in scattered().zip(words32(&wide)).zip(words16(&back)) {
            let (expected, quiet) = if dtype == Dtype::F16 {
                (f16::from_bits(bits).to_f32(), 0x0200)
            } else {
                (bf16::from_bits(bits).to_f32(), 0x0040)
            };
            if expected.is_nan() {
                assert!(f32::from_bits(wide).is_nan());
                assert_eq!(back, bits | quiet);
            } else {
                assert_eq!((wide, back), (expected.to_bits(), bits));
            }
        }
    }
}

#[test]
fn rounding_turns_at_the_halves() {
    let f16_turns = [
        0x3300_0000_u32, // 2^-25, half the least subnormal: to zero
        0x3340_0000,     // 1.5 · 2^-25
        0x33c0_0000,     // 1.5 · 2^-24: to 2 · 2^-24
        0x387f_e000,     // halfway between the largest subnormal and 2^-14
        0x3880_0000,     // 2^-14
        0x3f80_1000,     // halfway between 1 and the next: to 1
        0x3f80_3000,     // halfway further on: up
        0x477f_e000,     // 65,504, the largest
        0x477f_f000,     // 65,520: to infinity
    ];
    let bf16_turns = [
        0x0000_0001, // the least f32
        0x0000_8000, // half the least BF16: to zero
        0x0001_8000,
        0x007f_8000, // halfway between the largest subnormal and 2^-126
        0x3f80_8000,
        0x3f81_8000,
        0x7f7f_0000, // the largest
        0x7f7f_8000, // halfway to what would come next: to infinity
    ];
    let specials = [0_u32, 0x7f80_0000, 0x7f80_0001, 0x7fbf_ffff, 0x7fc0_0000, 0x7fff_ffff];
    for bits in f16_turns.into_iter().chain(bf16_turns).chain(specials) {
        for near in [bits, bits + 1, bits.saturating_sub(1)] {
            for value in [near, near | 0x8000_0000].map(f32::from_bits) {
                check_f16(value);
                check_bf16(value);
            }
        }
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// f32 numbers of every kind, and many of those that F16 distinguishes.
fn any_f32() -> impl Strategy<Value = f32> {
    let weight_like = (-2.0_f32..2.0, -26..18).prop_map(|(m, e)| m * 2.0_f32.powi(e));
    let tie = (any::<u16>(), any::<bool>(), -1..=1).prop_map(|(high, f16_tie, near)| {
        let bits = if f16_tie {
            f16::from_bits(high).to_f32().to_bits() | 0x1000
        } else {
            u32::from(high) << 16 | 0x8000
        };
        f32::from_bits(bits.wrapping_add_signed(near))
    });
    prop_oneof![any::<u32>().prop_map(f32::from_bits), weight_like, tie]
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn any_f32_becomes_the_f16_that_half_makes_of_it(value in any_f32()) {
        check_f16(value);
    }

    #[test]
    fn any_f32_becomes_the_bf16_that_half_makes_of_it(value in any_f32()) {
        check_bf16(value);
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_split_changes_nothing(
        values in prop::collection::vec(any_f32(), 0..3000),
        at in any::<prop::sample::Index>(),
        scaled in any::<bool>(),
        noisy in any::<bool>(),
        first in 0..1_u64 << 40,
    ) {
        let at = if values.is_empty() { 0 } else { at.index(values.len()) };
        let values = bytes32(values.into_iter().map(f32::to_bits));
        for from in [Dtype::F16, Dtype::BF16, Dtype::F32] {
            for to in [Dtype::F16, Dtype::BF16, Dtype::F32] {
                let mut transform = cast(from, to);
                if scaled {
                    transform = transform.scaled(-0.7);
                }
                if noisy {
                    transform = transform.with_noise(Noise::new(0.1, 3, "x"));
                }
                let (source, _) = apply(&cast(Dtype::F32, from), 0, &values);
                let (whole, whole_report) = apply(&transform, first, &source);
                let (head, tail) = source.split_at(at * transform.block_bytes(1) as usize);
                let (mut parts, mut report) = apply(&transform, first, head);
                let (last, last_report) = apply(&transform, first + at as u64, tail);
                parts.extend(last);
                report += last_report;
                prop_assert_eq!(parts, whole);
                prop_assert_eq!(report, whole_report);
            }
        }
    }

    #[test]
    fn scaling_is_one_f32_product_and_one_rounding(
        values in prop::collection::vec(any::<u16>(), 100),
    ) {
        let transform = cast(Dtype::BF16, Dtype::BF16).scaled(3.0).scaled(0.1);
        let (bytes, report) = apply(&transform, 0, &bytes16(values.clone()));
        let mut overflowed = 0;
        for (bits, actual) in values.into_iter().zip(words16(&bytes)) {
            let value = bf16::from_bits(bits).to_f32();
            let expected = bf16::from_f32(value * 0.3);
            overflowed += u64::from(value.is_finite() && expected.is_infinite());
            if value.is_nan() {
                prop_assert_eq!(actual, 0x7fc0);
            } else {
                prop_assert_eq!(actual, expected.to_bits());
            }
        }
        prop_assert_eq!(report, CastReport { overflowed, ..CastReport::default() });
    }
}

#[test]
fn zero_wins_over_everything() {
    let source = bytes32([0x7fc0_0001, 0x7f80_0000, 0xff80_0000, 0x8000_0000, 0x3f80_0000]);
    for to in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let transform =
            cast(Dtype::F32, to).with_noise(Noise::new(1.0, 0, "x")).zeroed().scaled(f64::INFINITY);
        let (bytes, report) = apply(&transform, 0, &source);
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(report, CastReport::default());
        assert!(!transform.is_copy());
    }
}

#[test]
fn overflow_counts_once_and_infinities_not_at_all() {
    let source = bytes32([f32::MAX, -f32::MAX, f32::INFINITY, f32::NAN, 1.0].map(f32::to_bits));
    for to in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let transform = cast(Dtype::F32, to).scaled(2.0).with_noise(Noise::new(1e-9, 0, "x"));
        assert_eq!(apply(&transform, 0, &source).1.overflowed, 2);
    }
    let (bytes, _) = apply(&cast(Dtype::F32, Dtype::F32).scaled(0.0), 0, &source);
    let nan = 0x7fc0_0000;
    assert_eq!(words32(&bytes), [0, 0x8000_0000, nan, nan, 0]);
}

#[test]
fn only_what_changes_nothing_is_a_copy() {
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let copy = cast(dtype, dtype).scaled(4.0).scaled(0.25);
        assert!(copy.is_copy());
        let source = bytes32((0..1000_u32).map(|i| i.wrapping_mul(2_654_435_769)));
        assert_eq!(apply(&copy, 0, &source), (source, CastReport::default()));
        assert!(!copy.clone().scaled(0.5).is_copy());
        assert!(!copy.with_noise(Noise::new(0.0, 0, "x")).is_copy());
    }
    assert!(!cast(Dtype::BF16, Dtype::F16).is_copy());
}

#[track_caller]
fn check_noise(seed: u64, first: u64, expected: [u32; 6]) {
    let noise = Noise::new(1.0, seed, "model.layers.24.self_attn.q_proj.weight");
    let transform = cast(Dtype::BF16, Dtype::F32).with_noise(noise);
    assert_eq!(words32(&apply(&transform, first, &[0; 12]).0), expected);
}

/// Expected: Philox and FNV-1a in Python, inversion by mpmath with 40 digits.
#[test]
fn noise_is_what_another_program_computes() {
    check_noise(
        0,
        0,
        [0x3e95_ea7c, 0xbf0c_f234, 0x4025_1676, 0x3f00_f0a2, 0xbd28_cff2, 0x3fdc_44a1],
    );
    check_noise(
        0x0123_4567_89ab_cdef,
        5,
        [0xbebd_80d7, 0xbf8e_be92, 0x3efb_587b, 0x3d53_4c14, 0x3f55_7c54, 0x3fb6_c4f9],
    );
    check_noise(
        7,
        (1 << 34) + 5,
        [0x3f89_0ecb, 0x3d07_6a21, 0xbfdc_c8db, 0x3f5a_ea64, 0x3caf_182b, 0xc00d_096e],
    );
}

#[test]
fn noises_are_added_in_order_after_scaling() {
    let (one, two) = (Noise::new(1e3, 1, "x"), Noise::new(1e-3, 2, "x"));
    let noise = |noise| {
        let transform = cast(Dtype::F32, Dtype::F32).with_noise(noise);
        words32(&apply(&transform, 9, &[0; 400]).0).into_iter().map(f32::from_bits)
    };
    let expected = noise(one).zip(noise(two)).map(|(one, two)| (1.5_f32 * 3.0 + one) + two);
    let transform = cast(Dtype::F32, Dtype::F32).with_noise(one).with_noise(two).scaled(3.0);
    let source = bytes32([1.5_f32.to_bits(); 100]);
    let (bytes, _) = apply(&transform, 9, &source);
    assert_eq!(bytes, bytes32(expected.map(f32::to_bits)));
}

#[test]
fn other_types_are_refused_by_name() {
    for dtype in [Dtype::F64, Dtype::I32, Dtype::BOOL, Dtype::F8_E4M3] {
        let source = Err(UnsupportedEncoding::Source(dtype.into()));
        assert_eq!(Transform::cast(dtype.into(), Dtype::F16.into()), source);
        let target = Err(UnsupportedEncoding::Target(dtype.into()));
        assert_eq!(Transform::cast(Dtype::F16.into(), dtype.into()), target);
        let source = Err(UnsupportedEncoding::Source(dtype.into()));
        assert_eq!(sum_of_squares(dtype.into(), 0.0, &[]), source);
    }
    assert_eq!(
        UnsupportedEncoding::Source(Dtype::F64.into()).to_string(),
        "F64 tensors can only be copied; F16, BF16, F32 and most quantised types of GGUF can be cast"
    );
}

#[test]
#[should_panic(expected = "a target of another length")]
fn a_target_of_another_length_is_a_mistake() {
    cast(Dtype::BF16, Dtype::F32).apply(&[0; 4], 0, &mut [0; 4]);
}

#[test]
fn squares_are_summed() {
    // 0 + 1 + 4 + … + 2999²; integers this small are exact in f64 whatever the order.
    let source = bytes32((0..3000_u16).map(|value| f32::from(value).to_bits()));
    assert_eq!(sum_of_squares(Dtype::F32.into(), 0.0, &source), Ok(8_995_500_500.0));
    assert_eq!(
        sum_of_squares(Dtype::BF16.into(), 0.0, &bytes16([0x3f80, 0xc000, 0x3f00])),
        Ok(5.25)
    );
    assert_eq!(
        sum_of_squares(Dtype::F16.into(), 0.0, &bytes16([0x3c00, 0xc000, 0x3800])),
        Ok(5.25)
    );
    assert_eq!(sum_of_squares(Dtype::F32.into(), 0.0, &[]), Ok(0.0));
}
