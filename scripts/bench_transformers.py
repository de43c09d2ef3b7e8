"""transformers beside `infer bench`: times a model of random weights, by its config.

    python3 scripts/bench_transformers.py < request.json

`infer bench --compare` sends the request: a config, a device and a dtype as PyTorch calls them, and what to
measure, as in

    {"config": {"model_type": "llama", ...}, "device": "cuda:0", "dtype": "bfloat16",
     "rows": [{"what": "prefill", "num_tokens": 512, "context": 0, "batch": 1},
              {"what": "decode", "num_tokens": 64, "context": 128, "batch": 1}],
     "repeats": 3, "compile": false}

The answer has the versions, and the seconds of each row, the median. Attention is SDPA, the cache is
transformers' own dynamic one, and the best token is taken on the device.

With "compile" decoding at batch 1 is timed with a static cache and a compiled step as well, and a row has
`compiled_seconds`, or the answer says in `not_compiled` why none has. One static cache, as long as the longest
row needs, serves all rows: the step is compiled once. A step attends to the whole of it.
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

    def prefill(batch, number, cache=None):
        output = model(
            tokens(batch, number), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)

    def decode(cache, last, steps, step=model):
        for _ in range(steps):
            output = step(last, past_key_values=cache, use_cache=True)
            last = output.logits[:, -1].argmax(-1, keepdim=True)

    def median(prepare, work):
        times = []
        # The first is not counted: it pays for what is made once.
        for _ in range(request["repeats"] + 1):
            prepared = prepare()
            synchronize()
            begin = time.perf_counter()
            work(*prepared)
            synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median_high(times[1:])

    def seconds(row):
        batch, number = row["batch"], row["num_tokens"]
        if row["what"] == "prefill":
            return median(tuple, lambda: prefill(batch, number))
        held = prefill(batch, row["context"])
        return median(lambda: copy.deepcopy(held), lambda cache, last: decode(cache, last, number))

    def add_compiled_seconds(rows):
        rows = [row for row in rows if row["what"] == "decode" and row["batch"] == 1]
        num_warm_up = 4  # The first compiles, the next ones record the graph.
        length = max(row["context"] + max(row["num_tokens"], num_warm_up) for row in rows)
        cache = transformers.StaticCache(config=config, max_cache_len=length)
        step = torch.compile(model.__call__, mode="reduce-overhead", fullgraph=True)

        def prefilled(row):
            cache.reset()
            return cache, prefill(1, row["context"], cache)[1]

        decode(*prefilled(rows[0]), num_warm_up, step)
        for row in rows:
            row["compiled_seconds"] = median(
                lambda: prefilled(row), lambda cache, last: decode(cache, last, row["num_tokens"], step))

    with torch.no_grad():
        rows = [{**row, "seconds": seconds(row)} for row in request["rows"]]
        not_compiled = None
        if request["compile"]:
            try:
                if device.type != "cuda":
                    raise NotImplementedError("it is for GPUs by CUDA")
                add_compiled_seconds(rows)
            except Exception as error:
                # What was timed before is not lost for a compiler that is not there.
                not_compiled = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {**versions, "rows": rows, "not_compiled": not_compiled}


# Libraries print there, too.
with contextlib.redirect_stdout(sys.stderr):
    answered = answer(json.load(sys.stdin))
json.dump(answered, sys.stdout)
