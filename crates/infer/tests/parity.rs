//! The decoder beside transformers' numbers, in f32 on the CPU, and beside itself.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "parity/families.rs"]
mod families;
#[path = "parity/gguf.rs"]
mod gguf;
#[path = "parity/invariances.rs"]
mod invariances;
#[path = "parity/references.rs"]
mod references;
#[path = "parity/smollm2.rs"]
mod smollm2;
#[path = "parity/stored_in_16_bits.rs"]
mod stored_in_16_bits;
#[path = "parity/tiny_mistral.rs"]
mod tiny_mistral;
#[path = "parity/unbuilt.rs"]
mod unbuilt;
