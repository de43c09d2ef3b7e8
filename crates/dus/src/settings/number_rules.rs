//! The rules by which loaders tell a layer's kind from its number: the table.
//!
//! A rule gives a function from layer number to one of two kinds. What to do with it where layers
//! move is `by_number`'s business.

use checkpoint::json::Object;
use serde_json::Value;

use super::rules::is_of;

/// Tells whether a layer, by its number, is of the first of a rule's two kinds.
pub(super) type Kind = Box<dyn Fn(usize) -> bool>;

/// A rule from layer numbers to kinds.
pub(super) struct NumberRule {
    /// The setting that a refusal names where it stands in the config.
    pub(super) key: &'static str,
    /// What it names instead where the family's default is in force.
    pub(super) instead: &'static str,
    /// The lists that loaders follow rather than this rule.
    pub(super) lists: &'static [&'static str],
    /// What a layer is where the rule says yes, and where it says no.
    pub(super) kinds: (&'static str, &'static str),
    /// Whether `key` is a bound that can be moved.
    pub(super) is_bound: bool,
    /// Whether loaders look at the rule at all; a bound out of force is moved if that is plain.
    pub(super) in_force: fn(&Object) -> bool,
    /// The rule for a model of that many layers; `None` where the config does not state it.
    pub(super) kind: fn(&Object, usize) -> Option<Kind>,
}

const ATTENTION: &[&str] = &["layer_types", "attn_type_list", "hybrid_layer_pattern"];
const MLP: &[&str] = &["mlp_layer_types", "moe_layer_freq", "moe_layers"];
const WINDOW: (&str, &str) = ("sliding_attention", "full_attention");
const EXPERTS: (&str, &str) = ("a layer with experts", "a dense layer");
const DENSE: (&str, &str) = ("a dense layer", "a layer with experts");

pub(super) const NUMBER_RULES: &[NumberRule] = &[
    NumberRule {
        key: "max_window_layers",
        instead: "use_sliding_window",
        lists: ATTENTION,
        kinds: WINDOW,
        is_bound: true,
        in_force: |config| {
            flag(config, "use_sliding_window") && is_stated(config, "sliding_window")
        },
        kind: |config, _| {
            let default = is_of(config, &["qwen2", "qwen3"]).then_some(28);
            let bound = number(config, "max_window_layers").or(default)?;
            Some(Box::new(move |i| i >= bound))
        },
    },
    NumberRule {
        // Qwen2-MoE windows every other layer below the bound in newer loaders, on top of the above.
        key: "use_sliding_window",
        instead: "use_sliding_window",
        lists: ATTENTION,
        kinds: WINDOW,
        is_bound: false,
        in_force: |config| {
            flag(config, "use_sliding_window") && is_stated(config, "sliding_window")
        },
        kind: |config, _| is_of(config, &["qwen2_moe"]).then(|| every(2, 0)),
    },
    NumberRule {
        key: "sliding_window_pattern",
        instead: "sliding_window",
        lists: ATTENTION,
        kinds: ("full_attention", "sliding_attention"),
        is_bound: false,
        in_force: |config| {
            !config.contains("sliding_window") || is_stated(config, "sliding_window")
        },
        kind: window_pattern,
    },
    NumberRule {
        key: "full_attention_interval",
        instead: "model_type",
        lists: ATTENTION,
        kinds: ("full_attention", "linear_attention"),
        is_bound: false,
        in_force: always,
        kind: |config, _| {
            let default = is_of(config, &["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"]);
            period(config, "full_attention_interval", default.then_some(4), 1)
        },
    },
    NumberRule {
        key: "global_attn_every_n_layers",
        instead: "model_type",
        lists: ATTENTION,
        kinds: ("full_attention", "sliding_attention"),
        is_bound: false,
        in_force: always,
        kind: |config, _| {
            let from_zero = is_of(config, &["modernbert", "modernbert-decoder"]);
            period(config, "global_attn_every_n_layers", None, usize::from(!from_zero))
        },
    },
    NumberRule {
        key: "dense_attention_every_n_layers",
        instead: "model_type",
        lists: &[],
        kinds: ("dense attention", "block-sparse attention"),
        is_bound: false,
        in_force: always,
        kind: |config, _| period(config, "dense_attention_every_n_layers", None, 1),
    },
    NumberRule {
        key: "layer_group_size",
        instead: "model_type",
        lists: ATTENTION,
        kinds: ("full_attention", "linear_attention"),
        is_bound: false,
        in_force: |config| {
            is_of(config, &["bailing_hybrid", "bailing_moe_linear", "bailing_moe_v2_5"])
        },
        kind: |config, num_layers| {
            let size = number(config, "layer_group_size").filter(|&size| size > 0)?;
            Some(Box::new(move |i| (i + 1) % size == 0 || i >= num_layers / size * size))
        },
    },
    NumberRule {
        // MiniMax-01 as transformers reads it.
        key: "model_type",
        instead: "model_type",
        lists: ATTENTION,
        kinds: ("linear_attention", "full_attention"),
        is_bound: false,
        in_force: always,
        kind: |config, _| is_of(config, &["minimax"]).then(|| every(2, 1)),
    },
    NumberRule {
        // CWM and Granite with windows begin each group of four with the full layer.
        key: "sliding_window",
        instead: "model_type",
        lists: ATTENTION,
        kinds: ("full_attention", "sliding_attention"),
        is_bound: false,
        in_force: always,
        kind: |config, _| {
            is_of(config, &["cwm", "granite_swa", "granitemoe_swa"]).then(|| every(4, 0))
        },
    },
    NumberRule {
        key: "no_rope_layer_interval",
        instead: "model_type",
        lists: &["no_rope_layers"],
        kinds: ("a layer without RoPE", "a layer with RoPE"),
        is_bound: false,
        in_force: always,
        kind: |config, _| {
            let default = is_of(config, &["smollm3", "llama4_text"]).then_some(4);
            period(config, "no_rope_layer_interval", default, 1)
        },
    },
    NumberRule {
        key: "attn_layer_period",
        instead: "model_type",
        lists: &["layers_block_type", "layer_types"],
        kinds: ("attention", "mamba"),
        is_bound: false,
        in_force: always,
        kind: |config, _| offset(config, "attn_layer_period", "attn_layer_offset", (8, 4)),
    },
    NumberRule {
        key: "expert_layer_period",
        instead: "model_type",
        lists: &["layers_num_experts"],
        kinds: EXPERTS,
        is_bound: false,
        in_force: |config| number(config, "num_experts").is_none_or(|count| count > 1),
        kind: |config, _| offset(config, "expert_layer_period", "expert_layer_offset", (2, 1)),
    },
    NumberRule {
        key: "mamba_step",
        instead: "model_type",
        lists: &["layers_block_type", "layer_types"],
        kinds: ("attention", "mamba"),
        is_bound: false,
        in_force: |config| !config.contains("mamba_enabled") || flag(config, "mamba_enabled"),
        kind: |config, num_layers| {
            let step = number(config, "mamba_step").filter(|&step| step > 0)?;
            Some(Box::new(move |i| {
                if num_layers <= step / 2 { i + 1 == num_layers } else { i % step == step / 2 }
            }))
        },
    },
    NumberRule {
        key: "block_types",
        instead: "model_type",
        lists: &["layers_block_type"],
        kinds: ("attention", "recurrent"),
        is_bound: false,
        in_force: always,
        kind: |config, _| {
            let pattern: Vec<String> =
                ["block_types", "_block_types"].iter().find_map(|key| config.read(key)?.ok())?;
            let attention: Vec<bool> = pattern.iter().map(|kind| kind == "attention").collect();
            cycle(attention)
        },
    },
    NumberRule {
        key: "first_k_dense_replace",
        instead: "model_type",
        lists: MLP,
        kinds: DENSE,
        is_bound: true,
        in_force: has_experts,
        kind: |config, _| below(config, "first_k_dense_replace"),
    },
    NumberRule {
        key: "num_dense_layers",
        instead: "model_type",
        lists: MLP,
        kinds: DENSE,
        is_bound: true,
        in_force: has_experts,
        kind: |config, _| below(config, "num_dense_layers"),
    },
    NumberRule {
        key: "num_hash_layers",
        instead: "model_type",
        lists: MLP,
        kinds: ("a layer routed by hash", "a routed layer"),
        is_bound: true,
        in_force: always,
        kind: |config, _| below(config, "num_hash_layers"),
    },
    NumberRule {
        // DeepSeek's own code: experts in every such layer after the dense ones.
        key: "moe_layer_freq",
        instead: "model_type",
        lists: MLP,
        kinds: EXPERTS,
        is_bound: false,
        in_force: has_experts,
        kind: |config, _| {
            let dense = number(config, "first_k_dense_replace").unwrap_or(0);
            let kind = period(config, "moe_layer_freq", None, 0)?;
            Some(Box::new(move |i| i < dense || kind(i)))
        },
    },
    NumberRule {
        // Arctic.
        key: "moe_layer_frequency",
        instead: "model_type",
        lists: MLP,
        kinds: EXPERTS,
        is_bound: false,
        in_force: has_experts,
        kind: |config, _| period(config, "moe_layer_frequency", None, 1),
    },
    NumberRule {
        key: "interleave_moe_layer_step",
        instead: "model_type",
        lists: MLP,
        kinds: EXPERTS,
        is_bound: false,
        in_force: has_experts,
        kind: |config, _| period(config, "interleave_moe_layer_step", None, 1),
    },
    NumberRule {
        key: "decoder_sparse_step",
        instead: "model_type",
        lists: &["mlp_layer_types"],
        kinds: EXPERTS,
        is_bound: false,
        in_force: has_experts,
        kind: |config, _| {
            let dense: Vec<usize> =
                config.read("mlp_only_layers").and_then(Result::ok).unwrap_or_default();
            let kind = period(config, "decoder_sparse_step", None, 1)?;
            Some(Box::new(move |i| kind(i) && !dense.contains(&i)))
        },
    },
    NumberRule {
        key: "moe_layer_interval",
        instead: "model_type",
        lists: MLP,
        kinds: EXPERTS,
        is_bound: false,
        in_force: has_experts,
        kind: |config, _| period(config, "moe_layer_interval", None, 1),
    },
    NumberRule {
        key: "moe_layer_start_index",
        instead: "model_type",
        lists: MLP,
        kinds: DENSE,
        is_bound: true,
        in_force: has_experts,
        kind: |config, _| below(config, "moe_layer_start_index"),
    },
    NumberRule {
        // -1 is the last layer, whatever its number.
        key: "moe_layer_end_index",
        instead: "model_type",
        lists: MLP,
        kinds: EXPERTS,
        is_bound: true,
        in_force: has_experts,
        kind: |config, _| {
            config.get("moe_layer_end_index").filter(|end| !end.is_null())?;
            let end = number(config, "moe_layer_end_index");
            Some(Box::new(move |i| end.is_none_or(|end| i <= end)))
        },
    },
];

/// A `sliding_window_pattern` as a number, as letters (EXAONE's `LLLG`), or the family's own.
fn window_pattern(config: &Object, _: usize) -> Option<Kind> {
    const FAMILIES: [(&str, usize); 9] = [
        ("gemma2", 2),
        ("vaultgemma", 2),
        ("gpt_oss", 2),
        ("gemma3_text", 6),
        ("gemma3n_text", 5),
        ("gemma4_text", 6),
        ("cohere2", 4),
        ("exaone4", 4),
        ("olmo3", 4),
    ];
    let key = if config.contains("_sliding_window_pattern") {
        "_sliding_window_pattern"
    } else {
        "sliding_window_pattern"
    };
    if let Some(Value::String(letters)) = config.get(key) {
        return cycle(letters.chars().map(|letter| letter == 'G').collect());
    }
    let default = FAMILIES.iter().find(|(family, _)| is_of(config, &[family])).map(|it| it.1);
    period(config, key, default, 1)
}

fn always(_: &Object) -> bool {
    true
}

/// Whether a model has experts; where no key says so, it is taken to have them.
fn has_experts(config: &Object) -> bool {
    const COUNTS: [&str; 4] =
        ["n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"];
    COUNTS.iter().filter_map(|key| config.get(key)).all(|count| {
        count.as_u64() != Some(0)
            && !count.is_null()
            && count.as_array().is_none_or(|it| !it.is_empty())
    })
}

fn number(config: &Object, key: &str) -> Option<usize> {
    config.read(key)?.ok()
}

fn flag(config: &Object, key: &str) -> bool {
    config.get(key) == Some(Value::Bool(true))
}

fn is_stated(config: &Object, key: &str) -> bool {
    config.get(key).is_some_and(|value| !value.is_null())
}

/// Yes for every `period`-th layer, those whose number plus `shift` is a multiple of it.
fn every(period: usize, shift: usize) -> Kind {
    Box::new(move |i| (i + shift).is_multiple_of(period))
}

fn period(config: &Object, key: &str, default: Option<usize>, shift: usize) -> Option<Kind> {
    let period = number(config, key).or(default).filter(|&period| period > 0)?;
    Some(every(period, shift))
}

fn offset(config: &Object, period: &str, offset: &str, jamba: (usize, usize)) -> Option<Kind> {
    let default = is_of(config, &["jamba"]).then_some(jamba);
    let period = number(config, period).or(default.map(|it| it.0)).filter(|&period| period > 0)?;
    let offset = number(config, offset).or(default.map(|it| it.1)).unwrap_or(0);
    Some(Box::new(move |i| i % period == offset))
}

fn below(config: &Object, key: &str) -> Option<Kind> {
    let bound = number(config, key)?;
    Some(Box::new(move |i| i < bound))
}

fn cycle(pattern: Vec<bool>) -> Option<Kind> {
    let len = Some(pattern.len()).filter(|&len| len > 0)?;
    Some(Box::new(move |i| pattern[i % len]))
}
