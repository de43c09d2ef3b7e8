//! Published models, of which only the weights are missing: configs, names, shapes and files.
//!
//! Mistral-7B-v0.1 is exact to its config's length of 571 bytes and to its two shards. Of the others
//! the numbers that decide shapes are those published; keys that decide nothing may be left out.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};
use testkit::{raw, weights};

/// transformers 4 split models so when these were published, in bytes of tensors.
const SHARD_BYTES: u64 = 10_000_000_000;

/// A tensor's name and shape.
type Shape = (String, Vec<u64>);

/// A model's config and tensors, in state-dict order.
pub(crate) struct RealModel {
    config: String,
    tensors: Vec<Shape>,
}

/// The sizes of a model with Llama's names.
struct Llama {
    hidden: u64,
    intermediate: u64,
    layers: usize,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    /// Whether the buffers of the rotary embedding were saved as well.
    inv_freq: bool,
}

impl Llama {
    fn tensors(&self) -> Vec<Shape> {
        let &Self { hidden, intermediate, vocab, .. } = self;
        let head = hidden / self.heads;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: &[u64]| {
                tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            };
            push("self_attn.q_proj.weight", &[hidden, hidden]);
            push("self_attn.k_proj.weight", &[self.kv_heads * head, hidden]);
            push("self_attn.v_proj.weight", &[self.kv_heads * head, hidden]);
            push("self_attn.o_proj.weight", &[hidden, hidden]);
            if self.inv_freq {
                push("self_attn.rotary_emb.inv_freq", &[head / 2]);
            }
            push("mlp.gate_proj.weight", &[intermediate, hidden]);
            push("mlp.up_proj.weight", &[intermediate, hidden]);
            push("mlp.down_proj.weight", &[hidden, intermediate]);
            push("input_layernorm.weight", &[hidden]);
            push("post_attention_layernorm.weight", &[hidden]);
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        tensors
    }

    /// The config with `other` keys besides those of the sizes.
    fn model(&self, other: Value) -> RealModel {
        let mut config = json!({
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false,
            "use_cache": true,
            "vocab_size": self.vocab,
        });
        let Value::Object(other) = other else { panic!("{other} is no object") };
        config.as_object_mut().unwrap().extend(other);
        RealModel { config: format!("{config:#}"), tensors: self.tensors() }
    }
}

/// `mistralai/Mistral-7B-v0.1`: 7,241,732,096 parameters in 291 tensors.
pub(crate) fn mistral_7b() -> RealModel {
    let llama = Llama {
        hidden: 4096,
        intermediate: 14336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        vocab: 32000,
        inv_freq: false,
    };
    let config = include_str!("mistral-7b-v0.1.json").to_owned();
    assert_eq!(config.len(), 571, "the published file has 571 bytes");
    RealModel { config, tensors: llama.tensors() }
}

/// `01-ai/Yi-6B`: 6,061,035,520 parameters.
pub(crate) fn yi_6b() -> RealModel {
    let llama = Llama {
        hidden: 4096,
        intermediate: 11008,
        layers: 32,
        heads: 32,
        kv_heads: 4,
        vocab: 64000,
        inv_freq: false,
    };
    llama.model(json!({
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rope_scaling": null,
        "rope_theta": 5_000_000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0",
    }))
}

/// `meta-llama/Llama-2-7b-hf`: 6,738,415,616 parameters, and the 32 buffers that it was saved with.
pub(crate) fn llama_2_7b() -> RealModel {
    let llama = Llama {
        hidden: 4096,
        intermediate: 11008,
        layers: 32,
        heads: 32,
        kv_heads: 32,
        vocab: 32000,
        inv_freq: true,
    };
    llama.model(llama_2_keys())
}

/// A finetune of Llama-2-70B: 68,976,648,192 parameters.
pub(crate) fn llama_2_70b() -> RealModel {
    let llama = Llama {
        hidden: 8192,
        intermediate: 28672,
        layers: 80,
        heads: 64,
        kv_heads: 8,
        vocab: 32000,
        inv_freq: false,
    };
    llama.model(llama_2_keys())
}

fn llama_2_keys() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": null,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0.dev0",
    })
}

/// `mistralai/Mistral-Small-Instruct-2409`: 22,247,282,688 parameters.
pub(crate) fn mistral_small() -> RealModel {
    let llama = Llama {
        hidden: 6144,
        intermediate: 16384,
        layers: 56,
        heads: 48,
        kv_heads: 8,
        vocab: 32768,
        inv_freq: false,
    };
    llama.model(json!({
        "architectures": ["MistralForCausalLM"],
        "attention_dropout": 0.0,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "rope_theta": 1_000_000.0,
        "sliding_window": null,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
    }))
}

/// `microsoft/Phi-3-medium-128k-instruct`: 13,960,238,080 parameters; q, k, v are one matrix, and so
/// are gate and up. The 64 factors of its rotary embedding are as many as half a head is wide.
pub(crate) fn phi_3_medium() -> RealModel {
    let (hidden, intermediate, vocab) = (5120, 17920, 32064);
    let (heads, kv_heads, head) = (40, 10, 128);
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for layer in 0..40 {
        let mut push = |name: &str, shape: &[u64]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        push("self_attn.o_proj", &[hidden, heads * head]);
        push("self_attn.qkv_proj", &[(heads + 2 * kv_heads) * head, hidden]);
        push("mlp.gate_up_proj", &[2 * intermediate, hidden]);
        push("mlp.down_proj", &[hidden, intermediate]);
        push("input_layernorm", &[hidden]);
        push("post_attention_layernorm", &[hidden]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
    let factors: Vec<f64> = (0..64).map(|i| 1.0 + f64::from(i)).collect();
    let config = json!({
        "_name_or_path": "Phi-3-medium-128k-instruct",
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        },
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 131_072,
        "model_type": "phi3",
        "num_attention_heads": heads,
        "num_hidden_layers": 40,
        "num_key_value_heads": kv_heads,
        "original_max_position_embeddings": 4096,
        "pad_token_id": null,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": { "long_factor": factors, "short_factor": factors, "type": "longrope" },
        "rope_theta": 10000.0,
        "sliding_window": 131_072,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.39.3",
        "use_cache": true,
        "vocab_size": vocab,
    });
    RealModel { config: format!("{config:#}"), tensors }
}

/// `ibm-granite/granite-20b-code-base-8k`, a GPT-BigCode: 20,066,993,152 parameters; one key and value
/// head beside the 48 query heads, learned positions, and a tied head that is not stored.
pub(crate) fn granite_20b_code() -> RealModel {
    let (hidden, inner, vocab, positions) = (6144, 24576, 49152, 8192);
    let mut tensors = vec![
        ("transformer.wte.weight".to_owned(), vec![vocab, hidden]),
        ("transformer.wpe.weight".to_owned(), vec![positions, hidden]),
    ];
    for layer in 0..52 {
        let mut push = |name: &str, shape: &[u64]| {
            tensors.push((format!("transformer.h.{layer}.{name}.weight"), shape.to_vec()));
            tensors.push((format!("transformer.h.{layer}.{name}.bias"), shape[..1].to_vec()));
        };
        push("ln_1", &[hidden]);
        push("attn.c_attn", &[hidden + 2 * 128, hidden]);
        push("attn.c_proj", &[hidden, hidden]);
        push("ln_2", &[hidden]);
        push("mlp.c_fc", &[inner, hidden]);
        push("mlp.c_proj", &[hidden, inner]);
    }
    tensors.push(("transformer.ln_f.weight".to_owned(), vec![hidden]));
    tensors.push(("transformer.ln_f.bias".to_owned(), vec![hidden]));
    let config = json!({
        "activation_function": "gelu_pytorch_tanh",
        "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": true,
        "attn_pdrop": 0.1,
        "bos_token_id": 0,
        "embd_pdrop": 0.1,
        "eos_token_id": 0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt_bigcode",
        "multi_query": true,
        "n_embd": hidden,
        "n_head": 48,
        "n_inner": inner,
        "n_layer": 52,
        "n_positions": positions,
        "pad_token_id": 0,
        "resid_pdrop": 0.1,
        "scale_attention_softmax_in_fp32": true,
        "scale_attn_weights": true,
        "summary_activation": null,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true,
        "summary_type": "cls_index",
        "summary_use_proj": true,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.37.2",
        "use_cache": true,
        "vocab_size": vocab,
    });
    RealModel { config: format!("{config:#}"), tensors }
}

impl RealModel {
    /// The number of elements in all tensors.
    pub(crate) fn num_parameters(&self) -> u64 {
        self.tensors.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum()
    }

    /// Writes config, index and shards, whose tensors are holes: they take no room on the disk.
    pub(crate) fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), &self.config).unwrap();
        let config: Value = serde_json::from_str(&self.config).unwrap();
        let dtype = if config["torch_dtype"] == "bfloat16" { "BF16" } else { "F16" };

        let mut shards: Vec<(u64, Vec<&Shape>)> = vec![(0, Vec::new())];
        for tensor in &self.tensors {
            let bytes = 2 * tensor.1.iter().product::<u64>();
            if shards.last().unwrap().0 + bytes > SHARD_BYTES {
                shards.push((0, Vec::new()));
            }
            let (shard_bytes, tensors) = shards.last_mut().unwrap();
            *shard_bytes += bytes;
            tensors.push(tensor);
        }
        let num_shards = shards.len();
        let mut weight_map = Map::new();
        for (s, (_, mut tensors)) in shards.into_iter().enumerate() {
            let name = weights::shard_name(s, num_shards);
            // The safetensors library orders by dtype, then by name.
            tensors.sort();
            write_holes(&dir.join(&name), dtype, &tensors);
            for (tensor, _) in tensors {
                weight_map.insert(tensor.clone(), name.clone().into());
            }
        }
        let index = json!({
            "metadata": { "total_size": 2 * self.num_parameters() },
            "weight_map": weight_map,
        });
        raw::write_json(&dir.join(weights::INDEX), &index);
    }
}

/// Writes a safetensors file that is all hole behind its header.
fn write_holes(path: &Path, dtype: &str, tensors: &[&Shape]) {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.clone(), info);
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}
