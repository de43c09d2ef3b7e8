//! CUDA kernels for decoders, and what launches them.
//!
//! It knows numbers in the GPU's memory, and no model: names, files and configs are `infer`'s. All of
//! NVIDIA's libraries are opened at run time, so that a program with these kernels starts where there
//! is neither a driver nor a card. In reading order:
//!
//! - [`error`]: what can go wrong
//! - [`gpu`]: a card, its memory, and work in order
//! - [`bandwidth`]: how fast its memory is
//! - [`nvml`]: what energy it takes
//! - [`upload`]: files brought into a card's memory
//! - [`forms`]: matrices of weights as the kernels read them
//! - [`decode`]: a step of a decoder for a few sequences, in one launch
//! - [`sample`]: the choice of the next tokens behind it
//! - [`prefill`]: many tokens of one sequence, chunk by chunk
//! - [`gemm`], [`flash`], [`rows`]: what a chunk goes through, products, attention and the rest
//!
//! The kernels themselves lie in `kernels/`, with what they have in common in `.cuh` files;
//! `docs/gpu-engine.md` says how fast they are and why.

#![expect(clippy::cast_possible_wrap, reason = "kernels count in i32, far above what cards hold")]

pub mod bandwidth;
pub mod decode;
pub mod error;
pub mod flash;
pub mod forms;
pub mod gemm;
pub mod gpu;
pub mod nvml;
pub mod prefill;
pub mod rows;
pub mod sample;
pub mod upload;

pub use error::{Error, Result};
pub use gpu::{Buffer, Gpu, View};
pub use upload::{Convert, Order, Piece, Source, Uploader};
