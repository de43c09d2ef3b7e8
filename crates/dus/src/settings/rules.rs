//! What is known of the keys of `config.json`: the one place for what differs between families.
//!
//! Sources are transformers' configuration and modelling files, vLLM's, and the modelling files
//! that models bring along. A key stands here by its meaning; what is in force goes by its value.

use checkpoint::json::Object;
use serde_json::Value;

/// The names of the layer count; older families' after the common one.
pub(super) const LAYER_COUNT_KEYS: [&str; 5] =
    ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"];

/// Configs that hold the language model's settings inside a multimodal one.
pub(super) const NESTED_CONFIGS: [&str; 6] =
    ["text_config", "llm_config", "language_config", "decoder", "thinker_config", "talker_config"];

/// Prediction layers behind the last; per-layer lists may have entries for them too.
pub(super) const PREDICTION_LAYER_KEYS: [&str; 3] =
    ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"];

/// Objects of which nothing goes by the language model's layers, or whose keys only look like it.
pub(super) const SKIPPED_OBJECTS: [&str; 9] = [
    "vision_config",
    "audio_config",
    "speech_config",
    "projector_config",
    "auto_map",
    "id2label",
    "label2id",
    "task_specific_params",
    "custom_pipelines",
];

/// Objects in which module names are looked for everywhere, and lists are never per-layer.
pub(super) const QUANTISATION_OBJECTS: [&str; 4] =
    ["quantization_config", "quantization", "compression_config", "hf_quant_config"];

/// Lists with one entry a layer. Where a family has one number instead, that number stays.
pub(super) const PER_LAYER_LISTS: &[&str] = &[
    // the kind of the layer
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "attn_type_list",
    "hybrid_layer_pattern",
    "moe_layer_freq",
    "moe_layer_frequency",
    "attention_layers",
    "attn_layers",
    "layer_type",
    "decoder_layer_types",
    "indexer_types",
    "no_rope_layers",
    "use_rope_layers",
    "block_configs",
    // sizes and numbers by layer
    "intermediate_size",
    "ffn_multipliers",
    "qkv_multipliers",
    "num_attention_heads",
    "num_attention_heads_per_layer",
    "num_key_value_heads",
    "num_key_value_heads_per_layer",
    "num_query_heads",
    "num_kv_heads",
    "num_experts",
    "num_experts_per_layer",
    "num_shared_expert",
    "moe_topk",
    "moe_intermediate_size",
    "activation_sparsity_pattern",
    "compress_ratios",
    "layer_rope_theta",
    "rope_theta",
    "partial_rotary_factors",
    "partial_rotary_factor",
    "sliding_window",
    "swiglu_limits",
    "swiglu_limits_shared",
];

/// Objects whose keys are the numbers of some layers (transformers 5's exceptions by layer).
pub(super) const PER_LAYER_OBJECTS: [&str; 1] = ["per_layer_config"];

/// Strings with one character a layer.
pub(super) const PER_LAYER_STRINGS: [&str; 1] = ["hybrid_override_pattern"];

/// Lists of layer numbers (also as a text with commas), with the number that the first layer has.
pub(super) const LAYER_NUMBER_LISTS: &[(&str, usize)] = &[
    ("mlp_only_layers", 0),
    ("full_attn_idxs", 0),
    ("full_attention_idx", 0),
    ("full_attention_idxs", 0),
    ("attn_layer_indices", 0),
    ("attn_layer_idx", 0),
    ("attn.layers", 0),
    ("attention_layers_idx", 0),
    ("hybrid_layer_ids", 0),
    ("cross_attention_layers", 0),
    ("moe_layers", 0),
    ("moe_layers_enum", 0),
    ("dense_layers", 0),
    ("sliding_window_layers", 0),
    ("global_attn_idx", 0),
    ("global_attn_layers", 0),
    ("local_layer_ids", 0),
    ("rope_scaling_layers", 0),
    ("linear_attn_config.kda_layers", 1),
    ("linear_attn_config.full_attn_layers", 1),
];

/// Lists that do not go by layer, however long they are.
pub(super) const OTHER_LISTS: &[&str] = &[
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "eos_token_ids",
    "pad_token_id",
    "stop_token_ids",
    "stop_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_eos_token_id",
    "forced_bos_token_id",
    "bad_words_ids",
    "keys_to_ignore_at_inference",
    "long_factor",
    "short_factor",
    "mrope_section",
    "time_step_limit",
    "ssm_multipliers",
    "mlp_multipliers",
    "mtp_layer_types",
    "mtp_mlp_layer_types",
    "mtp_layers_block_type",
    "mtp_local_layer_ids",
    "block_types",
    "_block_types",
    "weight_block_size",
    "languages",
    "finetuning_task",
    "merge_method",
    "rope_interleave",
];

/// A setting that makes the depth, or a layer's number, part of the arithmetic or of a shape.
pub(super) struct Refusal {
    pub(super) key: &'static str,
    /// The families for which it means that; none: wherever it stands.
    pub(super) families: &'static [&'static str],
    /// Its default where the key is absent does not count: all of these are written out.
    pub(super) is_ordinary: fn(&Value) -> bool,
    pub(super) why: &'static str,
}

/// Off, absent, or nothing in it.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

fn is_at_most_one(value: &Value) -> bool {
    is_off(value) || value.as_f64().is_some_and(|number| number <= 1.0)
}

fn never(_: &Value) -> bool {
    false
}

const fn refusal(key: &'static str, is_ordinary: fn(&Value) -> bool, why: &'static str) -> Refusal {
    Refusal { key, families: &[], is_ordinary, why }
}

pub(super) const REFUSALS: &[Refusal] = &[
    refusal(
        "scale_attn_by_inverse_layer_idx",
        is_off,
        "each layer divides its attention by its own number",
    ),
    refusal(
        "hidden_size_per_layer_input",
        is_off,
        "the embeddings of all layers are packed into one tensor",
    ),
    refusal(
        "num_kv_shared_layers",
        is_off,
        "the last layers borrow keys and values from those before them",
    ),
    refusal("use_cla", is_off, "layers share keys and values by their numbers"),
    refusal("kv_source_layers", is_off, "layers borrow keys and values by number"),
    refusal("kv_reuse_group", is_off, "layers share keys and values by their numbers"),
    refusal(
        "kv_reuse_every_i_layer",
        is_at_most_one,
        "layers share keys and values by their numbers",
    ),
    refusal("index_topk_freq", is_at_most_one, "layers share their index by their numbers"),
    refusal("num_mem_blocks", is_off, "shared blocks take turns by the layer's number"),
    refusal(
        "n_layers_per_attn_res_block",
        is_off,
        "residuals are gathered over blocks of layers by number",
    ),
    refusal("deepnorm", is_off, "residuals are scaled by the number of layers"),
    refusal("use_deepnorm", is_off, "residuals are scaled by the number of layers"),
    refusal("pruned_heads", is_off, "heads are removed by the layer's number"),
    refusal("attention_types", is_off, "the kinds of the layers are written as a product"),
    refusal("is_encoder_decoder", is_off, "a model of two stacks is not one stack of layers"),
    Refusal {
        key: "position_encoding_2d",
        families: &["chatglm"],
        is_ordinary: is_off,
        why: "residuals are scaled by the number of layers",
    },
    Refusal {
        key: "mb_per_layer",
        families: &["phi4flash"],
        is_ordinary: never,
        why: "what a layer is depends on its place in the lower or upper half",
    },
    Refusal {
        key: "num_hidden_groups",
        families: &["albert"],
        is_ordinary: never,
        why: "all layers share the same weights",
    },
    Refusal {
        key: "model_type",
        families: &["gpt_neox_japanese"],
        is_ordinary: never,
        why: "the last layer alone has an output bias",
    },
    Refusal {
        key: "model_type",
        families: &["esmc"],
        is_ordinary: never,
        why: "residuals are scaled by the number of layers",
    },
];

/// A list that the loaders of some families make up from the layers' numbers where it is not stated,
/// by a rule that is not among the rules by number.
pub(super) struct UnstatedList {
    pub(super) key: &'static str,
    pub(super) families: &'static [&'static str],
    /// Older keys that say the same, and are known.
    pub(super) alternatives: &'static [&'static str],
}

pub(super) const UNSTATED_LISTS: [UnstatedList; 3] = [
    UnstatedList {
        key: "layer_types",
        families: &[
            "beam",
            "deepseek_v4",
            "flint",
            "gemma4_unified_text",
            "inkling_text",
            "kimi_linear",
            "kolibri1",
            "lfm3",
            "mimo_v2_flash",
            "modernbert-decoder",
            "olmo_hybrid",
            "qwen4_exp_text",
        ],
        alternatives: &[
            "compress_ratios",
            "global_attn_every_n_layers",
            "hybrid_layer_pattern",
            "linear_attn_config",
            "local_layer_ids",
        ],
    },
    UnstatedList {
        key: "mlp_layer_types",
        families: &[
            "axk1",
            "axk2",
            "beam",
            "deepseek_v4",
            "glm4_moe_lite",
            "hy_v3",
            "hy_v4",
            "kimi_linear",
            "laguna",
            "mimo_v2_flash",
        ],
        alternatives: &[
            "first_k_dense_replace",
            "mlp_only_layers",
            "moe_layer_freq",
            "num_dense_layers",
            "num_hash_layers",
        ],
    },
    UnstatedList { key: "indexer_types", families: &["hy_v4"], alternatives: &[] },
];

/// Packed embeddings where the size that turns them off is not stated (Gemma-3n's default is 256).
pub(super) const PACKED_VOCABULARY: &str = "vocab_size_per_layer_input";

/// The residual scale that loaders divide by the square root of the layer count (`MiniCPM`).
pub(super) const SCALE_BY_ROOT_OF_DEPTH: &str = "scale_depth";

/// Endings of keys that say how often a kind of layer comes.
pub(super) const INTERVAL_ENDINGS: &[&str] = &[
    "_every_n_layers",
    "_every_n_layer",
    "_layer_interval",
    "_layers_interval",
    "_layer_period",
    "_layer_freq",
    "_layer_frequency",
    "_layer_step",
    "_attention_interval",
    "_window_pattern",
];

/// What every model of a plan must have alike; the value is what loaders take where it is absent.
pub(super) const SHAPES: &[(&str, Absent)] = &[
    ("model_type", Absent::Unknown),
    ("hidden_size", Absent::Unknown),
    ("n_embd", Absent::Unknown),
    ("d_model", Absent::Unknown),
    ("vocab_size", Absent::Unknown),
    ("intermediate_size", Absent::Unknown),
    ("n_inner", Absent::Unknown),
    ("num_attention_heads", Absent::Unknown),
    ("n_head", Absent::Unknown),
    ("n_heads", Absent::Unknown),
    ("num_key_value_heads", Absent::Unknown),
    ("head_dim", Absent::HeadDim),
    ("hidden_act", Absent::Unknown),
    ("hidden_activation", Absent::Unknown),
    ("tie_word_embeddings", Absent::Unknown),
    ("attention_bias", Absent::Off),
    ("mlp_bias", Absent::Off),
    ("qkv_bias", Absent::Off),
    ("use_qk_norm", Absent::Off),
    ("num_experts", Absent::Unknown),
    ("num_local_experts", Absent::Unknown),
    ("n_routed_experts", Absent::Unknown),
    ("n_shared_experts", Absent::Unknown),
    ("num_experts_per_tok", Absent::Unknown),
    ("moe_intermediate_size", Absent::Unknown),
    ("shared_expert_intermediate_size", Absent::Unknown),
    ("kv_lora_rank", Absent::Unknown),
    ("q_lora_rank", Absent::Unknown),
    ("qk_nope_head_dim", Absent::Unknown),
    ("qk_rope_head_dim", Absent::Unknown),
    ("v_head_dim", Absent::Unknown),
    ("scale_emb", Absent::Unknown),
    ("dim_model_base", Absent::Unknown),
];

/// What an absent key means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Absent {
    /// It depends on the family; a stated value is not compared with it.
    Unknown,
    /// False.
    Off,
    /// The hidden size over the number of heads.
    HeadDim,
}

/// What shapes the arithmetic but no tensor: a difference is said, the donor's value is written.
pub(super) const ARITHMETIC: [&str; 11] = [
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "sliding_window",
    "use_sliding_window",
    "max_position_embeddings",
    "attn_logit_softcapping",
];

/// Whether `object` is of one of the `families`, or they are none.
pub(super) fn is_of(object: &Object, families: &[&str]) -> bool {
    families.is_empty()
        || object
            .get("model_type")
            .and_then(|value| value.as_str().map(|family| families.contains(&family)))
            .unwrap_or(false)
}
