//! Multiplying blocks by a power of two, exactly, without decoding them.
//!
//! Only the scales and minima change that multiply everything else in a block, and only in exponent
//! and sign. Elements are products of these and integers, so all of them change by just that factor.

use super::i_quants::iq1_m_scale;
use checkpoint::gguf::GgmlType;

/// Whether `factor` is a power of two, or the negative of one.
#[must_use]
pub fn is_exact_factor(factor: f64) -> bool {
    Power::of(factor).is_some()
}

/// Whether [`scale`] can multiply blocks of this type by `factor`: a power of two, and not negative
/// if the type's scales have no sign (`MXFP4`, `NVFP4`).
#[must_use]
pub fn can_scale(ty: GgmlType, factor: f64) -> bool {
    match (Scales::of(ty), Power::of(factor)) {
        (Some(Scales::E8m0 | Scales::Ue4m3), Some(power)) => !power.negative,
        (Some(_), Some(_)) => true,
        _ => false,
    }
}

/// Multiplies what `blocks`, whole blocks of type `ty`, decode to by `factor`, and returns in how many
/// that cannot be done exactly. Those stay as they are.
///
/// It cannot where a scale or a minimum is NaN or infinite, or would become too large or too small for
/// its format. An element that a minimum makes zero may keep the sign of its zero.
///
/// # Panics
///
/// If [`can_scale`] does not say so, or `blocks` are not whole blocks.
#[must_use = "blocks may have stayed as they were"]
pub fn scale(ty: GgmlType, blocks: &mut [u8], factor: f64) -> u64 {
    assert!(can_scale(ty, factor), "{ty} blocks have no exact product with {factor}");
    let power = Power::of(factor).expect("a factor that can scale is a power of two");
    let scales = Scales::of(ty).expect("a type that can be scaled has scales");
    let block_bytes = ty.block_bytes();
    assert!(blocks.len().is_multiple_of(block_bytes), "a piece of a block");
    let blocks = blocks.chunks_exact_mut(block_bytes);
    blocks.map(|block| u64::from(scales.multiply(block, power).is_none())).sum()
}

/// A power of two with a sign.
#[derive(Clone, Copy)]
struct Power {
    negative: bool,
    exponent: i32,
}

impl Power {
    fn of(factor: f64) -> Option<Self> {
        let bits = factor.to_bits();
        let mantissa = bits << 12;
        let exponent = (bits >> 52 & 0x7ff) as i32;
        let normal = (1..0x7ff).contains(&exponent);
        (normal && mantissa == 0)
            .then_some(Self { negative: factor < 0.0, exponent: exponent - 1023 })
    }
}

/// Where a block has the scales and minima that multiply all else in it, and what they are.
#[derive(Clone, Copy)]
enum Scales {
    /// F16s at these offsets.
    F16(&'static [usize]),
    /// One F16 in four pieces at the end, as `IQ1_M` has it.
    F16InPieces,
    /// A power of two in the first byte.
    E8m0,
    /// Four FP8 without sign in the first bytes.
    Ue4m3,
}

impl Scales {
    fn of(ty: GgmlType) -> Option<Self> {
        Some(match ty {
            GgmlType::Q1_0
            | GgmlType::Q2_0
            | GgmlType::Q4_0
            | GgmlType::Q5_0
            | GgmlType::Q8_0
            | GgmlType::IQ1_S
            | GgmlType::IQ2_XXS
            | GgmlType::IQ2_XS
            | GgmlType::IQ2_S
            | GgmlType::IQ3_XXS
            | GgmlType::IQ3_S
            | GgmlType::IQ4_NL
            | GgmlType::IQ4_XS => Self::F16(&[0]),
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => Self::F16(&[0, 2]),
            GgmlType::Q2_K => Self::F16(&[80, 82]),
            GgmlType::Q3_K => Self::F16(&[108]),
            GgmlType::Q6_K => Self::F16(&[208]),
            GgmlType::TQ1_0 => Self::F16(&[52]),
            GgmlType::TQ2_0 => Self::F16(&[64]),
            GgmlType::IQ1_M => Self::F16InPieces,
            GgmlType::MXFP4 => Self::E8m0,
            GgmlType::NVFP4 => Self::Ue4m3,
            _ => return None,
        })
    }

    /// Multiplies all of `block`, or returns none and leaves it.
    fn multiply(self, block: &mut [u8], power: Power) -> Option<()> {
        match self {
            Self::F16(offsets) => {
                let mut products = [[0; 2]; 2];
                for (product, &offset) in products.iter_mut().zip(offsets) {
                    let half = u16::from_le_bytes([block[offset], block[offset + 1]]);
                    *product = f16_product(half, power)?.to_le_bytes();
                }
                for (product, &offset) in products.iter().zip(offsets) {
                    block[offset..offset + 2].copy_from_slice(product);
                }
            }
            Self::F16InPieces => {
                let words = block.last_chunk_mut::<8>()?;
                let product = f16_product(iq1_m_scale(*words), power)?;
                for (i, word) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    word[1] = word[1] & 15 | (product >> (4 * i) << 4) as u8;
                }
            }
            Self::E8m0 => block[0] = e8m0_product(block, power)?,
            Self::Ue4m3 => {
                let mut products = [0; 4];
                for (product, &scale) in products.iter_mut().zip(&*block) {
                    *product = minifloat_product::<3>(scale.into(), 0x7e, power)? as u8;
                }
                block[..4].copy_from_slice(&products);
            }
        }
        Some(())
    }
}

fn f16_product(half: u16, power: Power) -> Option<u16> {
    let sign = half & 0x8000 ^ u16::from(power.negative) << 15;
    let magnitude = minifloat_product::<10>(u32::from(half & 0x7fff), 0x7bff, power)?;
    Some(magnitude as u16 | sign)
}

/// The first byte of the product of an `MXFP4` block.
fn e8m0_product(block: &[u8], power: Power) -> Option<u8> {
    /// With the next exponent the largest code overflows f32.
    const LARGEST: u8 = 252;

    if block[1..].iter().all(|codes| codes & 0x77 == 0) {
        return Some(block[0]); // Zeros, whose exponent is often the least: they need no other.
    }
    let product = u8::try_from(i32::from(block[0]) + power.exponent).ok()?;
    (block[0].max(product) <= LARGEST).then_some(product)
}

/// The product of a number of `MANTISSA` bits of mantissa below its exponent, the least of which is
/// that of subnormal numbers. None if either is beyond `largest`, or the product has no such form.
fn minifloat_product<const MANTISSA: u32>(
    magnitude: u32,
    largest: u32,
    power: Power,
) -> Option<u32> {
    if magnitude > largest {
        return None;
    }
    if magnitude == 0 {
        return Some(0);
    }
    // In units of the least subnormal number.
    let one = 1 << MANTISSA;
    let units = match magnitude >> MANTISSA {
        0 => u64::from(magnitude),
        exponent => u64::from(magnitude % one + one) << (exponent - 1),
    };
    let by = power.exponent.unsigned_abs();
    let units = if power.exponent < 0 {
        (by <= units.trailing_zeros()).then(|| units >> by)?
    } else {
        (by <= units.leading_zeros()).then(|| units << by)?
    };
    // Its leading one stands at `MANTISSA`, and so counts as one more of exponent, or below.
    let shift = units.ilog2().saturating_sub(MANTISSA);
    let product = (shift << MANTISSA) + (units >> shift) as u32;
    (product <= largest).then_some(product)
}
