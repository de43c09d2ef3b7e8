//! A Hugging Face model of a few kilobytes.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::family::Family;
use crate::raw;
use crate::side_files;
use crate::tensor::{Tensor, Tensors};
use crate::weights;

/// A small model whose tensors all differ, so that a copy from the wrong place shows.
///
/// The fields are the keys of `config.json` where they have one; a test names those that it is about:
///
/// ```
/// use testkit::{Family, TinyModel};
///
/// let dir = tempfile::tempdir().unwrap();
/// TinyModel { num_hidden_layers: 6, num_shards: Some(3), ..TinyModel::of(Family::Qwen2) }
///     .write(dir.path());
/// assert!(dir.path().join("model-00002-of-00003.safetensors").exists());
/// ```
#[derive(Debug, Clone)]
pub struct TinyModel {
    /// Whose names and config keys it has.
    pub family: Family,
    /// The number of layers, n.
    pub num_hidden_layers: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width inside the feed-forward block.
    pub intermediate_size: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads.
    pub num_key_value_heads: usize,
    /// The width of a head, which need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// The number of tokens.
    pub vocab_size: usize,
    /// BF16, F16 or F32.
    pub dtype: Dtype,
    /// `None`: a single `model.safetensors`. Else so many shards and an index, even for one.
    pub num_shards: Option<usize>,
    /// Whether there is no `lm_head`.
    pub tie_word_embeddings: bool,
    /// How `config.json` spells the dtype and the rotary embedding.
    pub config_form: ConfigForm,
    /// Keys that `config.json` has besides, or instead of those that it would have.
    pub extra_config: Vec<(&'static str, Value)>,
    /// Whether tokenizer, licence, card and custom code stand beside the weights.
    pub side_files: bool,
    /// Goes into every number: models of different seeds differ in every tensor.
    pub seed: u64,
}

/// How `config.json` spells the dtype and the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigForm {
    /// `torch_dtype` and `rope_theta`, as transformers 4 wrote.
    Old,
    /// `dtype` and `rope_parameters`, as transformers 5 writes.
    New,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            family: Family::Mistral,
            num_hidden_layers: 4,
            hidden_size: 16,
            intermediate_size: 24,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            vocab_size: 40,
            dtype: Dtype::BF16,
            num_shards: None,
            tie_word_embeddings: false,
            config_form: ConfigForm::New,
            extra_config: Vec::new(),
            side_files: true,
            seed: 0,
        }
    }
}

impl TinyModel {
    /// The default model of a family: 4 layers, BF16, one file.
    #[must_use]
    pub fn of(family: Family) -> Self {
        Self { family, tie_word_embeddings: family == Family::Gpt2, ..Self::default() }
    }

    /// Writes the model into the folder `dir`, which is made if it is not there.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("the folder can be made");
        raw::write_json(&dir.join("config.json"), &Value::Object(self.config()));
        weights::write(dir, &self.tensors(), self.num_shards);
        if self.side_files {
            side_files::write(dir);
        }
    }

    /// Its `config.json`.
    #[must_use]
    pub fn config(&self) -> Map<String, Value> {
        let mut config = self.family.config(self);
        config.extend(
            self.extra_config.iter().map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        config
    }

    /// Its tensors in state-dict order.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let tensor = |(name, shape, mean): (String, Vec<usize>, f32)| {
            let seed = format!("{} {name}", self.seed);
            let tensor = Tensor::random(&seed, self.dtype, &shape, mean);
            (name, tensor)
        };
        self.family.tensors(self).into_iter().map(tensor).collect()
    }

    /// Its tensors by name.
    #[must_use]
    pub fn tensors_by_name(&self) -> Tensors {
        self.tensors().into_iter().collect()
    }

    /// The name of its dtype in `config.json`.
    #[must_use]
    pub fn dtype_name(&self) -> &'static str {
        match self.dtype {
            Dtype::BF16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
            other => panic!("no tiny model is made of {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn all_tensors_differ() {
        for family in [Family::Mistral, Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gpt2] {
            for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
                let mut names = HashMap::new();
                for seed in [0, 1] {
                    let model =
                        TinyModel { num_hidden_layers: 32, dtype, seed, ..TinyModel::of(family) };
                    for (name, tensor) in model.tensors() {
                        let other = names.insert(tensor.bytes, name.clone());
                        assert_eq!(other, None, "{name} of {family:?} in {dtype}");
                    }
                }
            }
        }
    }

    #[test]
    fn extra_keys_replace_others() {
        let extra_config = vec![("model_type", "unheard-of".into()), ("mascot", "yak".into())];
        let config = TinyModel { extra_config, ..TinyModel::default() }.config();
        assert_eq!(
            (&config["model_type"], &config["mascot"]),
            (&"unheard-of".into(), &"yak".into())
        );
    }
}
