//! Opens a model, whatever form its files have.

use std::path::Path;

use crate::error::Result;
use crate::model::Checkpoint;
use crate::{folder, gguf};

impl Checkpoint {
    /// Reads the config and all headers of the model at `path`: a folder, or a GGUF file.
    ///
    /// No tensor is read, and what is returned has been checked: each tensor lies whole in a regular
    /// file and has one place.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() { folder::open(path) } else { gguf::open(path) }
    }
}
