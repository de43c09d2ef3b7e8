//! The part of a model that lies on one of NVIDIA's GPUs, and runs there by kernels of our own.
//!
//! Hidden states cross over as f32: (n, `hidden_size`), in the processor's memory on this side.

use checkpoint::Encoding;
use checkpoint::gguf::GgmlType;

use crate::stored::Storage;

#[cfg(feature = "cuda")]
#[path = "card/engine.rs"]
mod engine;
#[cfg(not(feature = "cuda"))]
#[path = "card/no_engine.rs"]
mod engine;
pub(crate) use engine::{Card, CardCache, unsupported};

/// The bytes that a tensor of this encoding and shape takes on a GPU.
pub(crate) fn bytes(storage: Storage, encoding: Encoding, shape: &[usize]) -> u64 {
    let elements = shape.iter().product::<usize>() as u64;
    match form(storage, encoding, shape) {
        // A scale of 16 bits for 32; twenty bytes beside the codes of 256.
        Form::Q8_0 => elements + elements / 16,
        Form::Q4K => elements / 2 + elements * 20 / 256,
        Form::Dense if shape.len() == 2 => elements * 2,
        Form::Dense => elements * 4,
    }
}

/// How a tensor lies on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Matrices in the 16 bits of the arithmetic, vectors in f32.
    Dense,
    /// As `Q8_0`.
    Q8_0,
    /// As `Q4_K`.
    Q4K,
}

/// How a tensor of this encoding and shape is to lie on a GPU: blocks that the kernels do not have are
/// decoded.
pub(crate) fn form(storage: Storage, encoding: Encoding, shape: &[usize]) -> Form {
    let inputs = shape.last().copied().unwrap_or(0);
    match storage.blocks(encoding, shape) {
        Some(GgmlType::Q8_0) if inputs.is_multiple_of(64) => Form::Q8_0,
        Some(GgmlType::Q4_K) => Form::Q4K,
        _ => Form::Dense,
    }
}
