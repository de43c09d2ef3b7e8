#!/usr/bin/env python3
"""Times `dus build MODEL.gguf --to hf --dtype bfloat16` beside gguf-py and the disk.

    python3 benchmarks/synthetic_gguf.py --out DIR/7b-q4_k_m.gguf
    python3 benchmarks/dequantise.py DIR/7b-q4_k_m.gguf --out DIR/out [--dus target/release/dus] [--runs 3]

Three figures in one run, in turns, each the least of its runs:

    dus       every tensor decoded, rounded to bfloat16 and written as a folder of safetensors
    disk      as many bytes of zeros written past the page cache by dd and synced: what no tool beats
    gguf-py   every tensor decoded by gguf.dequantize to float32 and rounded to bfloat16 with numpy;
              nothing is written

MODEL stays in the page cache. Needs room for the folder twice, numpy and gguf (made with 0.19).
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path


def main():
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder, zeros = args.out / "folder", args.out / "zeros"
    subprocess.run(["cat", str(args.model)], stdout=subprocess.DEVNULL, check=True)
    figures = {"dus": [], "disk": [], "gguf-py": []}
    try:
        for _ in range(args.runs):
            shutil.rmtree(folder, ignore_errors=True)
            plan = ["--layers", args.layers, "--to", "hf", "--dtype", "bfloat16"]
            command = [args.dus, "build", args.model, *plan, "-o", folder, "--quiet"]
            figures["dus"].append(timed(command))
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            shutil.rmtree(folder)
            blocks = ["bs=4M", f"count={size // (4 << 20)}", "oflag=direct", "conv=fsync"]
            command = ["dd", "if=/dev/zero", f"of={zeros}", *blocks, "status=none"]
            figures["disk"].append(timed(command))
            zeros.unlink()
            command = [sys.executable, __file__, args.model, "--decode"]
            figures["gguf-py"].append(timed(command))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        zeros.unlink(missing_ok=True)
    print(f"{size / 1e9:.2f} GB of bfloat16")
    least_dus = min(figures["dus"])[0]
    for name, runs in figures.items():
        wall, cpu = min(runs)
        print(f"{name:8} {wall:7.2f} s  {cpu:7.2f} s of processor  {wall / least_dus:5.2f} x dus")


def timed(command):
    """Wall and processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run([str(part) for part in command], check=True)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def decode(model):
    import numpy as np
    from gguf import GGUFReader, dequantize

    for tensor in GGUFReader(model).tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        bits = values.view(np.uint32)
        # to nearest, ties to even
        bits = bits + (0x7FFF + ((bits >> 16) & 1))
        (bits >> 16).astype(np.uint16)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dus", default="target/release/dus")
    parser.add_argument("--layers", default="0..n", help="the plan; 0..n decodes the model as it is")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--decode", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.decode:
        decode(args.model)
        sys.exit()
    if args.out is None:
        parser.error("--out is needed")
    return args


if __name__ == "__main__":
    main()
