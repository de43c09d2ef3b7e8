//! Builds depth up-scaled checkpoints: copies a trained model's layers by a plan, byte for byte.
//!
//! A checkpoint is names, shapes and byte ranges, and a plan decides which old byte range each new
//! name gets (Kim et al., "SOLAR 10.7B", arXiv 2312.15166). So nearly all of this crate decides, and
//! little of it moves bytes. It knows no tensor library and no tokenizer. In reading order:
//!
//! - [`size`], [`plan`]: sizes, and the language of layer plans
//! - [`arithmetic`]: casts and operations on blocks of elements
//! - [`settings`]: the config of the deeper model
//! - [`error`], [`progress`]: what can go wrong, and how a long call is watched
//! - [`recipe`]: what is asked for
//! - [`sources`], [`open_file`], [`open_source`]: where models come from, and their weight files
//! - [`anatomy`], `quantised`, [`translation`], [`splice`], [`shards`], [`gguf_head`], [`blueprint`]:
//!   from headers to every byte of the new files
//! - [`drawing`], [`manifest`], [`card`]: the plan as text, `dus.json` and the model card
//! - `disk`, [`new_file`]: files that are written
//! - [`journal_head`], [`journal`], [`finished`]: what an interrupted build can be gone on with by
//! - `conversion`, `tasks`, `batches`, [`movement`], `hidden`, [`output`]: where bytes are read and written
//! - `folder_files`, [`mod@build`], [`clean`], [`verify`], [`inspect`], [`push`](mod@push),
//!   [`unbuilt`]: the calls that users make

pub mod anatomy;
pub mod arithmetic;
mod batches;
pub mod blueprint;
pub mod build;
pub mod card;
pub mod clean;
mod conversion;
mod disk;
pub mod drawing;
pub mod error;
pub mod finished;
mod folder_files;
pub mod gguf_head;
mod hidden;
pub mod inspect;
pub mod journal;
pub mod journal_head;
pub mod manifest;
pub mod movement;
pub mod new_file;
pub mod open_file;
pub mod open_source;
pub mod output;
pub mod plan;
pub mod progress;
pub mod push;
mod quantised;
pub mod recipe;
pub mod settings;
pub mod shards;
pub mod size;
pub mod sources;
pub mod splice;
mod tasks;
pub mod translation;
pub mod unbuilt;
pub mod verify;

pub use error::{Error, Result};
