//! A model whose files were read and checked: its config, and where each of its tensors lies.
//!
//! It is the same whatever form the files have: names, shapes and the config are Hugging Face's for
//! a GGUF file as well, so that nothing above this crate asks for the form but who writes files.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::encoding::Encoding;
use crate::error::Result;
use crate::gguf::{Architecture, Metadata};
use crate::json::Object;
use crate::side_files::{self, SideFiles};

/// The name of the config in a model's folder.
pub(crate) const CONFIG: &str = "config.json";

/// A model's config and where each of its tensors lies.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Object,
    gguf: Option<Gguf>,
    files: Vec<WeightFile>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

/// What a GGUF file says of a model beyond its tensors.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The metadata; of a split model, that of the first file.
    pub metadata: Metadata,
    /// What tensors' beginnings are multiples of.
    pub alignment: u64,
    /// The names of its tensors and keys.
    pub architecture: &'static Architecture,
    /// What of the metadata `config.json` cannot say, a sentence each.
    pub untranslated: Vec<String>,
}

/// A weight file of a checkpoint.
#[derive(Debug, Clone)]
pub struct WeightFile {
    /// Its name in its folder.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name in Hugging Face's form; GGUF's own for those that only GGUF has.
    pub name: String,
    /// How its elements are stored.
    pub encoding: Encoding,
    /// Its shape, the length of a row last; empty for a scalar.
    pub shape: Vec<usize>,
    /// The index of its file in [`Checkpoint::files`].
    pub file: usize,
    /// Its bytes in that file.
    pub range: Range<u64>,
}

impl Tensor {
    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The number of its elements.
    #[must_use]
    pub fn num_elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

impl Checkpoint {
    /// A model of checked parts; names are distinct, and ranges lie in the files.
    pub(crate) fn new(
        path: &Path,
        config: Object,
        gguf: Option<Gguf>,
        files: Vec<WeightFile>,
        tensors: Vec<Tensor>,
    ) -> Self {
        let names = tensors.iter().enumerate();
        let by_name = names.map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Self { path: path.to_owned(), config, gguf, files, tensors, by_name }
    }

    /// The folder, or the GGUF file that was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that it lies in: its own, or the one around a GGUF file.
    #[must_use]
    pub fn folder(&self) -> &Path {
        match self.gguf {
            None => &self.path,
            Some(_) => self.path.parent().unwrap_or(Path::new("")),
        }
    }

    /// Its `config.json`; of a GGUF file, what its metadata says.
    #[must_use]
    pub fn config(&self) -> &Object {
        &self.config
    }

    /// The path of what the config was read from.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        match self.gguf {
            None => self.path.join(CONFIG),
            Some(_) => self.path.clone(),
        }
    }

    /// What only a GGUF file says; `None` for a folder.
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Its weight files, sorted by name.
    #[must_use]
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// Its tensors, file by file in the order of their bytes.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The rows of the embedding: how many tokens there are; 0 where it is called something else.
    #[must_use]
    pub fn num_embedding_rows(&self) -> usize {
        let embedding = self.tensor("model.embed_tokens.weight");
        embedding.and_then(|tensor| tensor.shape.first().copied()).unwrap_or(0)
    }

    /// Lists the files beside the weights; a GGUF file needs none.
    pub fn side_files(&self) -> Result<SideFiles> {
        match self.gguf {
            None => side_files::list(&self.path),
            Some(_) => Ok(SideFiles::default()),
        }
    }
}
