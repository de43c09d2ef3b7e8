#!/usr/bin/env python3
"""Writes a checkpoint with the names, shapes and layout of Mistral-7B-v0.1 and made-up weights.

    python3 benchmarks/synthetic_mistral.py --out DIR                     14.5 GB, as the official one
    python3 benchmarks/synthetic_mistral.py --out DIR --preset 1gb
    python3 benchmarks/synthetic_mistral.py --out DIR --layers 8 --hidden 512 --intermediate 1792 \\
        --heads 8 --kv-heads 2 --vocab 4096 --max-shard-size 20MB

Presets are shapes: `mistral-7b` (the default), `1gb`, `100mb` and `3.6mb`; single flags replace
their values. The defaults give what the hub has: 291 tensors in two shards of 9,942,958,080 and
4,540,506,112 bytes of weights, config.json of 571 bytes.

The weights are bfloat16 of N(0, 0.02), norms around 1, from a seeded generator: the same command
writes the same bytes everywhere. No two tensors are equal, so an output with two tensors exchanged
is not the right output. One block of 16 Mi values is made and written from a different place for
each tensor: a quarter of a second and 100 MB of memory whatever the model's size, and the disk does
the rest. The tokenizer files are stubs: loadable, one token a byte.

Needs Python 3.9 and nothing else.
"""

import argparse
import json
import os
import random
import struct
import sys
import time
from array import array
from math import gcd
from pathlib import Path

PRESETS = {
    # layers, hidden, intermediate, heads, kv_heads, vocab, max_shard_size
    "mistral-7b": (32, 4096, 14336, 32, 8, 32000, "10GB"),
    "1gb": (32, 1024, 3584, 16, 4, 32000, "700MB"),
    "100mb": (32, 320, 1120, 10, 2, 12000, "70MB"),
    "3.6mb": (32, 64, 224, 4, 1, 704, "2.5MB"),
}
BLOCK_VALUES = 16 << 20  # bfloat16 values in the block that all matrices are cut from: 32 MiB
DRAWS = 1 << 16  # values drawn one by one; the block is made of re-orderings of them
BYTES_A_VALUE = 2


def main():
    args = parse_args()
    out = Path(args.out)
    if out.exists() and any(out.iterdir()):
        sys.exit(f"error: {out} exists and is not empty")
    out.mkdir(parents=True, exist_ok=True)

    tensors = state_dict(args)
    shards = split(tensors, size_in_bytes(args.max_shard_size))
    if is_mistral_7b(args):
        check_official(tensors, shards)

    started = time.monotonic()
    weights = Weights(args.seed)
    numbers = {name: i for i, (name, _) in enumerate(tensors)}
    names = shard_names(len(shards))
    for file_name, shard in zip(names, shards):
        if args.name_order:
            shard = sorted(shard)
        write_shard(out / file_name, shard, weights, numbers)
    os.sync()
    seconds = time.monotonic() - started

    write_index(out, names, shards)
    write_side_files(out, args)
    total = sum(nbytes(shape) for _, shape in tensors)
    print(
        f"{out}: {len(tensors)} tensors, {total:,} bytes in {len(shards)} "
        f"file{'s' if len(shards) > 1 else ''}, {seconds:.1f} s, {total / seconds / 1e9:.2f} GB/s"
    )


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--preset", choices=PRESETS, default="mistral-7b")
    for flag in ("layers", "hidden", "intermediate", "heads", "kv-heads", "vocab"):
        parser.add_argument(f"--{flag}", type=int, metavar="N")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="bytes, or 10GB, 700MB, 64MiB")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--name-order",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="tensors of a file sorted by name, as in the official files; without: state-dict order",
    )
    args = parser.parse_args()
    keys = ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab", "max_shard_size")
    for key, value in zip(keys, PRESETS[args.preset]):
        if getattr(args, key) is None:
            setattr(args, key, value)
    if args.hidden % args.heads or args.heads % args.kv_heads:
        parser.error("--hidden must be a multiple of --heads, and --heads of --kv-heads")
    return args


# ---------------------------------------------------------------------------------- the layout


def state_dict(args):
    """(name, shape) of every tensor, in the order of transformers' state dict."""
    hidden, kv = args.hidden, args.hidden // args.heads * args.kv_heads
    layer = [
        ("self_attn.q_proj", [hidden, hidden]),
        ("self_attn.k_proj", [kv, hidden]),
        ("self_attn.v_proj", [kv, hidden]),
        ("self_attn.o_proj", [hidden, hidden]),
        ("mlp.gate_proj", [args.intermediate, hidden]),
        ("mlp.up_proj", [args.intermediate, hidden]),
        ("mlp.down_proj", [hidden, args.intermediate]),
        ("input_layernorm", [hidden]),
        ("post_attention_layernorm", [hidden]),
    ]
    tensors = [("model.embed_tokens.weight", [args.vocab, hidden])]
    for i in range(args.layers):
        tensors += [(f"model.layers.{i}.{name}.weight", shape) for name, shape in layer]
    return tensors + [("model.norm.weight", [hidden]), ("lm_head.weight", [args.vocab, hidden])]


def nbytes(shape):
    size = BYTES_A_VALUE
    for n in shape:
        size *= n
    return size


def size_in_bytes(text):
    """`10GB` and `9GiB` as transformers reads them; plain numbers are bytes."""
    units = {"GIB": 1 << 30, "MIB": 1 << 20, "KIB": 1 << 10, "GB": 10**9, "MB": 10**6, "KB": 10**3}
    for unit, factor in units.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def split(tensors, max_bytes):
    """Greedy: a tensor that no longer fits opens the next shard."""
    shards, size = [[]], 0
    for name, shape in tensors:
        if shards[-1] and size + nbytes(shape) > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += nbytes(shape)
    return shards


def shard_names(count):
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def is_mistral_7b(args):
    return PRESETS["mistral-7b"] == (
        args.layers, args.hidden, args.intermediate, args.heads, args.kv_heads, args.vocab,
        args.max_shard_size,
    )  # fmt: skip


def check_official(tensors, shards):
    sizes = [sum(nbytes(shape) for _, shape in shard) for shard in shards]
    assert len(tensors) == 291, len(tensors)
    assert sizes == [9_942_958_080, 4_540_506_112], sizes
    assert sum(sizes) == 14_483_464_192, sizes


# --------------------------------------------------------------------------------- the weights


class Weights:
    """Two rings of bfloat16 values, one for matrices and one for norms."""

    def __init__(self, seed):
        rng = random.Random(seed)
        draws = [rng.gauss(0.0, 1.0) for _ in range(DRAWS)]
        self.matrix = memoryview(reorderings(bfloat16([0.02 * x for x in draws]), rng))
        self.norm = memoryview(bfloat16([1.0 + 0.1 * x for x in draws]).tobytes())

    def pieces(self, number, shape):
        """The bytes of tensor `number`, as slices of a ring read from a place of its own."""
        ring = self.norm if len(shape) == 1 else self.matrix
        values = len(ring) // BYTES_A_VALUE
        # Odd and prime: tensors of one ring never start at the same value, up to 65,536 of them.
        at = (number * 48_611 + 1) % values * BYTES_A_VALUE
        left = nbytes(shape)
        while left:
            piece = ring[at : at + left]
            yield piece
            left -= len(piece)
            at = 0


def bfloat16(values):
    """f32 rounded to the nearest bfloat16, ties to even."""
    bits = array("I", struct.pack(f"={len(values)}f", *values))
    return array("H", [(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits])


def reorderings(draws, rng):
    """BLOCK_VALUES values: the draws again and again, each time in another order.

    Reading a ring of 2^16 values with an odd stride visits each once; slices do that in C.
    """
    block = bytearray()
    for _ in range(BLOCK_VALUES // DRAWS):
        stride = rng.randrange(1, 64, 2)
        assert gcd(stride, DRAWS) == 1
        order = (draws * stride)[rng.randrange(stride) :: stride]
        turn = rng.randrange(DRAWS)
        block += (order[turn:] + order[:turn]).tobytes()
    return bytes(block)


# ----------------------------------------------------------------------------------- the files


def write_shard(path, shard, weights, numbers):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        end = at + nbytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shard:
            for piece in weights.pieces(numbers[name], shape):
                write_all(file, piece)
    assert path.stat().st_size == 8 + len(text) + at


def write_all(file, piece):
    while len(piece):
        piece = piece[file.write(piece) :]


def write_index(out, names, shards):
    if len(shards) == 1:
        return
    weight_map = {name: file for file, shard in zip(names, shards) for name, _ in shard}
    total = sum(nbytes(shape) for shard in shards for _, shape in shard)
    write_json(
        out / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


def write_side_files(out, args):
    config = {
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": args.hidden,
        "initializer_range": 0.02,
        "intermediate_size": args.intermediate,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": args.heads,
        "num_hidden_layers": args.layers,
        "num_key_value_heads": args.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0.dev0",
        "use_cache": True,
        "vocab_size": args.vocab,
    }
    write_json(out / "config.json", config)
    if is_mistral_7b(args):
        assert (out / "config.json").stat().st_size == 571  # as published
    write_json(
        out / "generation_config.json",
        {
            "_from_model_config": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "transformers_version": "4.34.0.dev0",
        },
    )
    write_tokenizer(out, args.vocab)


def write_tokenizer(out, vocab_size):
    """A byte-level tokenizer of Llama's form: three special tokens, then one a byte."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(tokens[:vocab_size])}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, token in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [],
        },
    }
    write_json(out / "tokenizer.json", tokenizer)
    write_json(
        out / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": True,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
    )
    write_json(
        out / "special_tokens_map.json",
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    )


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
