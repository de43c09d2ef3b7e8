//! Products by matrices that stay in ggml's quantised blocks.
//!
//! As in llama.cpp, activations are quantised to 8 bits in groups of 32 on the way, so that sums are
//! sums of small integers, which are exact. Each number of a result takes the same steps whatever
//! stands beside it: it does not depend on how many rows there are, on threads, or on the
//! processor's instructions. In reading order:
//!
//! - `blocks`: a matrix as a file has it
//! - `forms`, `unpack`, `tiles`: the order in which it is multiplied by
//! - `activations`: rows of numbers to 8 bits
//! - `plain`, `x86`, `neon`: the sums, in plain Rust, and by instructions of x86 and of aarch64
//! - `product`: a matrix in tiles times rows, on all cores
//! - `encode`: blocks of a matrix that comes without
//! - `matrix`: all of it as a form of weight

mod activations;
mod blocks;
mod encode;
mod forms;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
mod product;
mod tiles;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use blocks::Blocks;
pub use encode::Quantize;
pub(crate) use encode::{encode, is_finite};
pub use matrix::QuantisedMatrix;
pub(crate) use matrix::{dequantised, num_bytes};
