//! Opens a GGUF file as a model: Hugging Face's names, and a config, from names and metadata.

use std::collections::HashMap;
use std::path::Path;

use super::architecture::Architecture;
use super::error::GgufError;
use super::metadata::Metadata;
use super::{header, names, split};
use crate::error::{Error, Result};
use crate::json::Object;
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
            let Some(name) = names::in_checkpoint(architecture, &name) else {
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
    let config = config(&metadata)?;
    let gguf = Gguf { metadata, alignment, architecture, untranslated: Vec::new() };
    Ok(Checkpoint::new(path, config, Some(gguf), files, tensors))
}

/// INTERIM.
fn config(metadata: &Metadata) -> Result<Object> {
    let n = metadata.u64("llama.block_count")?.unwrap_or(0);
    let heads = metadata.u64("llama.attention.head_count")?.unwrap_or(1);
    let kv = metadata.u64("llama.attention.head_count_kv")?.unwrap_or(heads);
    let hidden = metadata.u64("llama.embedding_length")?.unwrap_or(1);
    let inter = metadata.u64("llama.feed_forward_length")?.unwrap_or(1);
    let theta = metadata.f64("llama.rope.freq_base")?.unwrap_or(10000.0);
    let vocab = metadata.u64("llama.vocab_size")?.unwrap_or(32000);
    Ok(Object::parse(&format!(
        r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","num_hidden_layers":{n},"num_attention_heads":{heads},"num_key_value_heads":{kv},"hidden_size":{hidden},"intermediate_size":{inter},"rope_theta":{theta},"vocab_size":{vocab},"rms_norm_eps":1e-5,"tie_word_embeddings":true,"max_position_embeddings":8192}}"#
    ))
    .expect("interim"))
}

/// INTERIM: a setting that GGUF stores as a tensor.
#[derive(Debug, Clone)]
pub struct SettingTensor {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Vec<f32>,
}
