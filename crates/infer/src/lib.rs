//! Runs decoder checkpoints: tokens to logits, text to text.
//!
//! One decoder serves Llama, Mistral, Qwen2 and Qwen3, by what their configs say. It runs
//! plans that were never built, and writes no checkpoints. In reading order:
//!
//! - `family`: what differs between the families, in a table
//! - [`error`], [`progress`]: what can go wrong, and how a long call is watched
//! - `keys`, [`rope`], [`config`]: from `config.json` to the sizes and switches of a decoder
//! - [`anatomy`]: which tensors such a decoder has
//! - [`placement`], [`device`]: which of them go to a GPU, and what there is
//! - `dot`, [`weight`], `numbers`, `stored`, [`source`], [`unbuilt`]: matrices, and where they come from
//! - [`cache`]: the keys and values of a sequence
//! - `attention`, `feed_forward`, `layer`, [`model`]: the decoder
//! - [`tokenizer`], [`text_stream`], [`stop_strings`]: text to tokens, and back as they come
//! - `random`, [`sampling`], [`generation_config`], [`generate`](mod@generate): new tokens
//! - [`windows`], [`score`](mod@score): how well a text is predicted
//! - [`open`]: a model by its name

pub mod anatomy;
mod attention;
pub mod cache;
pub mod config;
pub mod device;
mod dot;
pub mod error;
mod family;
mod feed_forward;
pub mod generate;
pub mod generation_config;
mod keys;
mod layer;
pub mod model;
mod numbers;
pub mod open;
pub mod placement;
pub mod progress;
mod random;
pub mod rope;
pub mod sampling;
pub mod score;
pub mod source;
pub mod stop_strings;
mod stored;
pub mod text_stream;
pub mod tokenizer;
pub mod unbuilt;
pub mod weight;
pub mod windows;

pub use cache::KvCache;
pub use config::DecoderConfig;
pub use error::{Error, Result};
pub use model::{Model, Sequence};
