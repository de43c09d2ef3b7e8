//! Runs decoder checkpoints: tokens to logits, text to text.
//!
//! One decoder serves Llama, Mistral, Qwen2 and Qwen3, by what their configs say. It runs
//! plans that were never built, and writes no checkpoints. In reading order:
//!
//! - `family`: what differs between the families, in a table
//! - [`error`], [`progress`]: what can go wrong, and how a long call is watched
//! - `keys`, [`rope`], [`config`]: from `config.json` to the sizes and switches of a decoder
//! - [`anatomy`], [`footprint`]: which tensors such a decoder has, and what it takes in memory
//! - [`placement`], [`memory`], [`device`]: which of them go to a GPU, and what there is
//! - `random`: numbers that follow from a place
//! - `mapped`: bytes of files
//! - `instructions`, `numbers`, `dot_x86`, `dot_neon`, `dot`, `many_rows`, [`quantised`], [`weight`]: matrices,
//!   plain and quantised, and products by them
//! - `stored`, [`source`], [`unbuilt`], [`random_weights`]: where they come from
//! - `card`: the part of a model that lies on a GPU with kernels of our own
//! - [`cache`]: the keys and values of a sequence
//! - `exponential`, `attention`, `feed_forward`, `layer`, `parts`, [`model`]: the decoder
//! - [`tokenizer`], [`text_stream`], [`stop_strings`]: text to tokens, and back as they come
//! - [`jinja`], [`chat_template`]: a chat as one text
//! - [`sampling`], [`generation_config`], [`generate`](mod@generate), [`session`]: new tokens
//! - [`windows`], [`score`](mod@score): how well a text is predicted
//! - [`compare`](mod@compare), [`reference_logits`]: how far a model is from another
//! - [`limits`], [`bench`](mod@bench): how fast it could run, and how fast it does
//! - `stand_in`, [`open`], `side_files`, [`load`]: a model by its name; what stands beside its weights; what these
//!   take, where they go, and loading them

pub mod anatomy;
mod attention;
pub mod bench;
pub mod cache;
mod card;
pub mod chat_template;
pub mod compare;
pub mod config;
pub mod device;
mod dot;
#[cfg(target_arch = "aarch64")]
mod dot_neon;
#[cfg(target_arch = "x86_64")]
mod dot_x86;
pub mod error;
mod exponential;
mod family;
mod feed_forward;
pub mod footprint;
pub mod generate;
pub mod generation_config;
mod instructions;
pub mod jinja;
mod keys;
mod layer;
pub mod limits;
pub mod load;
mod many_rows;
mod mapped;
pub mod memory;
pub mod model;
mod numbers;
pub mod open;
mod parts;
pub mod placement;
pub mod progress;
pub mod quantised;
mod random;
pub mod random_weights;
pub mod reference_logits;
pub mod rope;
pub mod sampling;
pub mod score;
pub mod session;
mod side_files;
pub mod source;
mod stand_in;
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
