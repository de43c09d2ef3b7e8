//! A tensor's bytes, made up from its name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use safetensors::{Dtype, View};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// A tensor, whole in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its elements, row by row, little-endian.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Numbers around `mean`, within 1/4 of it, that follow from `name` and nothing else.
    ///
    /// They are multiples of 1/4096, cut to what `dtype` holds. Two tensors of different names differ,
    /// unless they have but a few elements.
    #[must_use]
    pub fn random(name: &str, dtype: Dtype, shape: &[usize], mean: f32) -> Self {
        let mut random = Random::new(name);
        let num_elements: usize = shape.iter().product();
        let numbers = (0..num_elements).map(|_| {
            let step = (random.next() % 2048) as u16;
            mean + (f32::from(step) - 1024.0) / 4096.0
        });
        Self { dtype, shape: shape.to_vec(), bytes: encode(dtype, numbers) }
    }

    /// A tensor of the given bytes.
    #[must_use]
    pub fn new(dtype: Dtype, shape: &[usize], bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let num_elements: usize = shape.iter().product();
        assert_eq!(bytes.len() * 8, num_elements * dtype.bitsize(), "{dtype} of {shape:?}");
        Self { dtype, shape: shape.to_vec(), bytes }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { dtype, shape, bytes } = self;
        let begin: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        write!(f, "{dtype} {shape:?} {}… ({} B)", begin.join(" "), bytes.len())
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The bytes of `numbers`, which are cut and not rounded, as F32, BF16 or F16.
fn encode(dtype: Dtype, numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    match dtype {
        Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
        Dtype::BF16 => numbers.flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        Dtype::F16 => numbers.flat_map(|x| f16_bits(x).to_le_bytes()).collect(),
        _ => panic!("no random numbers are made of {dtype}"),
    }
}

/// The bits of `number`, which is zero or has a magnitude from 2⁻¹⁴ to 2¹⁶, in F16.
///
/// F16's exponent is biased by 15 where F32's is by 127.
fn f16_bits(number: f32) -> u16 {
    let bits = number.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    if number == 0.0 {
        return sign;
    }
    let exponent = (bits >> 23 & 0xff) as u16 - (127 - 15);
    sign | exponent << 10 | (bits >> 13 & 0x3ff) as u16
}

/// `SplitMix64` (Steele et al. 2014), seeded by the FNV-1a hash of a text.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed`.
    #[must_use]
    pub fn new(seed: &str) -> Self {
        let offset_basis = 0xcbf2_9ce4_8422_2325;
        Self(seed.bytes().fold(offset_basis, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "an endless iterator has no use for `None`")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_ieee_754s() {
        for (number, bits) in
            [(0.0, 0), (1.0, 0x3c00), (-0.25, 0xb400), (1.25, 0x3d00), (1.0 / 4096.0, 0x0c00)]
        {
            assert_eq!(f16_bits(number), bits, "{number}");
        }
    }

    #[test]
    fn a_name_gives_the_same_bytes_each_time() {
        let tensor = |name| Tensor::random(name, Dtype::BF16, &[4, 4], 0.0);
        assert_eq!(tensor("a"), tensor("a"));
        assert_ne!(tensor("a"), tensor("b"));
    }
}
