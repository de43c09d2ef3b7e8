#!/usr/bin/env python3
"""Writes a GGUF file with the names, shapes and types of Mistral-7B in Q4_K_M and made-up blocks.

    python3 benchmarks/synthetic_gguf.py --out FILE                      4.4 GB, as published ones
    python3 benchmarks/synthetic_gguf.py --out FILE --preset 300mb
    python3 benchmarks/synthetic_gguf.py --out FILE --layers 8

Presets are shapes: `mistral-7b` (the default), `300mb` and `70mb`; single flags replace their values.
The defaults give 291 tensors: Q4_K, but for Q6_K in `output` and, as llama.cpp's mixture has it, in
`attn_v` and `ffn_down` of half the layers, and F32 in norms. The metadata is as long as a published
file's: 32,000 tokens, each with a score and a type. Version 3, alignment 32.

All blocks are valid, their scales between 2^-7 and 2^-3, from a seeded generator: the same command
writes the same bytes everywhere. No two tensors are equal, so an output with two tensors exchanged
is not the right output. A ring of 131,072 blocks of each type is made and written from a different
place for each tensor: a second and 150 MB of memory whatever the model's size, and the disk does the
rest. FILE appears when it is complete.

Needs Python 3.9 and nothing else.
"""

import argparse
import os
import random
import struct
import sys
import time
from math import prod
from pathlib import Path

PRESETS = {
    # layers, hidden, intermediate, heads, kv_heads, vocab
    "mistral-7b": (32, 4096, 14336, 32, 8, 32000),
    "300mb": (32, 1024, 3584, 16, 4, 32000),
    "70mb": (32, 512, 1792, 8, 2, 12000),
}
ALIGNMENT = 32
# A type's number in files, the elements and bytes of a block, and where the block has scales in F16.
TYPES = {
    "F32": (0, 1, 4, ()),
    "Q4_K": (12, 256, 144, (0, 2)),
    "Q6_K": (14, 256, 210, (208,)),
}
RING_BLOCKS = 1 << 17


def main():
    args = parse_args()
    out = Path(args.out)
    if out.exists():
        sys.exit(f"error: {out} exists")
    out.parent.mkdir(parents=True, exist_ok=True)

    tensors = state_dict(args)
    if all(getattr(args, key) == value for key, value in zip(KEYS, PRESETS["mistral-7b"])):
        check_published(tensors)

    started = time.monotonic()
    rings = {name: ring(name, args.seed) for name in TYPES}
    partial = out.with_name(f".{out.name}.partial")
    header = encode_header(metadata(args), tensors)
    with open(partial, "wb", buffering=0) as file:
        write_all(file, memoryview(header))
        for number, (_, kind, shape) in enumerate(tensors):
            for piece in pieces(rings[kind], kind, number, shape):
                write_all(file, piece)
            write_all(file, memoryview(bytes(-nbytes(kind, shape) % ALIGNMENT)))
        os.fsync(file.fileno())
    partial.rename(out)
    seconds = time.monotonic() - started
    total = out.stat().st_size
    print(
        f"{out}: {len(tensors)} tensors, {total:,} bytes, {len(header):,} of them before the "
        f"tensors, {seconds:.1f} s, {total / seconds / 1e9:.2f} GB/s"
    )


KEYS = ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab")


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--preset", choices=PRESETS, default="mistral-7b")
    for key in KEYS:
        parser.add_argument(f"--{key.replace('_', '-')}", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    for key, value in zip(KEYS, PRESETS[args.preset]):
        if getattr(args, key) is None:
            setattr(args, key, value)
    if args.hidden % args.heads or args.heads % args.kv_heads:
        parser.error("--hidden must be a multiple of --heads, and --heads of --kv-heads")
    if args.hidden % 256 or args.intermediate % 256:
        parser.error("--hidden and --intermediate must be multiples of 256, the elements of a block")
    return args


# ---------------------------------------------------------------------------------- the layout


def state_dict(args):
    """(name, type, shape with the rows' length last) of every tensor, as llama.cpp orders them."""
    hidden, kv = args.hidden, args.hidden // args.heads * args.kv_heads
    tensors = [("token_embd", "Q4_K", [args.vocab, hidden])]
    for i in range(args.layers):
        more = "Q6_K" if has_more_bits(i, args.layers) else "Q4_K"
        layer = [
            ("attn_norm", "F32", [hidden]),
            ("ffn_down", more, [hidden, args.intermediate]),
            ("ffn_gate", "Q4_K", [args.intermediate, hidden]),
            ("ffn_up", "Q4_K", [args.intermediate, hidden]),
            ("ffn_norm", "F32", [hidden]),
            ("attn_k", "Q4_K", [kv, hidden]),
            ("attn_output", "Q4_K", [hidden, hidden]),
            ("attn_q", "Q4_K", [hidden, hidden]),
            ("attn_v", more, [kv, hidden]),
        ]
        tensors += [(f"blk.{i}.{name}", kind, shape) for name, kind, shape in layer]
    tensors += [("output_norm", "F32", [hidden]), ("output", "Q6_K", [args.vocab, hidden])]
    return [(f"{name}.weight", kind, shape) for name, kind, shape in tensors]


def has_more_bits(i, layers):
    """llama.cpp's `use_more_bits`: the first and last eighth, and every third layer between."""
    eighth = layers // 8
    return i < eighth or i >= 7 * layers // 8 or (i - eighth) % 3 == 2


def nbytes(kind, shape):
    _, elements, block, _ = TYPES[kind]
    return prod(shape) // elements * block


def check_published(tensors):
    """The counts that llama.cpp prints when it loads a Mistral-7B in Q4_K_M, and its bytes."""
    total = sum(nbytes(kind, shape) for _, kind, shape in tensors)
    kinds = [kind for _, kind, _ in tensors]
    assert [kinds.count(kind) for kind in TYPES] == [65, 193, 33], kinds
    assert total == 4_367_704_064, total


# -------------------------------------------------------------------------------- the metadata


def metadata(args):
    """(key, type, value) of what a published file says, the tokens made up."""
    rng = random.Random(args.seed)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    seen = set(tokens)
    while len(tokens) < args.vocab:
        word = "".join(rng.choices(letters, k=rng.randint(2, 9)))
        word = ("\u2581" if rng.random() < 0.5 else "") + word
        if word not in seen:
            seen.add(word)
            tokens.append(word)
    tokens = tokens[: args.vocab]
    kinds = [2, 3, 3] + [6] * 256 + [1] * args.vocab
    head = args.hidden // args.heads
    return [
        ("general.architecture", "string", "llama"),
        ("general.name", "string", "synthetic mistral-7b"),
        ("llama.context_length", "u32", 32768),
        ("llama.embedding_length", "u32", args.hidden),
        ("llama.block_count", "u32", args.layers),
        ("llama.feed_forward_length", "u32", args.intermediate),
        ("llama.rope.dimension_count", "u32", head),
        ("llama.attention.head_count", "u32", args.heads),
        ("llama.attention.head_count_kv", "u32", args.kv_heads),
        ("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("llama.rope.freq_base", "f32", 10000.0),
        ("llama.vocab_size", "u32", args.vocab),
        ("general.file_type", "u32", 15),
        ("tokenizer.ggml.model", "string", "llama"),
        ("tokenizer.ggml.tokens", "[string]", tokens),
        ("tokenizer.ggml.scores", "[f32]", [-float(i) for i in range(args.vocab)]),
        ("tokenizer.ggml.token_type", "[i32]", kinds[: args.vocab]),
        ("tokenizer.ggml.bos_token_id", "u32", 1),
        ("tokenizer.ggml.eos_token_id", "u32", 2),
        ("tokenizer.ggml.unknown_token_id", "u32", 0),
        ("general.quantization_version", "u32", 2),
    ]


VALUE_TYPES = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "string": (8, None)}


def encode_header(keys, tensors):
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    for key, kind, value in keys:
        parts.append(encode_text(key))
        if kind.startswith("["):
            number, _ = VALUE_TYPES[kind[1:-1]]
            parts.append(struct.pack("<IIQ", 9, number, len(value)))
            parts += [encode_value(kind[1:-1], item) for item in value]
        else:
            parts += [struct.pack("<I", VALUE_TYPES[kind][0]), encode_value(kind, value)]
    at = 0
    for name, kind, shape in tensors:
        parts.append(encode_text(name))
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        parts.append(struct.pack("<IQ", TYPES[kind][0], at))
        at += nbytes(kind, shape) + -nbytes(kind, shape) % ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def encode_value(kind, value):
    return encode_text(value) if kind == "string" else struct.pack(VALUE_TYPES[kind][1], value)


def encode_text(text):
    text = text.encode()
    return struct.pack("<Q", len(text)) + text


# ---------------------------------------------------------------------------------- the blocks


def ring(kind, seed):
    """RING_BLOCKS blocks of a type: random but for the scales, whose exponents are kept small."""
    _, _, block, scales = TYPES[kind]
    rng = random.Random(f"{seed} {kind}")
    if kind == "F32":  # norms, around 1
        draws = (1.0 + 0.1 * rng.gauss(0.0, 1.0) for _ in range(RING_BLOCKS))
        return memoryview(struct.pack(f"<{RING_BLOCKS}f", *draws))
    blocks = bytearray(rng.randbytes(RING_BLOCKS * block))
    # Of an F16's upper byte, bits 2 to 6 are the exponent: from 8 to 11, less 15.
    upper = bytes(byte & 0x83 | 8 + (byte >> 2 & 3) << 2 for byte in range(256))
    for at in scales:
        blocks[at + 1 :: block] = blocks[at + 1 :: block].translate(upper)
    return memoryview(bytes(blocks))


def pieces(ring, kind, number, shape):
    """The bytes of tensor `number`, as slices of a ring read from a block of its own."""
    block = TYPES[kind][2]
    # Odd: up to RING_BLOCKS tensors never start at the same block.
    at = (number * 48_611 + 1) % RING_BLOCKS * block
    left = nbytes(kind, shape)
    while left:
        piece = ring[at : at + left]
        yield piece
        left -= len(piece)
        at = 0


def write_all(file, piece):
    while len(piece):
        piece = piece[file.write(piece) :]


if __name__ == "__main__":
    main()
