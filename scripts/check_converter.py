#!/usr/bin/env python3
"""Checks folder to GGUF beside llama.cpp's converter, and GGUF to folder, tensor by tensor.

    cargo build --release -p dus
    python3 scripts/check_converter.py LLAMA_CPP [--dus target/release/dus]

LLAMA_CPP is a checkout of llama.cpp (the folder `conversion` of its converter and `gguf-py` are used).
For a tiny model of each architecture with random weights, made by transformers:

    - `dus build --to gguf` in each type gives tensors of the same names, types, shapes and bytes as the
      converter, and the same keys but for names and the vocabulary, which these models have none of
    - `dus build --to hf` of the converter's F32 file gives the weights that the converter was given (but
      for the last bits of gemma's norms, which GGUF stores with 1 added)
    - transformers gives the same logits for that folder as for the one that it saved, in float32
    - a plan that repeats and drops layers gives the same tensors by folder → GGUF as by the
      converter's GGUF → GGUF

Needs torch, transformers, safetensors and gguf (made with 2.15, 5.23, 0.8 and 0.19), and dus. Exit
codes: 0 alike, 1 not.
"""

import argparse
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def main():
    args = parse_args()
    sys.argv = [sys.argv[0], args.llama_cpp]
    spec = importlib.util.spec_from_file_location("gguf_oracle", HERE / "gguf_oracle.py")
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    oracle.transformers.utils.logging.set_verbosity_error()
    oracle.transformers.utils.logging.disable_progress_bar()
    failures = 0
    for name, (family, settings) in oracle.TINIES.items():
        with tempfile.TemporaryDirectory() as folder:
            for ok, text in check(oracle, args.dus, pathlib.Path(folder), family, settings):
                print(f"{'ok  ' if ok else 'FAIL'}  {name}: {text}", flush=True)
                failures += not ok
    sys.exit(1 if failures else 0)


def check(oracle, dus, folder, family, settings):
    torch, gguf = oracle.torch, oracle.gguf
    torch.manual_seed(len(family))
    text = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(oracle.transformers, text)(**settings)
    model = getattr(oracle.transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    base = folder / "base"
    model.save_pretrained(base)
    saved = oracle.json.loads((base / "config.json").read_text())

    def converted(ftype):
        # The converter of gemma3 counts the tokens.
        tokens = {f"t{i}": i for i in range(settings["vocab_size"])}
        tokens = oracle.json.dumps(dict(model=dict(vocab=tokens), added_tokens=[]))
        (base / "tokenizer.json").write_text(tokens)
        oracle.converter(base, saved, getattr(gguf.LlamaFileType, ftype)).write()
        (base / "tokenizer.json").unlink()
        return (base / "out.gguf").rename(folder / f"{ftype}.gguf")

    def build(source, out, *flags):
        command = [dus, "build", source, *flags, "--quiet", "-o", folder / out]
        ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        return folder / out

    try:
        for dtype, ftype in TYPES.items():
            theirs = read(gguf, converted(ftype))
            ours = read(gguf, build(base, f"{dtype}.gguf", "--layers", "0..n", "--dtype", dtype))
            yield from compare(theirs, ours, dtype)

        out = build(folder / "ALL_F32.gguf", "back", "--layers", "0..n", "--to", "hf")
        yield same_weights(oracle, family, base, out), "GGUF to folder gives the weights back"
        ids = torch.arange(3, 40)[None] % settings["vocab_size"]
        load = oracle.transformers.AutoModelForCausalLM.from_pretrained
        with torch.no_grad():
            before = load(base, dtype=torch.float32)(ids).logits
            after = load(out, dtype=torch.float32)(ids).logits
        apart = float((before - after).abs().max())
        yield apart < 1e-5, f"logits of the folder made of the GGUF are {apart:.1e} apart"

        plan = ["--layers", "0..n" if family.startswith("Gemma") else "0..2 + 1..n"]
        one = build(folder / "ALL_F32.gguf", "one.gguf", *plan)
        other = build(base, "other.gguf", *plan, "--dtype", "float32")
        yield from compare(read(gguf, one), read(gguf, other), "up-scaled")
    except RuntimeError as error:
        yield False, str(error)


def read(gguf, path):
    reader = gguf.GGUFReader(path)
    tensors = {
        tensor.name: (tensor.tensor_type.name, tensor.shape.tolist(), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    named = ("GGUF.", "general.", "tokenizer.", "dus.")
    keys = {
        key: ([kind.name for kind in field.types], field.contents())
        for key, field in reader.fields.items()
        if not key.startswith(named) or key in ("general.architecture", "general.file_type")
    }
    return tensors, keys


def compare(theirs, ours, what):
    for one, other, kind in zip(theirs, ours, ("tensors", "keys")):
        unlike = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        shown = [(name, *((x.get(name) or ["absent"])[:2] for x in (one, other))) for name in unlike[:4]]
        yield not unlike, f"{what}: {len(one)} equal {kind}" if not unlike else f"{what}: {kind} {shown}"


def same_weights(oracle, family, one, other):
    def weights(folder):
        with oracle.safe_open(folder / "model.safetensors", "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    one, other = weights(one), weights(other)
    # Gemma's norms are stored with 1 added, which rounds their last bits away.
    rounded = {"atol": 2**-23, "rtol": 0} if family.startswith("Gemma") else {"atol": 0, "rtol": 0}
    alike = oracle.torch.allclose
    return one.keys() == other.keys() and all(alike(one[n], other[n], **rounded) for n in one)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("llama_cpp")
    parser.add_argument("--dus", default=HERE.parent / "target" / "release" / "dus")
    return parser.parse_args()


if __name__ == "__main__":
    main()
