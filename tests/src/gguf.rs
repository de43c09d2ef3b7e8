//! GGUF files written and read by code of this package's own, bytes as ggml's `docs/gguf.md` has them.
//!
//! It stands on nothing but the standard library. In reading order:
//!
//! - [`kind`]: the types of tensors
//! - [`value`]: the types of metadata
//! - [`mod@file`]: a file's header and bytes, any part of which a test may spoil
//! - [`mod@read`]: a file read back, as strictly as llama.cpp reads it
//! - [`decode`]: what blocks of the two simplest types stand for
//! - [`tiny`]: [`TinyGguf`], a model of the architecture `llama`

pub mod decode;
pub mod file;
pub mod kind;
pub mod read;
pub mod tiny;
pub mod value;

pub use file::{RawGguf, RawTensor};
pub use kind::Kind;
pub use read::{GgufTensor, ReadGguf, read, read_bytes};
pub use tiny::TinyGguf;
pub use value::Value;
