//! The types a GGUF file's tensors can have: how many bytes hold how many elements.
//!
//! Ids and sizes are llama.cpp's (`ggml_type` in ggml.h, the block structs of ggml-common.h). Those
//! that it has given up are no types here: 4 and 5 (`Q4_2`, `Q4_3`), 31 to 33 and 36 to 38 (`Q4_0`
//! and `IQ4_NL` repacked for one processor).

use std::fmt;

/// The enum and its methods from one table, whose lines are a name, its id in files, and the
/// elements and bytes of a block.
macro_rules! ggml_types {
    ($($(#[$doc:meta])* $name:ident = $id:literal: $elements:literal in $bytes:literal,)*) => {
        /// The type of a tensor in a GGUF file.
        ///
        /// Elements are stored in blocks, each for itself: a row is whole blocks, and those of a
        /// plain type are of one element.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types, reason = "llama.cpp's names, letter for letter")]
        #[repr(u32)]
        pub enum GgmlType { $($(#[$doc])* $name = $id,)* }

        impl GgmlType {
            /// Every type, in the order of the ids.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The type that files write as `id`.
            #[must_use]
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// llama.cpp's name, in capitals as model cards and file names have it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Elements of a block.
            #[must_use]
            pub const fn block_elements(self) -> usize {
                match self { $(Self::$name => $elements,)* }
            }

            /// Bytes of a block.
            #[must_use]
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }
        }
    };
}

ggml_types! {
    /// IEEE 754 binary32.
    F32     =  0:   1 in   4,
    /// IEEE 754 binary16.
    F16     =  1:   1 in   2,
    /// 4 bits less 8, times an F16.
    Q4_0    =  2:  32 in  18,
    /// 4 bits times an F16, plus an F16.
    Q4_1    =  3:  32 in  20,
    /// 5 bits less 16, times an F16.
    Q5_0    =  6:  32 in  22,
    /// 5 bits times an F16, plus an F16.
    Q5_1    =  7:  32 in  24,
    /// 8 bits times an F16.
    Q8_0    =  8:  32 in  34,
    /// Activations only, in no file: `Q8_0` with its sum. gguf-py still has the 40 bytes it once was.
    Q8_1    =  9:  32 in  36,
    /// 2 bits, and 4 bits of scale and of minimum for 16 elements, which two F16 multiply.
    Q2_K    = 10: 256 in  84,
    /// 3 bits, and 6 bits of scale for 16 elements, which an F16 multiplies.
    Q3_K    = 11: 256 in 110,
    /// 4 bits, and 6 bits of scale and of minimum for 32 elements, which two F16 multiply.
    Q4_K    = 12: 256 in 144,
    /// 5 bits, and 6 bits of scale and of minimum for 32 elements, which two F16 multiply.
    Q5_K    = 13: 256 in 176,
    /// 6 bits, and 8 bits of scale for 16 elements, which an F16 multiplies.
    Q6_K    = 14: 256 in 210,
    /// Activations only, in no file: 8 bits times an F32, with sums of 16.
    Q8_K    = 15: 256 in 292,
    /// 8 elements from a grid of 256, and 4 bits of scale for 32.
    IQ2_XXS = 16: 256 in  66,
    /// 8 elements from a grid of 512, and 4 bits of scale for 16.
    IQ2_XS  = 17: 256 in  74,
    /// 4 elements from a grid of 256, and 4 bits of scale for 32.
    IQ3_XXS = 18: 256 in  98,
    /// 8 elements from a grid of 2048, and 3 bits of scale for 32.
    IQ1_S   = 19: 256 in  50,
    /// 4 bits that stand for one of 16 numbers, times an F16.
    IQ4_NL  = 20:  32 in  18,
    /// 4 elements from a grid of 512, and 4 bits of scale for 32.
    IQ3_S   = 21: 256 in 110,
    /// 8 elements from a grid of 1024, and 4 bits of scale for 16.
    IQ2_S   = 22: 256 in  82,
    /// `IQ4_NL`'s numbers, and 6 bits of scale for 32 elements.
    IQ4_XS  = 23: 256 in 136,
    /// Integers of 8 bits.
    I8      = 24:   1 in   1,
    /// Integers of 16 bits.
    I16     = 25:   1 in   2,
    /// Integers of 32 bits.
    I32     = 26:   1 in   4,
    /// Integers of 64 bits.
    I64     = 27:   1 in   8,
    /// IEEE 754 binary64.
    F64     = 28:   1 in   8,
    /// `IQ1_S`'s grid, and 3 bits of scale for 16 elements.
    IQ1_M   = 29: 256 in  56,
    /// The upper half of an F32.
    BF16    = 30:   1 in   2,
    /// One of −1, 0, 1 times an F16; five elements to a byte.
    TQ1_0   = 34: 256 in  54,
    /// One of −1, 0, 1 times an F16; four elements to a byte.
    TQ2_0   = 35: 256 in  66,
    /// FP4 (E2M1) times a power of two.
    MXFP4   = 39:  32 in  17,
    /// FP4 (E2M1), and an FP8 (E4M3) scale for 16 elements.
    NVFP4   = 40:  64 in  36,
    /// One of −1, 1 times an F16.
    Q1_0    = 41: 128 in  18,
    /// One of −1, 0, 1, 2 times an F16.
    Q2_0    = 42:  64 in  18,
}

impl GgmlType {
    /// The number that stands for the type in files.
    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of `num_elements` elements; none if that is not whole blocks, or too much for a u64.
    #[must_use]
    pub const fn num_bytes(self, num_elements: u64) -> Option<u64> {
        let elements = self.block_elements() as u64;
        if !num_elements.is_multiple_of(elements) {
            return None;
        }
        (num_elements / elements).checked_mul(self.block_bytes() as u64)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_found_again() {
        let found: Vec<GgmlType> = (0..100).filter_map(GgmlType::from_id).collect();
        assert_eq!(found, GgmlType::ALL);
        for &ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
        }
    }

    #[test]
    fn ids_that_llama_cpp_has_given_up_are_no_types() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(GgmlType::from_id(id), None, "{id}");
        }
    }

    #[test]
    fn only_whole_blocks_have_bytes() {
        assert_eq!(GgmlType::Q4_K.num_bytes(4096 * 4096), Some(4096 * 4096 / 256 * 144));
        assert_eq!(GgmlType::Q4_K.num_bytes(0), Some(0));
        assert_eq!(GgmlType::Q4_K.num_bytes(128), None);
        assert_eq!(GgmlType::F64.num_bytes(u64::MAX / 8 + 1), None);
    }

    #[test]
    fn names_align() {
        assert_eq!(format!("{:<8}|{}", GgmlType::IQ2_XXS, GgmlType::Q4_K), "IQ2_XXS |Q4_K");
    }
}
