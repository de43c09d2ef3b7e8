//! What a tensor's bytes are as numbers: floats one by one, or blocks of quantised ones.

use checkpoint::Encoding;
use checkpoint::gguf::GgmlType;

use super::blocks;
use super::cast::{self, Float, Tally};

/// An encoding that has arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Float(Float),
    Blocks(GgmlType),
}

impl Stored {
    /// `None` where elements cannot be read as f32.
    pub(super) fn readable(encoding: Encoding) -> Option<Self> {
        match encoding {
            Encoding::Plain(dtype) => Float::of(dtype).map(Self::Float),
            Encoding::Blocks(ty) => blocks::can_decode(ty).then_some(Self::Blocks(ty)),
        }
    }

    /// `None` where f32 cannot be written as such elements.
    pub(super) fn writable(encoding: Encoding) -> Option<Self> {
        match encoding {
            Encoding::Plain(dtype) => Float::of(dtype).map(Self::Float),
            Encoding::Blocks(ty) => (ty == GgmlType::Q8_0).then_some(Self::Blocks(ty)),
        }
    }

    /// The elements that are stored together: a power of two, not more than 256.
    pub(super) fn unit_elements(self) -> usize {
        match self {
            Self::Float(_) => 1,
            Self::Blocks(ty) => ty.block_elements(),
        }
    }

    /// The bytes of as many.
    pub(super) fn unit_bytes(self) -> usize {
        match self {
            Self::Float(float) => float.width(),
            Self::Blocks(ty) => ty.block_bytes(),
        }
    }

    /// The bytes of `num_elements` elements, which are whole units.
    pub(super) fn num_bytes(self, num_elements: usize) -> usize {
        num_elements / self.unit_elements() * self.unit_bytes()
    }

    /// The elements in `num_bytes` bytes, a trailing piece of a unit left out.
    pub(super) fn num_elements(self, num_bytes: usize) -> usize {
        num_bytes / self.unit_bytes() * self.unit_elements()
    }

    pub(super) fn widen(self, source: &[u8], values: &mut [f32]) {
        match self {
            Self::Float(float) => cast::widen(float, source, values),
            Self::Blocks(ty) => blocks::decode(ty, source, values),
        }
    }

    /// Rounds `values`; in blocks, values of a block that holds one that is not finite are lost, and
    /// counted as overflowed. What blocks lose by rounding is their nature and not counted.
    pub(super) fn narrow(self, values: &[f32], target: &mut [u8]) -> Tally {
        match self {
            Self::Float(float) => cast::narrow(float, values, target),
            Self::Blocks(_) => {
                let overflowed = blocks::encode_q8_0(values, target) as u32;
                Tally { overflowed, ..Tally::default() }
            }
        }
    }
}
