//! Tensor names, shapes and config keys of model families.

use serde_json::{Map, Value, json};

use crate::model::{ConfigForm, TinyModel};

/// A model family, as transformers spells its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `MistralForCausalLM`.
    Mistral,
    /// `LlamaForCausalLM`.
    Llama,
    /// `Qwen2ForCausalLM`: biases on q, k and v.
    Qwen2,
    /// `Qwen3ForCausalLM`: norms on q and k.
    Qwen3,
    /// `GPT2LMHeadModel` without its attention masks: `h.N.attn…`, biases, and its own config keys.
    Gpt2,
}

/// A tensor's name, its shape and the mean of its numbers.
type Spec = (String, Vec<usize>, f32);

impl Family {
    /// What stands before the layer number in tensor names.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Gpt2 => "h",
            _ => "model.layers",
        }
    }

    /// The tensors of `model`, in state-dict order.
    pub(crate) fn tensors(self, model: &TinyModel) -> Vec<Spec> {
        let spec = |name: &str, shape: &[usize], mean| (name.to_owned(), shape.to_vec(), mean);
        let mut specs = Vec::new();
        let (hidden, vocab) = (model.hidden_size, model.vocab_size);
        if self == Self::Gpt2 {
            specs.push(spec("wte.weight", &[vocab, hidden], 0.0));
            specs.push(spec("wpe.weight", &[128, hidden], 0.0));
        } else {
            specs.push(spec("model.embed_tokens.weight", &[vocab, hidden], 0.0));
        }
        for layer in 0..model.num_hidden_layers {
            let of_layer =
                if self == Self::Gpt2 { gpt2_layer(model) } else { llama_layer(self, model) };
            for (name, shape, mean) in of_layer {
                specs.push((format!("{}.{layer}.{name}", self.prefix()), shape, mean));
            }
        }
        if self == Self::Gpt2 {
            specs.push(spec("ln_f.weight", &[hidden], 1.0));
            specs.push(spec("ln_f.bias", &[hidden], 0.0));
        } else {
            specs.push(spec("model.norm.weight", &[hidden], 1.0));
        }
        if !model.tie_word_embeddings {
            specs.push(spec("lm_head.weight", &[vocab, hidden], 0.0));
        }
        specs
    }

    /// The `config.json` of `model`, without its extra keys.
    pub(crate) fn config(self, model: &TinyModel) -> Map<String, Value> {
        let (architecture, model_type) = match self {
            Self::Mistral => ("MistralForCausalLM", "mistral"),
            Self::Llama => ("LlamaForCausalLM", "llama"),
            Self::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Self::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Self::Gpt2 => ("GPT2LMHeadModel", "gpt2"),
        };
        let mut config = object(json!({
            "architectures": [architecture],
            "model_type": model_type,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": model.tie_word_embeddings,
            "transformers_version": "5.23.0",
            "vocab_size": model.vocab_size,
        }));
        config.extend(object(match self {
            Self::Gpt2 => json!({
                "activation_function": "gelu_new",
                "layer_norm_epsilon": 1e-5,
                "n_embd": model.hidden_size,
                "n_head": model.num_attention_heads,
                "n_inner": model.intermediate_size,
                "n_layer": model.num_hidden_layers,
                "n_positions": 128,
            }),
            _ => json!({
                "attention_dropout": 0.0,
                "head_dim": model.head_dim,
                "hidden_act": "silu",
                "hidden_size": model.hidden_size,
                "initializer_range": 0.02,
                "intermediate_size": model.intermediate_size,
                "max_position_embeddings": 1024,
                "num_attention_heads": model.num_attention_heads,
                "num_hidden_layers": model.num_hidden_layers,
                "num_key_value_heads": model.num_key_value_heads,
                "rms_norm_eps": 1e-5,
                "use_cache": true,
            }),
        }));
        match self {
            Self::Mistral => config.extend(object(json!({ "sliding_window": 256 }))),
            Self::Qwen2 | Self::Qwen3 => config.extend(object(json!({
                "max_window_layers": model.num_hidden_layers,
                "sliding_window": null,
                "use_sliding_window": false,
            }))),
            Self::Llama | Self::Gpt2 => {}
        }
        let dtype = model.dtype_name();
        config.extend(object(match (model.config_form, self) {
            (ConfigForm::Old, Self::Gpt2) => json!({ "torch_dtype": dtype }),
            (ConfigForm::New, Self::Gpt2) => json!({ "dtype": dtype }),
            (ConfigForm::Old, _) => json!({ "torch_dtype": dtype, "rope_theta": 10000.0 }),
            (ConfigForm::New, _) => json!({
                "dtype": dtype,
                "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
            }),
        }));
        if model.config_form == ConfigForm::New && matches!(self, Self::Qwen2 | Self::Qwen3) {
            let layer_types = vec!["full_attention"; model.num_hidden_layers];
            config.insert("layer_types".to_owned(), layer_types.into());
        }
        config
    }
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("{value} is no object") };
    object
}

fn llama_layer(family: Family, model: &TinyModel) -> Vec<Spec> {
    let (hidden, intermediate) = (model.hidden_size, model.intermediate_size);
    let queries = model.num_attention_heads * model.head_dim;
    let keys = model.num_key_value_heads * model.head_dim;
    let mut specs = Vec::new();
    for (name, rows) in [("q", queries), ("k", keys), ("v", keys)] {
        specs.push((format!("self_attn.{name}_proj.weight"), vec![rows, hidden], 0.0));
        if family == Family::Qwen2 {
            specs.push((format!("self_attn.{name}_proj.bias"), vec![rows], 0.0));
        }
    }
    specs.push(("self_attn.o_proj.weight".to_owned(), vec![hidden, queries], 0.0));
    if family == Family::Qwen3 {
        for name in ["q", "k"] {
            specs.push((format!("self_attn.{name}_norm.weight"), vec![model.head_dim], 1.0));
        }
    }
    specs.push(("mlp.gate_proj.weight".to_owned(), vec![intermediate, hidden], 0.0));
    specs.push(("mlp.up_proj.weight".to_owned(), vec![intermediate, hidden], 0.0));
    specs.push(("mlp.down_proj.weight".to_owned(), vec![hidden, intermediate], 0.0));
    specs.push(("input_layernorm.weight".to_owned(), vec![hidden], 1.0));
    specs.push(("post_attention_layernorm.weight".to_owned(), vec![hidden], 1.0));
    specs
}

/// GPT-2's matrices are `Conv1D`'s: inputs × outputs.
fn gpt2_layer(model: &TinyModel) -> Vec<Spec> {
    let (hidden, intermediate) = (model.hidden_size, model.intermediate_size);
    let mut specs = Vec::new();
    let mut pair = |name: &str, weight: &[usize], outputs, mean| {
        specs.push((format!("{name}.weight"), weight.to_vec(), mean));
        specs.push((format!("{name}.bias"), vec![outputs], 0.0));
    };
    pair("ln_1", &[hidden], hidden, 1.0);
    pair("attn.c_attn", &[hidden, 3 * hidden], 3 * hidden, 0.0);
    pair("attn.c_proj", &[hidden, hidden], hidden, 0.0);
    pair("ln_2", &[hidden], hidden, 1.0);
    pair("mlp.c_fc", &[hidden, intermediate], intermediate, 0.0);
    pair("mlp.c_proj", &[intermediate, hidden], hidden, 0.0);
    specs
}
