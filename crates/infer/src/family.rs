//! What differs between the families that the decoder runs, in a table.
//!
//! Nothing after `config` asks which family a model is of. Defaults are those of
//! transformers 5.23, which a `config.json` may leave out.

/// How the attention of a family is windowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowRule {
    /// Never; a `sliding_window` in the config means nothing.
    Never,
    /// Every layer, by `sliding_window`; the number is what its absence means.
    Every(usize),
    /// By `layer_types`, else from layer `max_window_layers` on; only with `use_sliding_window`.
    Gated {
        /// What the absence of `sliding_window` means.
        sliding_window: usize,
        /// What the absence of `max_window_layers` means.
        max_window_layers: usize,
    },
}

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BiasRule {
    /// None.
    Never,
    /// Queries, keys and values.
    QueriesKeysValues,
    /// All four, by `attention_bias`.
    AttentionKey,
}

/// A family of models.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) model_type: &'static str,
    pub(crate) architecture: &'static str,
    /// What the absence of `num_key_value_heads` means; `None`: as many as query heads.
    pub(crate) num_key_value_heads: Option<usize>,
    /// What the absence of `head_dim` means; `None`: `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<usize>,
    pub(crate) max_position_embeddings: usize,
    pub(crate) window: WindowRule,
    pub(crate) attention_bias: BiasRule,
    /// Whether `mlp_bias` is heeded.
    pub(crate) mlp_bias_key: bool,
    /// Whether each head's queries and keys are normed.
    pub(crate) qk_norm: bool,
}

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    window: WindowRule::Never,
    attention_bias: BiasRule::AttentionKey,
    mlp_bias_key: true,
    qk_norm: false,
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    num_key_value_heads: Some(8),
    max_position_embeddings: 4096 * 32,
    window: WindowRule::Every(4096),
    attention_bias: BiasRule::Never,
    mlp_bias_key: false,
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    num_key_value_heads: Some(32),
    max_position_embeddings: 32768,
    window: WindowRule::Gated { sliding_window: 4096, max_window_layers: 28 },
    attention_bias: BiasRule::QueriesKeysValues,
    mlp_bias_key: false,
    ..LLAMA
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    head_dim: Some(128),
    attention_bias: BiasRule::AttentionKey,
    qk_norm: true,
    ..QWEN2
};

const FAMILIES: [&Family; 4] = [&LLAMA, &MISTRAL, &QWEN2, &QWEN3];

impl Family {
    /// The family with this `model_type`.
    pub(crate) fn of(model_type: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.model_type == model_type)
    }

    /// Whether some family's causal language model is called `architecture`.
    pub(crate) fn is_known(architecture: &str) -> bool {
        FAMILIES.iter().any(|family| family.architecture == architecture)
    }
}

/// The families by the names of their models.
pub(crate) fn names() -> String {
    FAMILIES.map(|family| family.architecture).join(", ")
}
