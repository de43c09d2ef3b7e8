//! The types of tensors: their numbers in files, and the elements and bytes of a block.

use crate::tensor::Random;

/// A type of tensors, by llama.cpp's name of it in capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Its number in files.
    pub id: u32,
    /// The elements of a block.
    pub elements: usize,
    /// The bytes of a block.
    pub bytes: usize,
    /// Where a block has F16s that multiply all else in it.
    scales: &'static [usize],
}

/// Every type that files may have; the last column is where the scales stand.
///
/// The bytes of `Q8_1` are those of llama.cpp, not of gguf-py, which still has the 40 it once was.
pub const KINDS: &[Kind] = &[
    kind("F32", 0, 1, 4, &[]),
    kind("F16", 1, 1, 2, &[0]),
    kind("Q4_0", 2, 32, 2 + 16, &[0]),
    kind("Q4_1", 3, 32, 4 + 16, &[0, 2]),
    kind("Q5_0", 6, 32, 2 + 4 + 16, &[0]),
    kind("Q5_1", 7, 32, 4 + 4 + 16, &[0, 2]),
    kind("Q8_0", 8, 32, 2 + 32, &[0]),
    kind("Q8_1", 9, 32, 4 + 32, &[0, 2]),
    kind("Q2_K", 10, 256, 16 + 64 + 4, &[80, 82]),
    kind("Q3_K", 11, 256, 32 + 64 + 12 + 2, &[108]),
    kind("Q4_K", 12, 256, 4 + 12 + 128, &[0, 2]),
    kind("Q5_K", 13, 256, 4 + 12 + 32 + 128, &[0, 2]),
    kind("Q6_K", 14, 256, 128 + 64 + 16 + 2, &[208]),
    kind("Q8_K", 15, 256, 4 + 256 + 32, &[]),
    kind("IQ2_XXS", 16, 256, 2 + 64, &[0]),
    kind("IQ2_XS", 17, 256, 2 + 64 + 8, &[0]),
    kind("IQ3_XXS", 18, 256, 2 + 96, &[0]),
    kind("IQ1_S", 19, 256, 2 + 32 + 16, &[0]),
    kind("IQ4_NL", 20, 32, 2 + 16, &[0]),
    kind("IQ3_S", 21, 256, 2 + 64 + 8 + 32 + 4, &[0]),
    kind("IQ2_S", 22, 256, 2 + 64 + 8 + 8, &[0]),
    kind("IQ4_XS", 23, 256, 2 + 2 + 4 + 128, &[0]),
    kind("I8", 24, 1, 1, &[]),
    kind("I16", 25, 1, 2, &[]),
    kind("I32", 26, 1, 4, &[]),
    kind("I64", 27, 1, 8, &[]),
    kind("F64", 28, 1, 8, &[]),
    kind("IQ1_M", 29, 256, 32 + 16 + 8, &[]),
    kind("BF16", 30, 1, 2, &[]),
    kind("TQ1_0", 34, 256, 48 + 4 + 2, &[52]),
    kind("TQ2_0", 35, 256, 64 + 2, &[64]),
    kind("MXFP4", 39, 32, 1 + 16, &[]),
    kind("NVFP4", 40, 64, 4 + 32, &[]),
    kind("Q1_0", 41, 128, 2 + 16, &[0]),
    kind("Q2_0", 42, 64, 2 + 16, &[0]),
];

const fn kind(
    name: &'static str,
    id: u32,
    elements: usize,
    bytes: usize,
    scales: &'static [usize],
) -> Kind {
    Kind { name, id, elements, bytes, scales }
}

impl Kind {
    /// The type called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let found = KINDS.iter().find(|kind| kind.name == name);
        *found.unwrap_or_else(|| panic!("there is no type {name}"))
    }

    /// The type that files write as `id`.
    #[must_use]
    pub fn of_id(id: u32) -> Self {
        let found = KINDS.iter().find(|kind| kind.id == id);
        *found.unwrap_or_else(|| panic!("there is no type {id}"))
    }

    /// The bytes of a tensor of `shape`.
    #[must_use]
    pub fn tensor_bytes(self, shape: &[usize]) -> usize {
        let elements: usize = shape.iter().product();
        assert!(elements.is_multiple_of(self.elements), "{} of {shape:?}", self.name);
        elements / self.elements * self.bytes
    }

    /// Whether tensors of it are quantised.
    #[must_use]
    pub fn is_blocks(self) -> bool {
        self.elements > 1
    }

    /// Blocks that follow from `seed` and nothing else, none of which stands for a value that is not
    /// finite, and whose scales lie between 2⁻⁷ and 2⁻³, so that a few powers of two are exact on them.
    #[must_use]
    pub fn random(self, seed: &str, shape: &[usize]) -> Vec<u8> {
        let mut random = Random::new(seed);
        let len = self.tensor_bytes(shape);
        let words = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.take(len).collect();
        for block in bytes.chunks_exact_mut(self.bytes) {
            for &at in self.scales {
                // The exponent in bits 2 to 6 of the second byte: from 8 to 11, less 15.
                block[at + 1] = block[at + 1] & 0x83 | (8 + (block[at + 1] >> 2 & 3)) << 2;
            }
            match self.name {
                "F32" => block[3] = block[3] & 0x80 | 0x3c,
                "BF16" => block[1] = block[1] & 0x80 | 0x3c,
                "F64" => block[7] = block[7] & 0x80 | 0x3f,
                "MXFP4" => block[0] = 100 + block[0] % 20,
                "NVFP4" => block[..4].iter_mut().for_each(|scale| *scale = *scale & 0x3f | 0x20),
                // The scale is the upper four bits of four words.
                "IQ1_M" => block[55] = block[55] & 0x0f | 0x20,
                _ => {}
            }
        }
        bytes
    }
}
