//! What differs between model families: tensor names, their order and shapes. Tables only.
//!
//! A family is found by `model_type`. A model of no family here is read and spliced all the same;
//! its shapes are not checked against its config, and its tensors keep the order of their files.

use crate::json::Object;

/// The names of a family's tensors.
#[derive(Debug)]
pub struct Family {
    /// The values of `model_type` in `config.json` that belong to it.
    pub model_types: &'static [&'static str],
    /// What stands before a layer's number in its tensors' names.
    pub layers: &'static str,
    /// The tensors before the layers, in state-dict order.
    pub before: &'static [Tensor],
    /// A layer's own tensors, in state-dict order, without the layer's prefix.
    pub layer: &'static [Tensor],
    /// The tensors behind the layers, in state-dict order.
    pub after: &'static [Tensor],
    /// Whether `head_dim` is `hidden_size / num_attention_heads` where the config does not give it.
    pub derives_head_dim: bool,
    /// The last matrix of each residual branch: where these are zero, a layer is the identity.
    pub branch_ends: &'static [&'static str],
}

/// A tensor that a family's models have.
#[derive(Debug)]
pub struct Tensor {
    /// Its name.
    pub name: &'static str,
    /// Its dimensions.
    pub shape: &'static [Dim],
    /// Whether every model of the family has it.
    pub required: bool,
}

/// A dimension, by the keys of `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// `hidden_size`.
    Hidden,
    /// `intermediate_size`.
    Intermediate,
    /// `vocab_size`.
    Vocab,
    /// `head_dim`, in most families by default `hidden_size / num_attention_heads`.
    Head,
    /// `num_attention_heads × head_dim`.
    Queries,
    /// `num_key_value_heads × head_dim`.
    KeysValues,
    /// Queries, keys and values in one matrix.
    QueriesKeysValues,
    /// Two of `intermediate_size` in one matrix.
    GateUp,
}

impl Dim {
    /// The size that `config`, of a model of `family`, gives to this dimension.
    ///
    /// `None` where it does not say: loaders then have defaults of their own.
    #[must_use]
    pub fn size(self, config: &Object, family: &Family) -> Option<u64> {
        let key = |key: &str| config.get(key)?.as_u64();
        let heads = || key("num_attention_heads");
        let derived = || {
            let whole = family.derives_head_dim.then(|| key("hidden_size"))??;
            whole.checked_div(heads()?)
        };
        let head = || key("head_dim").or_else(derived);
        match self {
            Self::Hidden => key("hidden_size"),
            Self::Intermediate => key("intermediate_size"),
            Self::Vocab => key("vocab_size"),
            Self::Head => head(),
            Self::Queries => heads()?.checked_mul(head()?),
            Self::KeysValues => key("num_key_value_heads")?.checked_mul(head()?),
            Self::QueriesKeysValues => {
                let keys_values = Self::KeysValues.size(config, family)?.checked_mul(2)?;
                Self::Queries.size(config, family)?.checked_add(keys_values)
            }
            Self::GateUp => key("intermediate_size")?.checked_mul(2),
        }
    }

    /// The keys of `config.json` that decide this dimension.
    #[must_use]
    pub fn keys(self) -> &'static str {
        match self {
            Self::Hidden => "hidden_size",
            Self::Intermediate => "intermediate_size",
            Self::Vocab => "vocab_size",
            Self::Head => "head_dim, or hidden_size / num_attention_heads",
            Self::Queries => "num_attention_heads × head_dim",
            Self::KeysValues => "num_key_value_heads × head_dim",
            Self::QueriesKeysValues => "(num_attention_heads + 2 × num_key_value_heads) × head_dim",
            Self::GateUp => "2 × intermediate_size",
        }
    }
}

const fn required(name: &'static str, shape: &'static [Dim]) -> Tensor {
    Tensor { name, shape, required: true }
}

const fn optional(name: &'static str, shape: &'static [Dim]) -> Tensor {
    Tensor { name, shape, required: false }
}

/// Llama and what kept its names: Mistral, and Qwen2 with biases on q, k and v.
const LLAMA: Family = Family {
    model_types: &["llama", "mistral", "qwen2"],
    layers: "model.layers",
    before: &[required("model.embed_tokens.weight", &[Dim::Vocab, Dim::Hidden])],
    layer: &[
        required("self_attn.q_proj.weight", &[Dim::Queries, Dim::Hidden]),
        optional("self_attn.q_proj.bias", &[Dim::Queries]),
        required("self_attn.k_proj.weight", &[Dim::KeysValues, Dim::Hidden]),
        optional("self_attn.k_proj.bias", &[Dim::KeysValues]),
        required("self_attn.v_proj.weight", &[Dim::KeysValues, Dim::Hidden]),
        optional("self_attn.v_proj.bias", &[Dim::KeysValues]),
        required("self_attn.o_proj.weight", &[Dim::Hidden, Dim::Queries]),
        optional("self_attn.o_proj.bias", &[Dim::Hidden]),
        optional("self_attn.q_norm.weight", &[Dim::Head]),
        optional("self_attn.k_norm.weight", &[Dim::Head]),
        required("mlp.gate_proj.weight", &[Dim::Intermediate, Dim::Hidden]),
        optional("mlp.gate_proj.bias", &[Dim::Intermediate]),
        required("mlp.up_proj.weight", &[Dim::Intermediate, Dim::Hidden]),
        optional("mlp.up_proj.bias", &[Dim::Intermediate]),
        required("mlp.down_proj.weight", &[Dim::Hidden, Dim::Intermediate]),
        optional("mlp.down_proj.bias", &[Dim::Hidden]),
        required("input_layernorm.weight", &[Dim::Hidden]),
        required("post_attention_layernorm.weight", &[Dim::Hidden]),
    ],
    after: &[
        required("model.norm.weight", &[Dim::Hidden]),
        optional("lm_head.weight", &[Dim::Vocab, Dim::Hidden]),
    ],
    derives_head_dim: true,
    branch_ends: &["o_proj", "down_proj"],
};

/// Qwen3: Llama's names, norms on q and k, and heads of a size of their own.
const QWEN3: Family = Family { model_types: &["qwen3"], derives_head_dim: false, ..LLAMA };

/// Gemma 2: norms before and behind each branch, no biases.
const GEMMA2: Family = Family {
    model_types: &["gemma2"],
    layer: &[
        required("self_attn.q_proj.weight", &[Dim::Queries, Dim::Hidden]),
        required("self_attn.k_proj.weight", &[Dim::KeysValues, Dim::Hidden]),
        required("self_attn.v_proj.weight", &[Dim::KeysValues, Dim::Hidden]),
        required("self_attn.o_proj.weight", &[Dim::Hidden, Dim::Queries]),
        required("mlp.gate_proj.weight", &[Dim::Intermediate, Dim::Hidden]),
        required("mlp.up_proj.weight", &[Dim::Intermediate, Dim::Hidden]),
        required("mlp.down_proj.weight", &[Dim::Hidden, Dim::Intermediate]),
        required("input_layernorm.weight", &[Dim::Hidden]),
        required("post_attention_layernorm.weight", &[Dim::Hidden]),
        required("pre_feedforward_layernorm.weight", &[Dim::Hidden]),
        required("post_feedforward_layernorm.weight", &[Dim::Hidden]),
    ],
    derives_head_dim: false,
    ..LLAMA
};

/// Gemma 3's text models: Gemma 2's names, and norms on q and k.
const GEMMA3: Family = Family {
    model_types: &["gemma3_text"],
    layer: &[
        required("self_attn.q_proj.weight", &[Dim::Queries, Dim::Hidden]),
        required("self_attn.k_proj.weight", &[Dim::KeysValues, Dim::Hidden]),
        required("self_attn.v_proj.weight", &[Dim::KeysValues, Dim::Hidden]),
        required("self_attn.o_proj.weight", &[Dim::Hidden, Dim::Queries]),
        optional("self_attn.q_norm.weight", &[Dim::Head]),
        optional("self_attn.k_norm.weight", &[Dim::Head]),
        required("mlp.gate_proj.weight", &[Dim::Intermediate, Dim::Hidden]),
        required("mlp.up_proj.weight", &[Dim::Intermediate, Dim::Hidden]),
        required("mlp.down_proj.weight", &[Dim::Hidden, Dim::Intermediate]),
        required("input_layernorm.weight", &[Dim::Hidden]),
        required("post_attention_layernorm.weight", &[Dim::Hidden]),
        required("pre_feedforward_layernorm.weight", &[Dim::Hidden]),
        required("post_feedforward_layernorm.weight", &[Dim::Hidden]),
    ],
    ..GEMMA2
};

/// Phi-3: queries, keys and values in one matrix, gate and up in another.
const PHI3: Family = Family {
    model_types: &["phi3"],
    layer: &[
        required("self_attn.o_proj.weight", &[Dim::Hidden, Dim::Queries]),
        required("self_attn.qkv_proj.weight", &[Dim::QueriesKeysValues, Dim::Hidden]),
        required("mlp.gate_up_proj.weight", &[Dim::GateUp, Dim::Hidden]),
        required("mlp.down_proj.weight", &[Dim::Hidden, Dim::Intermediate]),
        required("input_layernorm.weight", &[Dim::Hidden]),
        required("post_attention_layernorm.weight", &[Dim::Hidden]),
    ],
    ..LLAMA
};

const FAMILIES: &[Family] = &[LLAMA, QWEN3, GEMMA2, GEMMA3, PHI3];

impl Family {
    /// The family that `config` names by its `model_type`.
    #[must_use]
    pub fn of(config: &Object) -> Option<&'static Self> {
        let model_type = config.get("model_type")?;
        let model_type = model_type.as_str()?;
        FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
    }
}
