//! What llama.cpp's loaders make of layers: which keys stand once a layer, and what a loader works
//! out from a layer's number or from the number of layers. Tables only; facts are those of the
//! loaders' sources. Keys stand without the architecture's name before them.

/// The most layers that llama.cpp has room for.
pub(super) const MAX_LAYERS: usize = 512;

/// Arrays with one value a layer. Where there is one number instead, that number stays.
pub(super) const PER_LAYER: &[&str] = &[
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_used_count",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
    "deepstack_mapping",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.rope_pattern",
    "attention.recurrent_layers",
    "attention.compress_ratios",
    "attention.indexer.types",
    "rope.dimension_count",
    "rope.freq_base",
    "activation_sparsity_scale",
];

/// The same, of keys without an architecture's name.
pub(super) const PER_LAYER_OF_ANY: &[&str] =
    &["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"];

/// Arrays that do not go by layer, however long they are.
pub(super) const OTHER_ARRAYS: &[&str] = &[
    "rope.dimension_sections",
    "rope.scaling.long_factors",
    "rope.scaling.short_factors",
    "adapters.token_ids_activate",
    "adapters.token_ids_substitute",
    "classifier.output_labels",
];

/// Beginnings of keys that are no architecture's: nothing of them goes by layer.
pub(super) const OTHER_KEYS: &[&str] = &["tokenizer.", "general.", "split.", "quantize.", "dus."];

/// A key of which any value but 0 stands in the way.
pub(super) struct KeyRefusal {
    pub(super) key: &'static str,
    pub(super) why: &'static str,
}

const fn refusal(key: &'static str, why: &'static str) -> KeyRefusal {
    KeyRefusal { key, why }
}

pub(super) const KEY_REFUSALS: &[KeyRefusal] = &[
    refusal(
        "attention.shared_kv_layers",
        "the last layers borrow keys and values from those before them",
    ),
    refusal(
        "embedding_length_per_layer_input",
        "the embeddings of all layers are packed into one tensor",
    ),
    refusal("rescale_every_n_layers", "weights are scaled by their layers' numbers"),
    refusal("hash_layer_count", "the first layers choose experts by the token"),
    refusal("attn_res.block_size", "residuals are gathered over blocks of layers by number"),
    refusal("hrm.layers_per_stack", "the layers are run in cycles over two stacks"),
    refusal("decoder_block_count", "a model of two stacks is not one stack of layers"),
    refusal("posnet.block_count", "not all blocks are layers of one stack"),
    refusal("convnext.block_count", "not all blocks are layers of one stack"),
    refusal("ple.layers", "it names layers by number"),
    refusal("target_layers", "it names another model's layers by number"),
    refusal("adapters.count", "adapters are packed over all layers into one tensor"),
];

/// Architectures whose loaders put the depth, or certain layers, into the arithmetic.
pub(super) const ARCHITECTURE_REFUSALS: &[(&str, &str)] = &[
    ("gemma3n", "llama.cpp shares keys and values from layer 20 on, whatever the depth"),
    ("minicpm3", "llama.cpp divides what each layer adds by the root of the layer count"),
    ("t5", "a model of two stacks is not one stack of layers"),
];

/// Layer counts that llama.cpp knows a model by; what it computes changes from one to the other.
pub(super) struct CountsThatMatter {
    pub(super) architecture: &'static str,
    pub(super) counts: &'static [usize],
    pub(super) why: &'static str,
}

pub(super) const COUNTS_THAT_MATTER: &[CountsThatMatter] = &[
    CountsThatMatter {
        architecture: "gemma2",
        counts: &[46],
        why: "llama.cpp scales the attention of 46 layers otherwise than that of any other depth",
    },
    CountsThatMatter {
        architecture: "gemma3",
        counts: &[62],
        why: "llama.cpp scales the attention of 62 layers otherwise than that of any other depth",
    },
    CountsThatMatter {
        architecture: "exaone4",
        counts: &[64],
        why: "llama.cpp gives layers a window where there are 64 of them, and else none",
    },
    CountsThatMatter {
        architecture: "baichuan",
        counts: &[32, 40],
        why: "llama.cpp tells by 32 or 40 layers how positions are encoded",
    },
    CountsThatMatter {
        architecture: "deepseek2",
        counts: &[26, 27, 47, 48],
        why: "llama.cpp tells by the layer count which tensors there are and how experts are chosen",
    },
];

/// `MiniCPM`'s residual scale: where the key is missing, loaders take this over the root of the
/// layer count.
pub(super) const MINICPM: (&str, &str, f64) = ("minicpm", "residual_scale", 1.4);

/// A rule by which a loader tells one layer of each group from the others.
#[derive(Clone, Copy)]
pub(super) struct LoaderRule {
    /// The architectures that it holds for; none: all, where the key is stated.
    pub(super) architectures: &'static [&'static str],
    /// The key of the number of layers of a group, if a file can state it, and else the number.
    pub(super) key: Option<&'static str>,
    /// The number of layers of a group where none is stated; 0: then there is no rule.
    pub(super) group: usize,
    pub(super) odd_one: OddOne,
    /// What that layer is, and what the others are.
    pub(super) kinds: (&'static str, &'static str),
    /// The list of kinds that a loader follows instead, where there is one.
    pub(super) list: Option<&'static str>,
    pub(super) in_force: InForce,
}

/// Which layer of a group is not like the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OddOne {
    First,
    Second,
    Last,
    /// The very first layer of all, and no other.
    OfAll,
}

/// When a rule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InForce {
    Always,
    /// Where a window is stated and is not 0.
    WithWindow,
    /// Unless a window is stated that is 0.
    UnlessNoWindow,
    /// With so many layers.
    WithLayers(usize),
}

const PATTERN: &str = "attention.sliding_window_pattern";
const WINDOW: (&str, &str) = ("a layer that sees all tokens", "a layer with a window");
const ROPE: (&str, &str) = ("a layer without positions", "a layer with positions");

const fn window(architectures: &'static [&'static str], group: usize) -> LoaderRule {
    LoaderRule {
        architectures,
        key: Some(PATTERN),
        group,
        odd_one: OddOne::Last,
        kinds: WINDOW,
        list: Some(PATTERN),
        in_force: InForce::Always,
    }
}

const fn positions(architectures: &'static [&'static str]) -> LoaderRule {
    LoaderRule { key: None, kinds: ROPE, list: None, ..window(architectures, 4) }
}

const fn where_stated(rule: LoaderRule) -> LoaderRule {
    LoaderRule { in_force: InForce::WithWindow, ..rule }
}

const fn first(rule: LoaderRule) -> LoaderRule {
    LoaderRule { odd_one: OddOne::First, ..rule }
}

const fn attention(architectures: &'static [&'static str], group: usize) -> LoaderRule {
    LoaderRule {
        key: Some("full_attention_interval"),
        kinds: ("a layer of full attention", "a layer of linear attention"),
        list: Some("attention.recurrent_layers"),
        ..window(architectures, group)
    }
}

const EXPERTS: LoaderRule = LoaderRule {
    key: Some("interleave_moe_layer_step"),
    kinds: ("a layer with experts", "a dense layer"),
    list: None,
    ..window(&[], 0)
};

pub(super) const LOADER_RULES: &[LoaderRule] = &[
    window(&["gemma2", "gpt-oss"], 2),
    window(&["gemma-embedding"], 6),
    where_stated(window(&["gemma3"], 6)),
    window(&["cohere2", "exaone-moe", "muse-glimmer"], 4),
    where_stated(window(&["olmo2", "afmoe", "mellum"], 4)),
    where_stated(window(&["plamo3"], 8)),
    LoaderRule { in_force: InForce::UnlessNoWindow, ..window(&["llama4"], 4) },
    LoaderRule { in_force: InForce::WithLayers(64), ..window(&["exaone4"], 4) },
    first(window(&["cohere2moe"], 4)),
    first(where_stated(window(&["laguna", "smallthinker"], 4))),
    first(where_stated(window(&["modern-bert"], 3))),
    positions(&["smollm3", "afmoe"]),
    LoaderRule { in_force: InForce::UnlessNoWindow, ..positions(&["llama4"]) },
    first(where_stated(positions(&["smallthinker"]))),
    attention(&["qwen3next", "qwen35", "qwen35moe", "qwen4exp"], 4),
    attention(&["minimax-01"], 8),
    EXPERTS,
    LoaderRule { key: Some("moe_every_n_layers"), odd_one: OddOne::Second, ..EXPERTS },
    LoaderRule {
        key: None,
        odd_one: OddOne::OfAll,
        kinds: ("the first layer, whose values the others take up", "another layer"),
        list: None,
        ..window(&["rwkv7", "arwkv7"], 1)
    },
];

/// The key of how many layers at the bottom have no experts.
pub(super) const LEADING_DENSE: (&str, &str, &str) =
    ("leading_dense_block_count", "a dense layer", "a layer with experts");
