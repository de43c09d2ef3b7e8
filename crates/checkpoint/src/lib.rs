//! Reads and writes model files: Hugging Face folders of safetensors, and GGUF files.
//!
//! This crate knows what lies where in a model's files. It knows nothing of layer plans, command
//! lines or tensor arithmetic, and it prints nothing. In reading order:
//!
//! - [`json`]: JSON objects that keep what they are not asked to change
//! - `hub_error`: what can be wrong between this machine and the hub
//! - [`error`]: everything that can be wrong with a model's files
//! - [`family`]: tensor names, order and shapes of model families, in tables
//! - [`header`]: the header of a safetensors file
//! - [`side_files`]: tokenizer, licence and what else stands beside the weights
//! - [`gguf`]: GGUF files
//! - [`encoding`], [`model`]: how tensors are stored, and a model whose files were read
//! - [`folder`], `open`: a model's folder, or any model, opened and checked
//! - [`hub`]: where a model lies: by path, in the hub's local cache, or on the hub

pub mod encoding;
pub mod error;
pub mod family;
pub mod folder;
pub mod gguf;
pub mod header;
pub mod hub;
mod hub_error;
pub mod json;
pub mod model;
mod open;
pub mod side_files;

pub use encoding::Encoding;
pub use error::{Error, Result};
pub use model::{Checkpoint, Gguf, Tensor, WeightFile};
pub use safetensors::Dtype;

const _: () = assert!(usize::BITS == 64, "models are larger than a 32-bit address space");
