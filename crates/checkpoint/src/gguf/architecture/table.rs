//! The table: architecture by architecture, what differs from Llama.

use super::{Architecture, Biases, Change, Heads, Model, Pair, QueryScale, Window};

const fn same(gguf: &'static str, hf: &'static str) -> Pair {
    Pair { gguf, hf, change: Change::None, bias: false }
}

const fn plus_one(gguf: &'static str, hf: &'static str) -> Pair {
    Pair { change: Change::PlusOne, ..same(gguf, hf) }
}

const fn interleaved(gguf: &'static str, hf: &'static str, heads: Heads) -> Pair {
    Pair { change: Change::Interleaved(heads), ..same(gguf, hf) }
}

/// It may have a bias too.
const fn biased(pair: Pair) -> Pair {
    Pair { bias: true, ..pair }
}

/// The projections of attention, that of its output last.
const ATTENTION: [&str; 4] =
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];

pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    models: &[
        Model {
            model_type: "llama",
            class: "LlamaForCausalLM",
            biases: &[
                Biases { key: Some("attention_bias"), modules: &ATTENTION },
                Biases {
                    key: Some("mlp_bias"),
                    modules: &["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
                },
            ],
        },
        Model { model_type: "mistral", class: "MistralForCausalLM", biases: &[] },
    ],
    globals: &[
        same("token_embd", "model.embed_tokens"),
        same("output_norm", "model.norm"),
        same("output", "lm_head"),
    ],
    layer: &[
        same("attn_norm", "input_layernorm"),
        biased(interleaved("attn_q", "self_attn.q_proj", Heads::Queries)),
        biased(interleaved("attn_k", "self_attn.k_proj", Heads::KeysValues)),
        biased(same("attn_v", "self_attn.v_proj")),
        biased(same("attn_output", "self_attn.o_proj")),
        same("ffn_norm", "post_attention_layernorm"),
        biased(same("ffn_gate", "mlp.gate_proj")),
        biased(same("ffn_up", "mlp.up_proj")),
        biased(same("ffn_down", "mlp.down_proj")),
    ],
    activation: ("hidden_act", "silu"),
    states_head_dim: true,
    states_vocab_size: true,
    default_rope_theta: 10_000.0,
    local_rope_theta: None,
    writes_rope_theta: true,
    rope_types: &["linear", "yarn", "llama3"],
    window: Window::Ignored,
    softcaps: &[],
    query_scale: None,
};

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    models: &[Model {
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        biases: &[Biases { key: None, modules: ATTENTION.split_at(3).0 }],
    }],
    layer: &[
        same("attn_norm", "input_layernorm"),
        biased(same("attn_q", "self_attn.q_proj")),
        biased(same("attn_k", "self_attn.k_proj")),
        biased(same("attn_v", "self_attn.v_proj")),
        same("attn_output", "self_attn.o_proj"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
    ],
    states_head_dim: false,
    states_vocab_size: false,
    rope_types: &["linear", "yarn"],
    window: Window::Gated,
    ..LLAMA
};

const QWEN3: Architecture = Architecture {
    name: "qwen3",
    models: &[Model { model_type: "qwen3", class: "Qwen3ForCausalLM", biases: &[] }],
    layer: &[
        same("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        same("attn_q_norm", "self_attn.q_norm"),
        same("attn_k", "self_attn.k_proj"),
        same("attn_k_norm", "self_attn.k_norm"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_output", "self_attn.o_proj"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
    ],
    states_head_dim: true,
    ..QWEN2
};

/// Its loader always takes the embeddings as the output matrix.
pub(super) const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    models: &[Model { model_type: "gemma2", class: "Gemma2ForCausalLM", biases: &[] }],
    globals: &[same("token_embd", "model.embed_tokens"), plus_one("output_norm", "model.norm")],
    layer: &[
        plus_one("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        same("attn_k", "self_attn.k_proj"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_output", "self_attn.o_proj"),
        plus_one("post_attention_norm", "post_attention_layernorm"),
        plus_one("ffn_norm", "pre_feedforward_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
        plus_one("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    states_vocab_size: false,
    writes_rope_theta: false,
    rope_types: &[],
    window: Window::Period { layers: 2, default: Some(4096) },
    softcaps: &[("attn_logit_softcapping", Some(50.0)), ("final_logit_softcapping", Some(30.0))],
    query_scale: Some(QueryScale { layers_of_the_largest: 46 }),
    ..LLAMA
};

const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    models: &[Model { model_type: "gemma3_text", class: "Gemma3ForCausalLM", biases: &[] }],
    globals: &[
        same("token_embd", "model.embed_tokens"),
        plus_one("output_norm", "model.norm"),
        same("output", "lm_head"),
    ],
    layer: &[
        plus_one("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        plus_one("attn_q_norm", "self_attn.q_norm"),
        same("attn_k", "self_attn.k_proj"),
        plus_one("attn_k_norm", "self_attn.k_norm"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_output", "self_attn.o_proj"),
        plus_one("post_attention_norm", "post_attention_layernorm"),
        plus_one("ffn_norm", "pre_feedforward_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
        plus_one("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    default_rope_theta: 1_000_000.0,
    local_rope_theta: Some(10_000.0),
    writes_rope_theta: true,
    rope_types: &["linear"],
    window: Window::Period { layers: 6, default: None },
    softcaps: &[("final_logit_softcapping", None)],
    query_scale: Some(QueryScale { layers_of_the_largest: 62 }),
    ..GEMMA2
};

const PHI3: Architecture = Architecture {
    name: "phi3",
    models: &[Model { model_type: "phi3", class: "Phi3ForCausalLM", biases: &[] }],
    layer: &[
        same("attn_norm", "input_layernorm"),
        same("attn_qkv", "self_attn.qkv_proj"),
        same("attn_output", "self_attn.o_proj"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_up", "mlp.gate_up_proj"),
        same("ffn_down", "mlp.down_proj"),
    ],
    states_head_dim: false,
    states_vocab_size: false,
    rope_types: &["longrope"],
    window: Window::Noted,
    ..LLAMA
};

pub(super) const ARCHITECTURES: &[Architecture] = &[LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3];
