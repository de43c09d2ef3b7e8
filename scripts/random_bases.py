#!/usr/bin/env python3
"""Writes small random models of several families with transformers, to be up-scaled and checked.

    python3 scripts/random_bases.py DIR
    for base in DIR/*; do
        dus build $base --layers '0..4 + 2..6' -o $base-deeper
        python3 scripts/check_transformers.py $base $base-deeper --plan '0..4 + 2..6'
    done

Each has six layers. Needs torch and transformers (made with 2.15 and 5.23).
"""

import sys
from pathlib import Path

import torch
import transformers

SHAPE = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS = {
    "llama": transformers.LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=24),
    "olmo2": transformers.Olmo2Config(**SHAPE),
    "gemma2": transformers.Gemma2Config(**SHAPE, head_dim=16),
    "smollm3": transformers.SmolLM3Config(**SHAPE),
    "phi3": transformers.Phi3Config(**SHAPE),
    "mixtral": transformers.MixtralConfig(**SHAPE, num_local_experts=4),
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.manual_seed(0)
    for name, config in CONFIGS.items():
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(Path(sys.argv[1]) / name)
        print(name)


if __name__ == "__main__":
    main()
