//! What the quantised types have in common, and in what they differ.
//!
//! An element is `scale · (code − OFFSET) + minimum`: a code of 2, 4 or 8 bits, and a scale, in some
//! types a minimum too, that a group of 16 or 32 elements of a row shares.

#![expect(non_camel_case_types, reason = "llama.cpp's names, letter for letter")]

use checkpoint::gguf::GgmlType;

/// How a group's scale and minimum are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// An F16.
    One,
    /// Two F16: scale and minimum.
    Two,
    /// Two integers of 6 bits, which two F16 multiply for 256 elements; the minimum is taken away.
    Super,
    /// Integers of 8 bits with a sign for groups of 16, which an F16 multiplies for 256 elements.
    Signed,
    /// Two integers of 4 bits in a byte, scale and minimum, for groups of 16, which two F16 multiply
    /// for 256 elements; the minimum is taken away.
    Nibbles,
}

/// A quantised type, as far as sums are concerned.
pub(super) trait Form {
    const TYPE: GgmlType;
    /// Bits of a code in a tile: 3 bits get half a byte, and 5 and 6 bits get a byte, which is no
    /// slower to read from a cache.
    const BITS: usize;
    /// What is taken from a code.
    const OFFSET: i32;
    /// Whether codes are integers with a sign.
    const SIGNED: bool = false;
    const SCALES: Scales;
    /// Groups of which each has its own scale among 32 elements.
    const PARTS: usize =
        if matches!(Self::SCALES, Scales::Signed | Scales::Nibbles) { 2 } else { 1 };
    /// Words of four codes in a line.
    const PACKED: usize = 8 / Self::BITS;
    /// Lines of a part.
    const LINES: usize = Self::BITS / Self::PARTS;
    /// Elements of a block.
    const BLOCK: usize = Self::TYPE.block_elements();
    const HAS_MINIMUM: bool = matches!(Self::SCALES, Scales::Two | Scales::Super | Scales::Nibbles);
}

macro_rules! forms {
    ($($name:ident: $bits:literal bits less $offset:literal, $scales:ident;)*) => {
        $(
            pub(super) struct $name;

            impl Form for $name {
                const TYPE: GgmlType = GgmlType::$name;
                const BITS: usize = $bits;
                const OFFSET: i32 = $offset;
                const SCALES: Scales = Scales::$scales;
            }
        )*
    };
}

forms! {
    Q4_0: 4 bits less 8, One;
    Q4_1: 4 bits less 0, Two;
    Q5_0: 8 bits less 16, One;
    Q5_1: 8 bits less 0, Two;
    Q2_K: 2 bits less 0, Nibbles;
    Q3_K: 4 bits less 4, Signed;
    Q4_K: 4 bits less 0, Super;
    Q5_K: 8 bits less 0, Super;
    Q6_K: 8 bits less 32, Signed;
}

pub(super) struct Q8_0;

impl Form for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const BITS: usize = 8;
    const OFFSET: i32 = 0;
    const SIGNED: bool = true;
    const SCALES: Scales = Scales::One;
}

/// Calls a function that is generic over [`Form`] with that of a type; `None` for other types.
macro_rules! with_form {
    ($ty:expr, $call:ident($($argument:expr),*)) => {{
        use checkpoint::gguf::GgmlType;
        use $crate::quantised::forms;
        match $ty {
            GgmlType::Q4_0 => Some($call::<forms::Q4_0>($($argument),*)),
            GgmlType::Q4_1 => Some($call::<forms::Q4_1>($($argument),*)),
            GgmlType::Q5_0 => Some($call::<forms::Q5_0>($($argument),*)),
            GgmlType::Q5_1 => Some($call::<forms::Q5_1>($($argument),*)),
            GgmlType::Q8_0 => Some($call::<forms::Q8_0>($($argument),*)),
            GgmlType::Q2_K => Some($call::<forms::Q2_K>($($argument),*)),
            GgmlType::Q3_K => Some($call::<forms::Q3_K>($($argument),*)),
            GgmlType::Q4_K => Some($call::<forms::Q4_K>($($argument),*)),
            GgmlType::Q5_K => Some($call::<forms::Q5_K>($($argument),*)),
            GgmlType::Q6_K => Some($call::<forms::Q6_K>($($argument),*)),
            _ => None,
        }
    }};
}
pub(super) use with_form;
