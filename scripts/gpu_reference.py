"""transformers' own figures beside `gpu_parity`'s: a dtype on the GPU against f32 on the processor.

    python3 scripts/gpu_reference.py MODEL IDS.json f16 bf16

A line of JSON for each dtype and attention, with gpu_parity's keys.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def logits(model, ids, device, dtype, attention):
    model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        return model.to(device)(torch.tensor([ids], device=device)).logits[0].double().cpu()


def main():
    model, ids, *dtypes = sys.argv[1:]
    with open(ids) as file:
        ids = json.load(file)
    expected = logits(model, ids, "cpu", torch.float32, "eager")
    p = expected.log_softmax(-1)
    for name in dtypes:
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[name]
        for attention in ["eager", "sdpa"]:
            found = logits(model, ids, "cuda", dtype, attention)
            kl = (p.exp() * (p - found.log_softmax(-1))).sum(-1)
            differs = expected.argmax(-1) != found.argmax(-1)
            best = expected.topk(2).values
            print(json.dumps({
                "run": f"transformers {name} {attention}",
                "positions": len(ids),
                "mean_kl": kl.mean().item(),
                "max_kl": kl.max().item(),
                "top1": 1 - differs.double().mean().item(),
                "gaps_where_not": (best[:, 0] - best[:, 1])[differs].tolist(),
                "max_abs": (expected - found).abs().max().item(),
            }), flush=True)


main()
