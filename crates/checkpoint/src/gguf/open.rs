//! Opens a GGUF file as a model: Hugging Face's names, and a config, from names and metadata.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::architecture::{Architecture, RopeTensor, Translated};
use super::config::{Facts, config_from_metadata};
use super::error::GgufError;
use super::ggml_type::GgmlType;
use super::header::{Header, HeaderTensor};
use super::metadata::Metadata;
use super::rope::RopeFactors;
use super::{names, split};
use crate::error::{Error, Result};
use crate::json::Object;
use crate::model::{Checkpoint, Gguf, Tensor, WeightFile};

/// Reads the headers of the model in the GGUF file at `path`, and of its other parts if it is split.
pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    let parts = split::read(path)?;
    let Header { metadata, alignment, .. } = &parts[0].1;
    let (metadata, alignment) = (metadata.clone(), *alignment);
    let architecture = Architecture::of_metadata(&metadata)?;
    let files = parts.iter().map(|(path, _)| weight_file(path)).collect::<Result<Vec<_>>>()?;
    let tensors = tensors(path, architecture, &parts, &files)?;

    let all: Vec<HeaderTensor> = parts.iter().flat_map(|(_, it)| it.tensors.clone()).collect();
    let facts = Facts { tensors: &all, rope: rope_factors(architecture, &parts)? };
    let mut untranslated = Vec::new();
    let config = match config_from_metadata(&metadata, architecture, &facts) {
        Ok(described) => described.config,
        // A file that stays a GGUF file needs no config that says everything.
        Err(Error::Gguf { source: GgufError::NotTranslated { what }, .. }) => {
            untranslated.push(what);
            outline(&metadata, architecture)
        }
        Err(error) => return Err(error),
    };
    let gguf = Gguf { metadata, alignment, architecture, untranslated };
    Ok(Checkpoint::new(path, config, Some(gguf), files, tensors))
}

fn weight_file(path: &Path) -> Result<WeightFile> {
    let bytes = path.metadata().map_err(|e| Error::io(path, "read", e))?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(WeightFile { name, path: path.to_owned(), bytes })
}

/// The tensors of all parts, by the names that they have in a checkpoint.
fn tensors(
    path: &Path,
    architecture: &Architecture,
    parts: &[(PathBuf, Header)],
    files: &[WeightFile],
) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    let mut file_of: HashMap<String, usize> = HashMap::new();
    for (file, (_, header)) in parts.iter().enumerate() {
        for HeaderTensor { name, ggml_type, shape, range } in header.tensors.clone() {
            let Some(name) = names::in_checkpoint(architecture, &name) else {
                let architecture = architecture.name.to_owned();
                let source = GgufError::UnknownTensor { tensor: name, architecture };
                return Err(Error::Gguf { path: path.to_owned(), source });
            };
            if let Some(first) = file_of.insert(name.clone(), file) {
                let (first, second) = (files[first].name.clone(), files[file].name.clone());
                return Err(Error::TensorTwice { tensor: name, first, second });
            }
            tensors.push(Tensor { name, encoding: ggml_type.into(), shape, file, range });
        }
    }
    Ok(tensors)
}

/// The numbers of the tensors that are settings; of those that stand once a layer, the first's.
fn rope_factors(architecture: &Architecture, parts: &[(PathBuf, Header)]) -> Result<RopeFactors> {
    let mut factors = RopeFactors::default();
    for (path, header) in parts {
        for tensor in &header.tensors {
            let Some(Translated::Setting(setting)) = architecture.hf_name(&tensor.name) else {
                continue;
            };
            let found = match setting {
                RopeTensor::Frequencies => &mut factors.frequencies,
                RopeTensor::LongFactors => &mut factors.long,
                RopeTensor::ShortFactors => &mut factors.short,
            };
            if found.is_none() {
                *found = Some(read_f32(path, tensor)?);
            }
        }
    }
    Ok(factors)
}

/// The numbers of a tensor that is small: half a head's at most.
fn read_f32(path: &Path, tensor: &HeaderTensor) -> Result<Vec<f32>> {
    const MOST_BYTES: u64 = 1 << 16;
    let bytes = tensor.range.end - tensor.range.start;
    if tensor.ggml_type != GgmlType::F32 || bytes > MOST_BYTES {
        let (tensor_name, found) = (&tensor.name, tensor.ggml_type);
        let what = format!("`{tensor_name}` is {found} of {:?}, no few F32", tensor.shape);
        let source = GgufError::Contradiction { what };
        return Err(Error::Gguf { path: path.to_owned(), source });
    }
    let mut buffer = vec![0; bytes as usize];
    let file = File::open(path).map_err(|e| Error::io(path, "opened", e))?;
    file.read_exact_at(&mut buffer, tensor.range.start).map_err(|e| Error::io(path, "read", e))?;
    Ok(buffer.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// A config that says no more than what a plan needs.
fn outline(metadata: &Metadata, architecture: &Architecture) -> Object {
    let mut config = Object::default();
    config.insert("model_type", &json!(architecture.models[0].model_type));
    let keys = [
        ("num_hidden_layers", "block_count"),
        ("num_attention_heads", "attention.head_count"),
        ("num_key_value_heads", "attention.head_count_kv"),
    ];
    for (name, suffix) in keys {
        // Where it is an array, layers differ, and nothing asks for one number.
        let value = metadata.get(&architecture.key(suffix)).and_then(|value| value.as_u64());
        if let Some(value) = value {
            config.insert(name, &json!(value));
        }
    }
    config
}
