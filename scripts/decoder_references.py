#!/usr/bin/env python3
"""Records what transformers computes with tiny models, for crates/infer/tests/parity/families.rs.

    python3 scripts/decoder_references.py > crates/infer/tests/data/families.json

The weights of a tiny model follow from its tensors' names (`testkit::Tensor::random`, written again
here), so that none need be kept. For each model: `config.json`, names and shapes of the tensors, ids,
and the logits behind some of them, in f32 on the CPU with eager attention; some sequences are longer
than the window. Besides, the rotary frequencies of some published configs.

Needs torch and transformers (made with 2.15 and 5.23).
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

MASK = (1 << 64) - 1
POSITIONS = [0, 4, 5, 23]
TINY = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=40, max_position_embeddings=64, rms_norm_eps=1e-5,
            pad_token_id=0, bos_token_id=1, eos_token_id=2)


def rope(**keys):
    return dict(rope_theta=10000.0, **keys)


MODELS = {
    "llama": ("Llama", dict(TINY)),
    "llama-biased-tied": ("Llama", dict(TINY, attention_bias=True, mlp_bias=True,
                                        tie_word_embeddings=True)),
    "llama-wide-heads": ("Llama", dict(TINY, head_dim=12, num_key_value_heads=1)),
    "llama-linear": ("Llama", dict(TINY, rope_parameters=rope(rope_type="linear", factor=4.0))),
    "llama-llama3": ("Llama", dict(TINY, rope_parameters=rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "llama-yarn": ("Llama", dict(TINY, rope_parameters=rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16))),
    "llama-yarn-mscale": ("Llama", dict(TINY, rope_parameters=rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.707,
        mscale_all_dim=1.2, beta_fast=16, beta_slow=2, truncate=False))),
    "mistral": ("Mistral", dict(TINY, sliding_window=5, head_dim=16)),
    "mistral-no-window": ("Mistral", dict(TINY, sliding_window=None)),
    "qwen2": ("Qwen2", dict(TINY)),
    "qwen2-window": ("Qwen2", dict(TINY, use_sliding_window=True, sliding_window=5,
                                   max_window_layers=2)),
    "qwen3": ("Qwen3", dict(TINY, head_dim=12, tie_word_embeddings=True)),
    "qwen3-layer-types": ("Qwen3", dict(TINY, head_dim=8, attention_bias=True,
                                        use_sliding_window=True, sliding_window=5, layer_types=[
                                            "sliding_attention", "full_attention",
                                            "full_attention", "sliding_attention"])),
}

# Rotary keys as published: Llama 3.1, Qwen2.5 with its long contexts, and shapes of others.
FREQUENCIES = {
    "mistral-7b": dict(head_dim=128, max_position_embeddings=32768, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0)),
    "smollm2": dict(head_dim=64, max_position_embeddings=8192, rope_parameters=dict(
        rope_type="default", rope_theta=100000.0)),
    "linear": dict(head_dim=128, max_position_embeddings=16384, rope_parameters=dict(
        rope_type="linear", rope_theta=10000.0, factor=4.0)),
    "llama-3.1": dict(head_dim=128, max_position_embeddings=131072, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=8192)),
    "qwen2.5-yarn": dict(head_dim=128, max_position_embeddings=131072, rope_parameters=dict(
        rope_type="yarn", rope_theta=1000000.0, factor=4.0,
        original_max_position_embeddings=32768)),
    "yarn-mscale": dict(head_dim=64, max_position_embeddings=163840, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=40.0, original_max_position_embeddings=4096,
        mscale=0.707, mscale_all_dim=1.0, beta_fast=32, beta_slow=1)),
    "yarn-attention-factor": dict(head_dim=64, max_position_embeddings=131072,
                                  rope_parameters=dict(
                                      rope_type="yarn", rope_theta=150000.0, factor=32.0,
                                      original_max_position_embeddings=4096, truncate=False,
                                      attention_factor=1.1)),
}


def numbers(name, count):
    """SplitMix64 seeded by FNV-1a of `name`: multiples of 1/4096 from -1/4 to 1/4."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    for _ in range(count):
        state = state + 0x9E3779B97F4A7C15 & MASK
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        yield ((z ^ z >> 31) % 2048 - 1024) / 4096


def record(family, keys):
    config = getattr(transformers, f"{family}Config")(**keys, attn_implementation="eager")
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    shapes = {}
    for name, parameter in model.named_parameters():  # a tied head is not among them
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        values = [mean + x for x in numbers(name, parameter.numel())]
        parameter.data = torch.tensor(values).reshape(parameter.shape)
        shapes[name] = list(parameter.shape)
    ids = [(7 * i * i + 3 * i + 1) % TINY["vocab_size"] for i in range(24)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    with tempfile.TemporaryDirectory() as out:
        config.architectures = [f"{family}ForCausalLM"]
        config.save_pretrained(out)
        saved = json.loads((Path(out) / "config.json").read_text())
    return {
        "config": saved,
        "tensors": shapes,
        "ids": ids,
        "logits": {position: [round(x, 5) for x in logits[position].tolist()]
                   for position in POSITIONS},
    }


def frequencies(keys):
    config = transformers.LlamaConfig(hidden_size=keys["head_dim"] * 2, num_attention_heads=2, **keys)
    kind = keys["rope_parameters"]["rope_type"]
    if kind == "default":
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
        found, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        found, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    angles = 4095.0 * found
    return {
        "config": keys,
        "inverse_frequencies": [float(f"{x:.9g}") for x in found.tolist()],
        "attention_factor": factor,
        "cos_at_4095": [round(x, 6) for x in (angles.cos() * factor).tolist()],
        "sin_at_4095": [round(x, 6) for x in (angles.sin() * factor).tolist()],
    }


def main():
    transformers.utils.logging.set_verbosity_error()
    out = {
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, "
                     "float32 on the CPU, eager attention",
        "models": {name: record(*model) for name, model in MODELS.items()},
        "frequencies": {name: frequencies(keys) for name, keys in FREQUENCIES.items()},
    }
    # A line for each list of numbers, so that changes can be read.
    def lines(value, depth=0):
        pad = " " * depth
        if isinstance(value, dict) and value:
            inner = ",\n".join(f'{pad} {json.dumps(str(k))}: {lines(v, depth + 1)}' for k, v in value.items())
            return "{\n" + inner + "\n" + pad + "}"
        return json.dumps(value)
    sys.stdout.write(lines(out) + "\n")


if __name__ == "__main__":
    main()
