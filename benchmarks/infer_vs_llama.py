#!/usr/bin/env python3
"""Tokens a second of `infer` and llama.cpp on the CPU, side by side.

    cargo build --release -p infer
    python3 benchmarks/infer_vs_llama.py MODEL.gguf [MODEL.gguf=FOLDER …]

Needs the package llama-cpp-python. Both get the same token ids and the same number of threads, one
after the other in each round, and the medians over the rounds are compared: a machine that others
use too is slow for both. llama.cpp's threads spin while they wait for each other, which costs it
most when others use the cores; so the best rounds of both are compared as well. What stands behind `=` is what `infer` runs instead of the GGUF file.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

import llama_cpp

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATES = re.compile(r"prefill \d+ tokens at ([\d.]+)/s(?:, decode \d+ tokens at ([\d.]+)/s)?")


class Llama:
    """llama.cpp, by its C functions: nothing of Python's runs within a token but a call."""

    def __init__(self, path, threads, positions, batch):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_load_model_from_file(path.encode(), params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = positions, batch, batch
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_new_context_with_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.num_tokens = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def decode(self, ids):
        array = (llama_cpp.llama_token * len(ids))(*ids)
        batch = llama_cpp.llama_batch_get_one(array, len(ids))
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp failed")
        return llama_cpp.llama_get_logits_ith(self.context, -1)

    def best(self, logits):
        import numpy

        return int(numpy.ctypeslib.as_array(logits, (self.num_tokens,)).argmax())

    def rates(self, prompt, num_new):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        begin = time.perf_counter()
        token = self.best(self.decode(prompt))
        prefill = len(prompt) / (time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(num_new):
            token = self.best(self.decode([token]))
        return prefill, num_new / (time.perf_counter() - begin)


def infer(binary, model, prompt, num_new, threads, extra):
    ids = ",".join(map(str, prompt))
    command = [binary, "generate", model, "--ids", ids, "--max-new-tokens", str(num_new + 1)]
    # Ends of text must not end a round early.
    for eos in (0, 2):
        command += ["--logit-bias", f"{eos}=-1000"]
    done = subprocess.run(
        command + extra,
        env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    found = RATES.search(done.stderr)
    if done.returncode != 0 or not found:
        raise SystemExit(f"infer failed: {done.stderr}")
    return float(found[1]), float(found[2] or "nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="a GGUF file, or FILE=MODEL")
    parser.add_argument("--infer", default=os.path.join(ROOT, "target/release/infer"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens behind it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", help="passed on to infer")
    args = parser.parse_args()
    extra = ["--dtype", args.dtype] if args.dtype else []
    # Any tokens do: what they are does not matter to the time.
    prompt = [(7919 * i + 13) % 32000 + 100 for i in range(args.prompt)]
    llama_cpp.llama_backend_init()
    # Nothing of its log is wanted; the callback must live as long as the library is used.
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, None)
    print(f"llama-cpp-python {llama_cpp.__version__}, {args.threads} threads")
    print(llama_cpp.llama_print_system_info().decode())
    for model in args.models:
        path, _, other = model.partition("=")
        llama = Llama(path, args.threads, args.prompt + args.new + 8, args.prompt)
        theirs, ours = [], []
        for number in range(args.rounds + 1):
            found = llama.rates(prompt, args.new)
            own = infer(args.infer, other or path, prompt, args.new, args.threads, extra)
            rounded = [f"{rate:.1f}" for rate in (*own, *found)]
            print(f"round {number}: infer {rounded[:2]}, llama.cpp {rounded[2:]}", file=sys.stderr)
            # The first round brings the files into memory.
            if number > 0:
                theirs.append(found)
                ours.append(own)
        report = {"model": other or path, "rounds": args.rounds}
        for i, what in enumerate(["prefill", "decode"]):
            pairs = [(own[i], found[i]) for own, found in zip(ours, theirs)]
            report[what] = {
                "infer": round(statistics.median(own for own, _ in pairs), 1),
                "llama.cpp": round(statistics.median(found for _, found in pairs), 1),
                "ratio": round(statistics.median(own / found for own, found in pairs), 2),
                "ratio of bests": round(
                    max(own for own, _ in pairs) / max(found for _, found in pairs), 2
                ),
            }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
