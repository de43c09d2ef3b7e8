#!/usr/bin/env python3
"""Checks GGUF files against a folder of the same model: equal token ids, like logits.

    python3 scripts/check_gguf.py FOLDER FILE.gguf... --text passage.txt

FOLDER is run by transformers in float32 on the CPU and is what the files are held against. Each file
is run by

    - transformers, through `gguf_file=`, which decodes it to float32: logits within --tolerance of
      the folder's (0.001), if the folder was made of the same weights; --tolerance inf where it was not
    - llama.cpp, through llama-cpp-python, which computes with the quantised weights: perplexity
      within --perplexity (a ratio, 1.02), and the same best token at --agreement (0.9) of the places.
      Where a file is in F32 nothing but the order of sums differs, and its perplexity within 1.001

and llama.cpp must make of the text the ids that FOLDER's tokenizer makes. Only the first --tokens (512)
ids of the text are run.

Needs torch, transformers, gguf and llama-cpp-python (made with 2.15, 5.23, 0.19 and 0.3.36). Exit codes:
0 alike, 1 not, 2 could not check.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    args = parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failures = []

    def check(ok, text):
        print(f"{'ok  ' if ok else 'FAIL'}  {text}")
        if not ok:
            failures.append(text)

    text = args.text.read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    all_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = all_ids[: args.tokens]
    expected = run_transformers(ids, args.folder)
    print(f"note  {args.folder}: perplexity {perplexity(expected, ids):.4f} on {len(ids)} tokens")

    for file in args.files:
        if not args.skip_transformers:
            found = run_transformers(ids, file.parent, gguf_file=file.name)
            apart = float(np.abs(found - expected).max())
            check(
                apart <= args.tolerance,
                f"{file} in transformers: logits {apart:.2e} apart, "
                f"perplexity {perplexity(found, ids):.4f}",
            )
        found, found_ids = run_llama_cpp(ids, file, text)
        check(found_ids == all_ids, f"{file} in llama.cpp: {len(all_ids)} equal token ids")
        ratio = perplexity(found, ids) / perplexity(expected, ids)
        agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        check(
            1 / args.perplexity <= ratio <= args.perplexity and agreement >= args.agreement,
            f"{file} in llama.cpp: perplexity {perplexity(found, ids):.4f}, "
            f"{ratio:.4f} of the folder's; the best token agrees at {agreement:.1%}",
        )
    if failures:
        print(f"{len(failures)} of the checks failed")
        sys.exit(1)


def run_transformers(ids, model, **how):
    """The logits at each position, [tokens, vocabulary], in float64."""
    model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, **how).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def run_llama_cpp(ids, file, text):
    """The same by llama.cpp, and the ids that it makes of `text`."""
    from llama_cpp import Llama

    length = len(ids)
    model = Llama(str(file), n_ctx=length, n_batch=length, logits_all=True, verbose=False)
    text_ids = model.tokenize(text.encode(), add_bos=False, special=True)
    model.eval(ids)
    return np.array(model.scores[:length], dtype=np.float64), text_ids


def perplexity(logits, ids):
    """Of every token after the first, given those before it."""
    largest = logits.max(1, keepdims=True)
    log_sums = np.log(np.exp(logits - largest).sum(1, keepdims=True)) + largest
    log_probs = logits - log_sums
    return math.exp(-np.mean([log_probs[i, following] for i, following in enumerate(ids[1:])]))


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--perplexity", type=float, default=1.02)
    parser.add_argument("--agreement", type=float, default=0.9)
    parser.add_argument("--skip-transformers", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
