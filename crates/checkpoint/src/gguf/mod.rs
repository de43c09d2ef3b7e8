//! GGUF files, versions 2 and 3: metadata, tensor names and types, and where each tensor lies.
//!
//! The format is described in ggml's `docs/gguf.md`. In reading order:
//!
//! - [`error`]: what can be wrong with a file
//! - [`value`], [`metadata`]: typed values, and keys in order
//! - [`ggml_type`]: the types of tensors
//! - [`header`], [`split`]: the header of a file, and models of several files
//! - [`architecture`], [`names`]: what llama.cpp calls tensors, and what it does to them
//! - [`config`], [`parameters`]: `config.json` from metadata, and metadata from `config.json`
//! - `open`: a file opened as a model
//! - [`tokenizer`]: tokenizers, to a Hugging Face folder and back

mod agreement;
pub mod architecture;
pub mod config;
pub mod error;
pub mod ggml_type;
pub mod header;
mod keys;
mod llama3;
pub mod metadata;
pub mod names;
mod open;
pub mod parameters;
mod reader;
mod rope;
mod rope_parameters;
mod settings;
pub mod split;
pub mod tokenizer;
pub mod value;

pub use architecture::Architecture;
pub use config::{Facts, config_from_metadata};
pub use error::GgufError;
pub use ggml_type::GgmlType;
pub use header::Header;
pub use metadata::Metadata;
pub(crate) use open::open;
pub use parameters::to_metadata;
pub use rope::RopeFactors;
pub use value::{Array, ToValue, Value, ValueType};
