//! GGUF files, versions 2 and 3: metadata, tensor names and types, and where each tensor lies.
//!
//! The format is described in ggml's `docs/gguf.md`. In reading order:
//!
//! - [`error`]: what can be wrong with a file
//! - [`value`], [`metadata`]: typed values, and keys in order
//! - [`ggml_type`]: the types of tensors
//! - [`header`], [`split`]: the header of a file, and models of several files
//! - [`architecture`], [`names`], `open`: names, and a file opened as a model
//! - [`tokenizer`]: tokenizers, to a Hugging Face folder and back

pub mod architecture;
pub mod error;
pub mod ggml_type;
pub mod header;
pub mod metadata;
pub mod names;
mod open;
pub mod split;
pub mod tokenizer;
pub mod value;

pub use architecture::Architecture;
pub use error::GgufError;
pub use ggml_type::GgmlType;
pub use header::Header;
pub use metadata::Metadata;
pub use open::SettingTensor;
pub(crate) use open::open;
pub use value::{Array, ToValue, Value, ValueType};
