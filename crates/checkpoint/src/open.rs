//! Opens a model, whatever form its files have.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::model::{Checkpoint, Elsewhere};
use crate::{folder, gguf};

impl Checkpoint {
    /// Reads the config and all headers of the model at `path`: a folder, or a GGUF file.
    ///
    /// No tensor is read, and what is returned has been checked: each tensor lies whole in a regular
    /// file and has one place.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() { folder::open(path, None) } else { gguf::open(path) }
    }

    /// The same for the folder `dir`, whose weight files are not in it but `elsewhere`.
    pub fn open_with(dir: &Path, elsewhere: &Arc<dyn Elsewhere>) -> Result<Self> {
        folder::open(dir, Some(elsewhere))
    }
}
