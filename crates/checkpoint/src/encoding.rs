//! How the elements of a tensor are stored: a number each, or a ggml block for several.

use std::fmt;

use safetensors::Dtype;

use crate::gguf::GgmlType;
use crate::header;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Each by itself; the numbers of a GGUF file that are no blocks are this too.
    Plain(Dtype),
    /// In quantised blocks, which lie along rows.
    Blocks(GgmlType),
}

/// The types that both formats have, a number for each element.
const BOTH: [(Dtype, GgmlType); 8] = [
    (Dtype::F32, GgmlType::F32),
    (Dtype::F16, GgmlType::F16),
    (Dtype::BF16, GgmlType::BF16),
    (Dtype::F64, GgmlType::F64),
    (Dtype::I8, GgmlType::I8),
    (Dtype::I16, GgmlType::I16),
    (Dtype::I32, GgmlType::I32),
    (Dtype::I64, GgmlType::I64),
];

impl Encoding {
    /// The type in a safetensors file; `None` for blocks.
    #[must_use]
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Plain(dtype) => Some(dtype),
            Self::Blocks(_) => None,
        }
    }

    /// The type in a GGUF file; `None` where ggml has no such numbers.
    #[must_use]
    pub fn ggml_type(self) -> Option<GgmlType> {
        match self {
            Self::Plain(dtype) => BOTH.iter().find(|both| both.0 == dtype).map(|both| both.1),
            Self::Blocks(ggml_type) => Some(ggml_type),
        }
    }

    /// The bytes of a tensor; `None` on overflow or where elements fill no whole bytes or blocks.
    #[must_use]
    pub fn num_bytes(self, shape: &[usize]) -> Option<u64> {
        match self {
            Self::Plain(dtype) => header::num_bytes(dtype, shape),
            Self::Blocks(ggml_type) => {
                let row = shape.last().copied().unwrap_or(1);
                let elements = shape.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim as u64))?;
                let whole = row.is_multiple_of(ggml_type.block_elements());
                whole.then(|| ggml_type.num_bytes(elements))?
            }
        }
    }
}

impl From<Dtype> for Encoding {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

impl From<GgmlType> for Encoding {
    fn from(ggml_type: GgmlType) -> Self {
        let plain = BOTH.iter().find(|both| both.1 == ggml_type);
        plain.map_or(Self::Blocks(ggml_type), |both| Self::Plain(both.0))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Blocks(ggml_type) => ggml_type.fmt(f),
        }
    }
}
