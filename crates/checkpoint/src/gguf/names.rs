//! What a tensor of a GGUF file is called in a [`Checkpoint`](crate::Checkpoint), and back.
//!
//! That is Hugging Face's name where there is one. Settings that GGUF stores as tensors keep their
//! names, but for the prefix of a layer, so that they go where their layer goes.

use super::architecture::{Architecture, Change, Translated};

/// What layers' tensors begin with, in GGUF and in a checkpoint.
const LAYERS: (&str, &str) = ("blk.", "model.layers.");

/// A tensor as a GGUF file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its name there.
    pub name: String,
    /// What happens to its numbers on the way from Hugging Face's form to there.
    pub change: Change,
    /// Whether Hugging Face's form has no such tensor.
    pub only_here: bool,
}

/// The name in a checkpoint of the tensor that a file calls `name`; `None` if it is not known.
pub(super) fn in_checkpoint(architecture: &Architecture, name: &str) -> Option<String> {
    match architecture.hf_name(name)? {
        Translated::Tensor { name, .. } => Some(name),
        Translated::Setting(_) | Translated::Dropped => Some(match name.strip_prefix(LAYERS.0) {
            Some(own) => format!("{}{own}", LAYERS.1),
            None => name.to_owned(),
        }),
    }
}

/// How a GGUF file stores the tensor that is called `name` in a checkpoint; `None` if it cannot.
#[must_use]
pub fn in_gguf(architecture: &Architecture, name: &str) -> Option<Stored> {
    if let Some(Translated::Tensor { name, change, .. }) = architecture.gguf_name(name) {
        return Some(Stored { name, change, only_here: false });
    }
    let stored = match name.strip_prefix(LAYERS.1) {
        Some(own) => format!("{}{own}", LAYERS.0),
        None => name.to_owned(),
    };
    let only_here =
        matches!(architecture.hf_name(&stored)?, Translated::Setting(_) | Translated::Dropped);
    only_here.then_some(Stored { name: stored, change: Change::None, only_here })
}
