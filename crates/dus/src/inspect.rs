//! What a checkpoint is made of: parameters, types, bytes per layer, and which layers are equal.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use checkpoint::Checkpoint;
use rayon::prelude::*;
use serde::Serialize;

use crate::anatomy::{Anatomy, LayerTensor};
use crate::conversion::BLOCK_BYTES;
use crate::error::{Result, one_line};
use crate::open_file::open_files;
use crate::progress::{Progress, Watch};

/// A description of a checkpoint, from its config and headers.
#[derive(Debug, Serialize)]
pub struct Description {
    /// `model_type`.
    pub model_type: Option<String>,
    /// `architectures`.
    pub architectures: Vec<String>,
    /// The number of elements of all tensors.
    pub num_parameters: u64,
    /// The number of tensors.
    pub num_tensors: usize,
    /// The length of all tensors in bytes.
    pub bytes: u64,
    /// The bytes of tensors by type.
    pub bytes_by_dtype: BTreeMap<String, u64>,
    /// The layers, or nothing where they cannot be told.
    pub layers: Option<Layers>,
    /// Why they cannot.
    pub problem: Option<String>,
    /// The lengths of the weight files.
    pub files: BTreeMap<String, u64>,
    /// Keys of the config that tell what the model is, with their values.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// The layers of a checkpoint.
#[derive(Debug, Serialize)]
pub struct Layers {
    /// What stands before a layer number in tensor names.
    pub prefix: String,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The bytes of each layer.
    pub bytes_by_layer: Vec<u64>,
    /// The bytes outside the layers.
    pub other_bytes: u64,
}

/// The config's keys that a description repeats.
const KEYS: &[&str] = &[
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rms_norm_eps",
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "quantization_config",
];

/// Describes `checkpoint`, whatever is wrong with it beyond its headers.
#[must_use]
pub fn describe(checkpoint: &Checkpoint) -> Description {
    let config = checkpoint.config();
    let tensors = checkpoint.tensors();
    let bytes: u64 = tensors.iter().map(checkpoint::Tensor::bytes).sum();
    let mut bytes_by_dtype = BTreeMap::new();
    for tensor in tensors {
        *bytes_by_dtype.entry(tensor.encoding.to_string()).or_default() += tensor.bytes();
    }
    let (layers, problem) = match Anatomy::of(checkpoint) {
        Ok(anatomy) => {
            let layer_bytes =
                |layer: &Vec<LayerTensor>| layer.iter().map(|t| tensors[t.tensor].bytes()).sum();
            let bytes_by_layer: Vec<u64> = anatomy.layers.iter().map(layer_bytes).collect();
            let layers = Layers {
                num_hidden_layers: anatomy.num_layers(),
                prefix: anatomy.prefix,
                other_bytes: bytes - bytes_by_layer.iter().sum::<u64>(),
                bytes_by_layer,
            };
            (Some(layers), None)
        }
        Err(error) => (None, Some(one_line(&error))),
    };
    let value = |key: &str| config.get(key);
    Description {
        model_type: value("model_type").and_then(|v| v.as_str().map(str::to_owned)),
        architectures: config.read("architectures").and_then(Result::ok).unwrap_or_default(),
        num_parameters: tensors.iter().map(checkpoint::Tensor::num_elements).sum(),
        num_tensors: tensors.len(),
        bytes,
        bytes_by_dtype,
        layers,
        problem,
        files: checkpoint.files().iter().map(|file| (file.name.clone(), file.bytes)).collect(),
        config: KEYS.iter().filter_map(|&key| Some((key.to_owned(), value(key)?))).collect(),
    }
}

/// Groups of layers whose tensors have equal content, told by a 64-bit hash of every byte; layers
/// like no other are left out.
pub fn duplicate_layers(checkpoint: &Checkpoint, watch: &Watch) -> Result<Vec<Vec<usize>>> {
    let anatomy = Anatomy::of(checkpoint)?;
    let tensors = checkpoint.tensors();
    let files = open_files(checkpoint)?;
    let bytes = anatomy.layers.iter().flatten().map(|t| tensors[t.tensor].bytes()).sum();
    (watch.progress)(Progress::Begin { doing: "reading", bytes });
    let hash = |layer: &Vec<LayerTensor>| -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        let mut block = Vec::new();
        for LayerTensor { name, tensor } in layer {
            hasher.write(name.as_bytes());
            let tensor = &tensors[*tensor];
            // Equal bytes of another type are other numbers.
            hasher.write(format!("{} {:?}", tensor.encoding, tensor.shape).as_bytes());
            let mut begin = tensor.range.start;
            while begin < tensor.range.end {
                watch.check()?;
                let length = (tensor.range.end - begin).min(BLOCK_BYTES);
                block.resize(length as usize, 0);
                files[tensor.file].read_exact_at(&mut block, begin)?;
                hasher.write(&block);
                watch.moved(length);
                begin += length;
            }
        }
        Ok(hasher.finish())
    };
    let hashes: Vec<u64> = anatomy.layers.par_iter().map(hash).collect::<Result<_>>()?;
    let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (layer, &hash) in hashes.iter().enumerate() {
        groups.entry(hash).or_default().push(layer);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|g| g.len() > 1).collect();
    groups.sort();
    Ok(groups)
}
