//! INTERIM: replaced by the table of architectures.

use super::error::GgufError;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::json::Object;

/// Names.
#[derive(Debug)]
pub struct Architecture {
    /// Its name.
    pub name: &'static str,
    layer: &'static [(&'static str, &'static str)],
    globals: &'static [(&'static str, &'static str)],
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    layer: &[
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
    ],
    globals: &[
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
};

impl Architecture {
    /// By `general.architecture`.
    pub fn of_metadata(metadata: &Metadata) -> Result<&'static Self> {
        match metadata.str("general.architecture")? {
            Some("llama") => Ok(&LLAMA),
            other => Err(Error::Gguf {
                path: metadata.path().to_owned(),
                source: GgufError::Architecture {
                    found: other.unwrap_or("nothing").to_owned(),
                    known: "llama".to_owned(),
                },
            }),
        }
    }

    /// Hugging Face's name.
    #[must_use]
    pub fn hf_name(&self, name: &str) -> Option<String> {
        if let Some(rest) = name.strip_prefix("blk.") {
            let (layer, rest) = rest.split_once('.')?;
            let (stem, end) = rest.rsplit_once('.')?;
            let hf = self.layer.iter().find(|names| names.0 == stem)?.1;
            return Some(format!("model.layers.{layer}.{hf}.{end}"));
        }
        Some(self.globals.iter().find(|names| names.0 == name)?.1.to_owned())
    }

    /// INTERIM
    #[must_use]
    pub fn of_config(config: &Object) -> Option<&'static Self> {
        let model_type = config.get("model_type")?;
        ["llama", "mistral"].contains(&model_type.as_str()?).then_some(&LLAMA)
    }

    /// INTERIM
    #[must_use]
    pub fn known_model_types() -> String {
        "llama, mistral".to_owned()
    }

    /// INTERIM
    #[must_use]
    pub fn is_only_in_gguf(&self, name: &str) -> bool {
        name == "rope_freqs.weight"
    }

    /// INTERIM
    #[must_use]
    pub fn gguf_tensor(&self, name: &str) -> Option<GgufTensor> {
        let heads = if name.contains(".q_proj.") {
            Some("num_attention_heads")
        } else if name.contains(".k_proj.") {
            Some("num_key_value_heads")
        } else {
            None
        };
        Some(GgufTensor { name: self.gguf_name(name)?, heads, added: 0.0 })
    }

    /// GGUF's name.
    #[must_use]
    pub fn gguf_name(&self, name: &str) -> Option<String> {
        if let Some(rest) = name.strip_prefix("model.layers.") {
            let (layer, rest) = rest.split_once('.')?;
            let (stem, end) = rest.rsplit_once('.')?;
            let gguf = self.layer.iter().find(|names| names.1 == stem)?.0;
            return Some(format!("blk.{layer}.{gguf}.{end}"));
        }
        Some(self.globals.iter().find(|names| names.1 == name)?.0.to_owned())
    }
}

/// INTERIM.
pub fn config(metadata: &Metadata) -> Result<Object> {
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

/// INTERIM
#[derive(Debug)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// The key of the number of heads.
    pub heads: Option<&'static str>,
    /// What is added.
    pub added: f32,
}

/// INTERIM: a setting that GGUF stores as a tensor.
#[derive(Debug, Clone)]
pub struct SettingTensor {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Vec<f32>,
}
