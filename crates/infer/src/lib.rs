//! Runs decoder checkpoints: tokens to logits, text to text.
//!
//! One decoder serves Llama, Mistral, Qwen2 and Qwen3, by what their configs say. It knows nothing of
//! layer plans, and it writes no checkpoints. In reading order:
//!
//! - [`progress`], [`error`]: how a long call is watched, and what can go wrong
//! - `family`, `keys`, [`rope`], [`config`]: from `config.json` to the sizes and switches of a decoder
//! - [`anatomy`]: which tensors such a decoder has
//! - [`weight`], `numbers`, [`source`]: matrices, and where they come from
//! - [`cache`]: the keys and values of a sequence
//! - `attention`, `feed_forward`, `layer`, [`model`]: the decoder

pub mod anatomy;
mod attention;
pub mod cache;
pub mod config;
pub mod error;
mod family;
mod feed_forward;
mod keys;
mod layer;
pub mod model;
mod numbers;
pub mod progress;
pub mod rope;
pub mod source;
pub mod weight;

pub use cache::KvCache;
pub use config::DecoderConfig;
pub use error::{Error, Result};
pub use model::{Model, Sequence};
