//! The types of ggml's tensors: how many elements stand in a block, and in how many bytes.
//!
//! Every type that a file can have is known by its size, whether or not anything here can decode
//! it. Numbers and sizes are those of ggml's `ggml.h` and of the Python package `gguf`.

use std::fmt;

macro_rules! ggml_types {
    ($($name:ident = $id:literal, $elements:literal, $bytes:literal;)*) => {
        /// The type of a tensor in a GGUF file, named as llama.cpp names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(non_camel_case_types, reason = "these are the names that llama.cpp prints")]
        #[expect(missing_docs, reason = "the table says of each all there is to say")]
        pub enum GgmlType {
            $($name = $id,)*
        }

        impl GgmlType {
            /// All types.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The elements of a block.
            #[must_use]
            pub fn block_elements(self) -> usize {
                match self { $(Self::$name => $elements,)* }
            }

            /// The bytes of a block.
            #[must_use]
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

// name = number in files, elements and bytes of a block; missing numbers were given back
ggml_types! {
    F32 = 0, 1, 4;
    F16 = 1, 1, 2;
    Q4_0 = 2, 32, 18;
    Q4_1 = 3, 32, 20;
    Q5_0 = 6, 32, 22;
    Q5_1 = 7, 32, 24;
    Q8_0 = 8, 32, 34;
    Q8_1 = 9, 32, 36;
    Q2_K = 10, 256, 84;
    Q3_K = 11, 256, 110;
    Q4_K = 12, 256, 144;
    Q5_K = 13, 256, 176;
    Q6_K = 14, 256, 210;
    Q8_K = 15, 256, 292;
    IQ2_XXS = 16, 256, 66;
    IQ2_XS = 17, 256, 74;
    IQ3_XXS = 18, 256, 98;
    IQ1_S = 19, 256, 50;
    IQ4_NL = 20, 32, 18;
    IQ3_S = 21, 256, 110;
    IQ2_S = 22, 256, 82;
    IQ4_XS = 23, 256, 136;
    I8 = 24, 1, 1;
    I16 = 25, 1, 2;
    I32 = 26, 1, 4;
    I64 = 27, 1, 8;
    F64 = 28, 1, 8;
    IQ1_M = 29, 256, 56;
    BF16 = 30, 1, 2;
    TQ1_0 = 34, 256, 54;
    TQ2_0 = 35, 256, 66;
    MXFP4 = 39, 32, 17;
    NVFP4 = 40, 64, 36;
    Q1_0 = 41, 128, 18;
}

impl GgmlType {
    /// The type with the number `id`.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|ggml_type| ggml_type.id() == id)
    }

    /// Its number.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The bytes of `num_elements` elements; `None` on overflow or where they fill no whole blocks.
    #[must_use]
    pub fn num_bytes(self, num_elements: u64) -> Option<u64> {
        let elements = self.block_elements() as u64;
        let whole = num_elements.is_multiple_of(elements);
        whole.then(|| (num_elements / elements).checked_mul(self.block_bytes() as u64))?
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
