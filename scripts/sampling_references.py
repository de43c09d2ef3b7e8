#!/usr/bin/env python3
"""Records what transformers leaves of some logits, for crates/infer/tests/sampling.rs.

    python3 scripts/sampling_references.py > crates/infer/tests/data/sampling.json

Each case is a set of sampling options; the processors are those that `generate` builds of them, in
its order, with sampling on. Recorded are the probabilities of the tokens that are left.
Needs torch and transformers (made with 2.15 and 5.23).
"""

import json
import sys

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

CASES = [
    dict(),
    dict(temperature=0.7),
    dict(top_k=5),
    dict(top_p=0.6),
    dict(top_p=0.05),
    dict(min_p=0.2),
    dict(typical_p=0.5),
    dict(typical_p=0.2, temperature=1.7),
    dict(repetition_penalty=1.4),
    dict(repetition_penalty=0.8, temperature=0.5, top_k=7),
    dict(temperature=1.5, top_k=12, top_p=0.9, min_p=0.1, typical_p=0.8, repetition_penalty=1.2),
    dict(temperature=0.6, top_k=20, top_p=0.5, min_p=0.3),
    dict(sequence_bias=[[[3], 2.5], [[7], -4.0]], top_k=4),
    dict(suppress_tokens=[30, 11, 38], sequence_bias=[[[11], 50.0]], repetition_penalty=1.3, top_k=6),
]


def main():
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1, vocab_size=40))
    logits = torch.round(torch.randn(40) * 2 * 1000) / 1000
    logits[11] = logits[30]  # a tie
    prompt = [3, 3, 11, 25]
    cases = []
    for case in CASES:
        options = dict(case)
        options.setdefault("top_k", 0)
        config = GenerationConfig(do_sample=True, **options)
        processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt))
        scores = processors(torch.tensor([prompt]), logits.clone()[None])[0]
        probabilities = scores.softmax(-1)
        left = [[i, round(probabilities[i].item(), 7)] for i in range(40) if scores[i] > -1e30]
        cases.append({"options": options, "left": left})
    json.dump({"made_with": f"transformers {transformers.__version__}", "prompt": prompt,
               "logits": [round(x, 3) for x in logits.tolist()], "cases": cases}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
