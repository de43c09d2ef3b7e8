//! Opens a GGUF file as a model: Hugging Face's names, and a config, from names and metadata.

use std::collections::HashMap;
use std::path::Path;

use super::architecture::{self, Architecture};
use super::error::GgufError;
use super::{header, split};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Gguf, Tensor, WeightFile};

/// Reads the headers of the model in the GGUF file at `path`, and of its other parts if it is split.
pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    let parts = split::read(path)?;
    let header::Header { metadata, alignment, .. } = &parts[0].1;
    let failed = |source| Error::Gguf { path: path.to_owned(), source };
    let architecture = Architecture::of_metadata(metadata)?;
    let (metadata, alignment) = (metadata.clone(), *alignment);

    let name_of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let part_names: Vec<String> = parts.iter().map(|(path, _)| name_of(path)).collect();
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    let mut file_of: HashMap<String, usize> = HashMap::new();
    for (file, (path, header)) in parts.into_iter().enumerate() {
        let bytes = path.metadata().map_err(|e| Error::io(&path, "read", e))?.len();
        for tensor in header.tensors {
            let header::HeaderTensor { name, ggml_type, shape, range } = tensor;
            let Some(name) = architecture.hf_name(&name) else {
                let architecture = architecture.name.to_owned();
                return Err(failed(GgufError::UnknownTensor { tensor: name, architecture }));
            };
            if let Some(first) = file_of.insert(name.clone(), file) {
                let first = part_names[first].clone();
                let second = part_names[file].clone();
                return Err(Error::TensorTwice { tensor: name, first, second });
            }
            tensors.push(Tensor { name, encoding: ggml_type.into(), shape, file, range });
        }
        files.push(WeightFile { name: part_names[file].clone(), path, bytes, elsewhere: None });
    }
    let config = architecture::config(&metadata)?;
    let gguf = Gguf { metadata, alignment, architecture, untranslated: Vec::new() };
    Ok(Checkpoint::new(path, config, Some(gguf), files, tensors))
}
