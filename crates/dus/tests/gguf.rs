//! GGUF files made deeper: bytes, metadata, outputs, proof, and what is refused.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

#[path = "gguf/bytes.rs"]
mod bytes;
#[path = "command_line/dus.rs"]
mod dus;
#[path = "movement/image.rs"]
mod image;
#[path = "gguf/metadata.rs"]
mod metadata;
#[path = "gguf/operations.rs"]
mod operations;
#[path = "gguf/outputs.rs"]
mod outputs;
#[path = "gguf/place.rs"]
mod place;
#[path = "gguf/plans.rs"]
mod plans;
#[path = "gguf/proof.rs"]
mod proof;
#[path = "gguf/python.rs"]
mod python;
#[path = "gguf/sharing.rs"]
mod sharing;
#[path = "gguf/stopped.rs"]
mod stopped;
#[path = "gguf/twice.rs"]
mod twice;
