//! GGUF files as others write them, and as they should not be.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "gguf/broken.rs"]
mod broken;
#[path = "gguf/encode.rs"]
mod encode;
#[path = "gguf/headers.rs"]
mod headers;
#[path = "gguf/mutations.rs"]
mod mutations;
#[path = "gguf/split.rs"]
mod split;
#[path = "gguf/values.rs"]
mod values;
