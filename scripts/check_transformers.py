#!/usr/bin/env python3
"""Checks a built model against transformers running the base's own layers in the plan's order.

    python3 scripts/check_transformers.py BASE BUILT --plan '0..24 + 8..32'
    python3 scripts/check_transformers.py BASE BUILT --layers 0-23,8-31 --text passage.txt
    python3 scripts/check_transformers.py BASE BUILT --plan 0..32 --identity      LLaMA Pro

The plan is given again, on purpose: nothing that the build wrote about itself is believed. `--plan`
takes half-open ranges and single layers joined by `+`, each in brackets with `*k` if it is repeated;
`--layers` takes ranges with both ends, joined by commas. Operations are not known here: a
plan whose other layers are meant to do nothing (zero o_proj and down_proj) is checked by naming the
layers that are left and adding `--identity`.

What must hold, or the exit code is 1:

    - BUILT loads with AutoModelForCausalLM, no weight is missing, unexpected or of a wrong shape
    - it has as many layers as the plan (more with --identity)
    - its logits are those of the base's layers called in the plan's order, in float32 on the CPU
      with eager attention, to the last bit (or within --tolerance)
    - its tokenizer loads and gives the base's ids

Sequences are random ids of several lengths and one text. Where both models have the same sliding
window, some are longer than it; where BUILT has none, they end at the window, which is as far as the
two are the same function. Where BUILT is stored in another type than BASE, the base's weights are
rounded to that type first.

The models are loaded one after the other in float32: four bytes a parameter of memory.
Needs torch and transformers (made with 2.15 and 5.23). Exit codes: 0 equal, 1 not, 2 could not check.
"""

import argparse
import copy
import gc
import math
import re
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "In the beginning God created the heaven and the earth."


def main():
    args = parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    failures = []

    def check(ok, text):
        print(f"{'ok  ' if ok else 'FAIL'}  {text}")
        if not ok:
            failures.append(text)

    base, _ = load(args.base)
    num_layers = base.config.num_hidden_layers
    if not args.layers or max(args.layers) >= num_layers:
        print(f"error: the plan goes past the {num_layers} layers of {args.base}", file=sys.stderr)
        sys.exit(2)
    base_config = base.config
    tokenizer = load_tokenizer(args.base)
    text_ids = ids_of(tokenizer, args.text) if args.text else None

    # The built model's configuration is needed for the lengths; its weights are not, yet.
    built_config = transformers.AutoConfig.from_pretrained(args.built)
    prompts = sequences(base_config, built_config, tokenizer)
    before, after = stored_type(args.base), stored_type(args.built)
    if before != after:
        print(f"note  stored as {after}, the base as {before}: the base's weights are rounded likewise")
        for weight in base.parameters():  # not the buffers: RoPE's frequencies are computed, not stored
            weight.data = weight.data.to(after).float()
    restack(base, args.layers)
    expected = [logits(base, ids) for ids in prompts]
    expected_nats = nats(base, text_ids, built_config) if text_ids else None
    del base
    gc.collect()

    built, info = load(args.built)
    problems = {key: value for key, value in info.items() if value}
    check(not problems, f"loads as {type(built).__name__}: {problems or 'every weight in its place'}")
    depth, planned = built.config.num_hidden_layers, len(args.layers)
    if args.identity:
        check(depth > planned, f"{depth} layers, {planned} of them planned, the others identities")
    else:
        check(depth == planned, f"{depth} layers, {planned} planned")

    worst = 0.0
    for ids, wanted in zip(prompts, expected):
        found = logits(built, ids)
        difference = (found - wanted).abs().max().item() if found.shape == wanted.shape else math.inf
        worst = max(worst, difference) if not math.isnan(difference) else math.nan
        bits = "bit-equal" if torch.equal(found, wanted) else f"{difference:.3g}"
        print(f"      {len(ids):5} tokens: logits {bits}")
    check(worst <= args.tolerance, f"maximum absolute difference of the logits: {worst:.6g}")

    built_tokenizer = load_tokenizer(args.built)
    check(
        (tokenizer is None) == (built_tokenizer is None)
        and ids_of(tokenizer, TEXT) == ids_of(built_tokenizer, TEXT),
        "tokenizer: none in either" if tokenizer is None else "the tokenizer gives the base's ids",
    )
    if built_tokenizer is not None:
        print("\n" + generate(built, built_tokenizer, args.prompt))
    if text_ids:
        found_nats = nats(built, text_ids, built_config)
        for name, value in (("base's layers", expected_nats), ("built", found_nats)):
            per_token = value / (len(text_ids) - 1)
            print(f"{name}: {per_token:.5f} nats a token, perplexity {math.exp(per_token):.4f}")

    print(f"\n{'not equal' if failures else 'equal'}: {args.built}")
    sys.exit(1 if failures else 0)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=folder)
    parser.add_argument("built", type=folder)
    plan = parser.add_mutually_exclusive_group(required=True)
    plan.add_argument("--plan", dest="layers", type=plan_layers, metavar="0..24+8..32")
    plan.add_argument("--layers", dest="layers", type=list_layers, metavar="0-23,8-31")
    parser.add_argument("--identity", action="store_true", help="BUILT's other layers do nothing")
    parser.add_argument("--tolerance", type=float, default=0.0, metavar="X", help="default: 0")
    parser.add_argument("--prompt", default="In the beginning", help="to generate 20 tokens from")
    parser.add_argument("--text", type=Path, metavar="FILE", help="report the perplexity of it too")
    return parser.parse_args()


def folder(text):
    if not (Path(text) / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"no config.json in {text}")
    return text


def plan_layers(text):
    """`0..24 + (8..16)*2 + 31` as a list of layers."""
    layers = []
    for term in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"\(?(\d+)(?:\.\.(\d+))?\)?(?:\*(\d+))?", term)
        if match is None:
            raise argparse.ArgumentTypeError(f"`{term}` is not a range, a layer or (range)*count")
        first, end, count = match.groups()
        part = range(int(first), int(end or int(first) + 1))
        layers += list(part) * int(count or 1)
    return layers


def list_layers(text):
    """`0-23,8-31` as a list of layers, both ends of a range included."""
    layers = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        layers += range(int(first), int(last or first) + 1)
    return layers


def load(path):
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), info


def load_tokenizer(path):
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((Path(path) / name).exists() for name in names):
        return None
    return AutoTokenizer.from_pretrained(path)


def ids_of(tokenizer, text):
    if tokenizer is None:
        return None
    text = text.read_text(encoding="utf-8") if isinstance(text, Path) else text
    return tokenizer(text).input_ids


def stored_type(path):
    """The type that config.json names; a loaded model's configuration names that of the arithmetic."""
    return getattr(transformers.AutoConfig.from_pretrained(path), "dtype", None) or torch.float32


def restack(model, layers):
    """Puts the model's own layer modules in the order of the plan; a layer used twice is one module.

    No key-value cache is used, so the layers need no number of their own. What the configuration says
    of each layer follows it.
    """
    stack = model.model.layers
    model.config = copy.deepcopy(model.config)
    model.model.config = model.config
    kinds = getattr(model.config, "layer_types", None)
    model.model.layers = torch.nn.ModuleList([stack[i] for i in layers])
    if kinds:
        model.config.layer_types = [kinds[i] for i in layers]
    model.config.num_hidden_layers = len(layers)


@torch.no_grad()
def logits(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]  # (seq, vocab)


def window_of(config):
    return getattr(config, "sliding_window", None)


def sequences(base, built, tokenizer):
    """Lists of token ids: short ones, one that fills the window, and longer ones if they may be."""
    longest = min(base.max_position_embeddings, built.max_position_embeddings)
    window = window_of(base)
    if window and window_of(built) != window:
        longest = min(longest, window)
    lengths = {1, 2, 7, 64, 200}
    if window and window < 1024:
        lengths |= {window - 1, window, window + 1, window + window // 2, 3 * window}
    else:
        lengths |= {512}
    vocab = min(base.vocab_size, built.vocab_size)
    random = [
        torch.randint(0, vocab, (n,)).tolist() for n in sorted(lengths) if 0 < n <= longest
    ]
    text = ids_of(tokenizer, TEXT)
    return random + ([text] if text else [])


def generate(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=20, do_sample=False, attention_mask=torch.ones_like(ids))
    return f"greedy: {prompt!r} -> {tokenizer.decode(out[0, ids.shape[1] :])!r}"


def nats(model, ids, config):
    """-log p summed over every token after the first, each predicted once.

    Windows lie side by side and overlap by the one token that opens the next; so the first tokens of
    a window have little context, and the sum is an upper bound of what striding would give.
    """
    window = min(config.max_position_embeddings, 2048)
    total = 0.0
    for start in range(0, len(ids) - 1, window - 1):
        piece = ids[start : start + window]
        scores = torch.log_softmax(logits(model, piece[:-1]).double(), dim=-1)
        total -= scores.gather(1, torch.tensor(piece[1:])[:, None]).sum().item()
    return total


if __name__ == "__main__":
    main()
