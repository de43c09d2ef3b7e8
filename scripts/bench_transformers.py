"""transformers beside `infer bench`: times a model of random weights, by its config.

    python3 scripts/bench_transformers.py < request.json

`infer bench --compare` sends the request: a config, a device and a dtype as PyTorch calls them, and what to
measure, as in

    {"config": {"model_type": "llama", ...}, "device": "cuda:0", "dtype": "bfloat16",
     "rows": [{"what": "prefill", "num_tokens": 512, "context": 0, "batch": 1},
              {"what": "decode", "num_tokens": 64, "context": 128, "batch": 1}],
     "repeats": 3}

The answer has the versions, and the seconds of each row, the median. Attention is SDPA, the cache is
transformers' own dynamic one, and the best token is taken on the device.
"""

import contextlib
import copy
import json
import statistics
import sys
import time

try:
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"python3 has no transformers: {error}")


def answer(request):
    config = dict(request["config"])
    if "model_type" not in config:
        sys.exit("config.json has no model_type")
    config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    device, dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
    with device, torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa").eval()
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def tokens(batch, number):
        ids = torch.arange(batch * number, device=device) * 7919 + 13
        return (ids % config.vocab_size).reshape(batch, number)

    def prefill(batch, number):
        output = model(tokens(batch, number), use_cache=True, logits_to_keep=1)
        return output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)

    def decode(cache, last, steps):
        for _ in range(steps):
            output = model(last, past_key_values=cache, use_cache=True)
            last = output.logits[:, -1].argmax(-1, keepdim=True)

    def seconds(row):
        batch, number = row["batch"], row["num_tokens"]
        held = prefill(batch, row["context"]) if row["what"] == "decode" else None
        times = []
        # The first is not counted: it pays for what is made once.
        for _ in range(request["repeats"] + 1):
            start = copy.deepcopy(held)
            synchronize()
            begin = time.perf_counter()
            if start is None:
                prefill(batch, number)
            else:
                decode(*start, number)
            synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:])

    with torch.no_grad():
        rows = [{**row, "seconds": seconds(row)} for row in request["rows"]]
    return {"transformers": transformers.__version__, "torch": torch.__version__, "rows": rows}


# Libraries print there, too.
with contextlib.redirect_stdout(sys.stderr):
    answered = answer(json.load(sys.stdin))
json.dump(answered, sys.stdout)
