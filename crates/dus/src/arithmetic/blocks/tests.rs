//! The oracle is gguf-py, whose numbers `tests/fixtures/blocks` holds, for F16 the crate `half`.

use proptest::prelude::*;

use super::*;

/// Blocks of one type, and what gguf-py decodes them to.
struct Decoded {
    ty: GgmlType,
    blocks: Vec<u8>,
    values: Vec<f32>,
}

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/fixtures/blocks/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn decoded_by_gguf_py() -> Vec<Decoded> {
    let file = fixture("blocks.bin");
    let mut rest = &file[..];
    let mut decoded = Vec::new();
    while !rest.is_empty() {
        let ty = GgmlType::from_id(u32::from_le_bytes(*take(&mut rest, 4).as_array().unwrap()));
        let ty = ty.expect("the fixture has known types only");
        let count = u32::from_le_bytes(*take(&mut rest, 4).as_array().unwrap()) as usize;
        let blocks = take(&mut rest, count * ty.block_bytes()).to_vec();
        let values = floats(take(&mut rest, count * ty.block_elements() * 4));
        decoded.push(Decoded { ty, blocks, values });
    }
    decoded
}

fn take<'a>(rest: &mut &'a [u8], num_bytes: usize) -> &'a [u8] {
    rest.split_off(..num_bytes).expect("the fixture is whole")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn decode_all(ty: GgmlType, blocks: &[u8]) -> Vec<f32> {
    let num_blocks = blocks.len() / ty.block_bytes();
    // Filled, so that a value left alone shows.
    let mut values = vec![12345.0; num_blocks * ty.block_elements()];
    decode(ty, blocks, &mut values);
    values
}

#[track_caller]
fn assert_same(values: &[f32], expected: &[f32], what: &str) {
    assert_eq!(values.len(), expected.len(), "{what}");
    for (i, (value, expected)) in values.iter().zip(expected).enumerate() {
        let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
        assert!(same, "{what}, value {i}: {value:e}, expected {expected:e}");
    }
}

fn decodable() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.iter().copied().filter(|&ty| can_decode(ty))
}

#[test]
fn every_type_decodes_as_in_gguf_py() {
    let fixture = decoded_by_gguf_py();
    for Decoded { ty, blocks, values } in &fixture {
        assert_same(&decode_all(*ty, blocks), values, ty.name());
    }
    let mut types: Vec<GgmlType> = fixture.iter().map(|decoded| decoded.ty).collect();
    types.sort();
    assert_eq!(types, decodable().collect::<Vec<_>>());
}

#[test]
fn q8_0_is_encoded_as_by_gguf_py() {
    let file = fixture("q8_0.bin");
    let mut rest = &file[..];
    let count = u32::from_le_bytes(*take(&mut rest, 4).as_array().unwrap()) as usize;
    let values = floats(take(&mut rest, count * 32 * 4));
    let mut blocks = vec![0xa5; count * 34];
    assert_eq!(encode_q8_0(&values, &mut blocks), 0);
    for (i, (block, expected)) in blocks.chunks(34).zip(rest.chunks(34)).enumerate() {
        assert_eq!(block, expected, "block {i} of {:?}", &values[i * 32..][..32]);
    }
}

#[test]
fn values_that_q8_0_cannot_hold_are_counted() {
    let mut values = [1.0; 64];
    let mut blocks = [0; 68];
    values[3] = f32::NAN;
    values[17] = f32::NEG_INFINITY;
    assert_eq!(encode_q8_0(&values, &mut blocks), 2);

    // With 65,504 as the largest F16, 65,520 is the first that would be rounded to infinity.
    values[3] = -65_520.0 * 127.0;
    values[17] = (65_520.0_f32 * 127.0).next_down();
    assert_eq!(encode_q8_0(&values, &mut blocks), 1);
    assert_eq!(blocks[..2], half::f16::INFINITY.to_le_bytes());

    values[3] = 1.0;
    assert_eq!(encode_q8_0(&values, &mut blocks), 0);
    assert_eq!(blocks[..2], half::f16::MAX.to_le_bytes());
}

#[test]
fn zeroed_blocks_decode_to_zeros() {
    for Decoded { ty, mut blocks, .. } in decoded_by_gguf_py() {
        zero(&mut blocks);
        assert!(decode_all(ty, &blocks).iter().all(|value| *value == 0.0), "{ty}");
    }
}

#[test]
fn f16_is_that_of_half() {
    for bits in 0..=u16::MAX {
        let expected = half::f16::from_bits(bits).to_f32();
        assert_same(&[f16::to_f32(bits)], &[expected], "an F16");
    }
    // Every F16 but NaN, halfway to the next one, and the f32s beside both.
    for bits in 0..0x7c00 {
        let (this, next) = (f16::to_f32(bits), f16::to_f32(bits + 1).min(65_536.0));
        for value in [this, f32::midpoint(this, next)] {
            for value in [value.next_down().abs(), value, value.next_up()] {
                let expected = half::f16::from_f32(value).to_bits();
                assert_eq!(f16::from_magnitude(value), expected, "{value:e}");
            }
        }
    }
    assert_eq!(f16::from_magnitude(f32::INFINITY), 0x7c00);
    assert_eq!(f16::from_magnitude(f32::NAN), 0x7e00);
}

#[test]
fn exact_factors_are_powers_of_two() {
    for factor in [1.0, -1.0, 0.5, -0.25, 1024.0, f64::MIN_POSITIVE, 2_f64.powi(1023)] {
        assert!(is_exact_factor(factor), "{factor}");
    }
    for factor in [0.0, -0.0, 3.0, 0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        assert!(!is_exact_factor(factor), "{factor}");
        assert!(!can_scale(GgmlType::Q4_K, factor), "{factor}");
    }
}

#[test]
fn scales_without_sign_stay_positive() {
    for ty in decodable() {
        let signed = !matches!(ty, GgmlType::MXFP4 | GgmlType::NVFP4);
        assert_eq!(can_scale(ty, -0.5), signed, "{ty}");
        assert!(can_scale(ty, 0.5), "{ty}");
    }
    assert!(!can_scale(GgmlType::F16, 0.5));
}

#[test]
#[expect(clippy::float_cmp, reason = "equal or not is the question")]
fn an_f16_scale_is_multiplied_exactly_or_not_at_all() {
    for exponent in [-30, -14, -3, -1, 0, 1, 2, 9, 29, 40] {
        for factor in [2_f64.powi(exponent), -2_f64.powi(exponent)] {
            for bits in 0..=u16::MAX {
                let mut block = [0; 18];
                block[..2].copy_from_slice(&bits.to_le_bytes());
                let inexact = scale(GgmlType::Q4_0, &mut block, factor);

                let product = half::f16::from_bits(bits).to_f64() * factor;
                let rounded = half::f16::from_f64(product);
                let exact = product.is_finite() && rounded.to_f64() == product;
                let expected = if exact { rounded.to_bits() } else { bits };
                let got = u16::from_le_bytes([block[0], block[1]]);
                assert_eq!((inexact == 0, got), (exact, expected), "{bits:#06x} times {factor}");
            }
        }
    }
}

#[test]
fn an_fp8_scale_is_multiplied_exactly_or_not_at_all() {
    // A group of all sixteen FP4 numbers, so that values tell scales apart.
    let block = |byte| {
        let mut block = [0; 36];
        block[0] = byte;
        block[4..12].copy_from_slice(&[0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
        block
    };
    let values = |block: &[u8]| decode_all(GgmlType::NVFP4, block)[..16].to_vec();
    for exponent in [-9, -2, -1, 0, 1, 5] {
        let factor = 2_f32.powi(exponent);
        for byte in 0..=u8::MAX {
            let product: Vec<f32> = values(&block(byte)).iter().map(|v| v * factor).collect();
            let possible = byte < 0x7f && (0..0x7f).any(|byte| values(&block(byte)) == product);
            let mut scaled = block(byte);
            let inexact = scale(GgmlType::NVFP4, &mut scaled, factor.into());
            assert_eq!(inexact == 0, possible, "{byte:#04x} times {factor}");
            if possible {
                assert_eq!(values(&scaled), product, "{byte:#04x} times {factor}");
            } else {
                assert_eq!(scaled, block(byte));
            }
        }
    }
}

#[test]
fn a_power_of_two_scale_stays_in_range() {
    let scaled = |exponent: u8, codes: u8, factor: f64| {
        let mut block = [codes; 17];
        block[0] = exponent;
        (scale(GgmlType::MXFP4, &mut block, factor), block[0])
    };
    assert_eq!(scaled(127, 0x21, 0.5), (0, 126));
    assert_eq!(scaled(127, 0x21, 8.0), (0, 130));
    assert_eq!(scaled(2, 0x21, 0.25), (0, 0));
    assert_eq!(scaled(2, 0x21, 0.125), (1, 2));
    assert_eq!(scaled(252, 0x21, 2.0), (1, 252));
    assert_eq!(scaled(255, 0x21, 0.5), (1, 255));
    assert_eq!(scaled(0, 0x80, 0.5), (0, 0)); // zeros
}

proptest! {
    /// Whatever the bytes are: what is not counted decodes to the product, the rest is untouched.
    #[test]
    fn scaled_blocks_decode_to_products(
        (ty, block) in prop::sample::select(decodable().collect::<Vec<_>>()).prop_flat_map(|ty| {
            let bytes = prop::collection::vec(any::<u8>(), ty.block_bytes());
            (Just(ty), bytes)
        }),
        exponent in -12..12_i32,
        negative: bool,
    ) {
        let factor = 2_f64.powi(exponent) * if negative { -1.0 } else { 1.0 };
        prop_assume!(can_scale(ty, factor));

        let mut scaled = block.clone();
        let inexact = scale(ty, &mut scaled, factor);
        if inexact != 0 {
            prop_assert_eq!(inexact, 1);
            prop_assert_eq!(scaled, block);
            return Ok(());
        }
        for (product, value) in decode_all(ty, &scaled).iter().zip(decode_all(ty, &block)) {
            let expected = value * factor as f32;
            let zeros = negative && *product == 0.0 && expected == 0.0;
            prop_assert!(product.to_bits() == expected.to_bits() || zeros, "{product:e}, {expected:e}");
        }
    }

    #[test]
    fn q8_0_loses_half_a_step_at_most(values in prop::collection::vec(-1e4..1e4_f32, 32)) {
        let mut block = [0; 34];
        prop_assert_eq!(encode_q8_0(&values, &mut block), 0);
        let step = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0;
        for (decoded, value) in decode_all(GgmlType::Q8_0, &block).iter().zip(values) {
            // The scale itself is rounded to an F16, by 2^-11 of it at most.
            prop_assert!((decoded - value).abs() <= step * (0.501 + 127.0 / 2048.0));
        }
    }
}
