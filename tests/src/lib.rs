//! Fixtures made by independent code: models that the code under test has never touched.
//!
//! Everything here stands on crates that others wrote (`safetensors`, `serde_json`, hashes), so that a mistake in
//! `checkpoint` or `dus` cannot be made twice and so cancel out. Whatever fails here is a test's own
//! mistake, and panics. In reading order:
//!
//! - [`tensor`]: a tensor's bytes, made up from its name
//! - [`family`]: tensor names, shapes and config keys of model families
//! - [`published`]: configs as they were published
//! - [`model`]: [`TinyModel`], a Hugging Face folder of a few kilobytes
//! - [`side_files`]: what stands beside the weights
//! - [`weights`]: tensors written to a folder's files, and read back
//! - [`raw`]: safetensors and JSON files edited below the level that libraries allow
//! - [`hub`]: a model laid out as the hub's cache does
//! - [`http`]: requests and answers on a socket
//! - [`hub_server`]: a hub on this machine, with faults on command
//! - [`mod@skipped`]: a test whose data are not there
//! - [`disk`]: a small disk, to be filled up
//! - [`splice`]: what a plan's new tensors should be, layer by layer
//! - [`gguf`]: GGUF files, and [`TinyGguf`](gguf::TinyGguf), a model in one
//! - [`survey`]: everything in a folder, to show that nothing has changed

pub mod disk;
pub mod family;
pub mod gguf;
pub mod http;
pub mod hub;
pub mod hub_server;
pub mod model;
pub mod published;
pub mod raw;
pub mod side_files;
pub mod skipped;
pub mod splice;
pub mod survey;
pub mod tensor;
pub mod weights;

pub use disk::Disk;
pub use family::Family;
pub use hub_server::{Fault, HubServer};
pub use model::{ConfigForm, TinyModel};
pub use safetensors::Dtype;
pub use skipped::skipped;
pub use survey::Survey;
pub use tensor::{Tensor, Tensors};
