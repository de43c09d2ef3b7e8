#!/usr/bin/env python3
"""Measures `dus build` beside `cp`: Mistral-7B to SOLAR, 14.5 GB read and 21.46 GB written.

    cargo build --release -p dus
    python3 benchmarks/build.py --dir DIR                  everything; 40 GB of disk, half an hour
    python3 benchmarks/build.py --dir DIR --scale small    a quick try: a 1 GB model
    python3 benchmarks/build.py --dir DIR --only warm,cold --json numbers.json
    python3 benchmarks/build.py --dir DIR --only gguf-warm,gguf-cold,gguf-memory,gguf-shared

The weights are synthetic, with Mistral-7B's names, shapes and layout (synthetic_mistral.py, and
synthetic_gguf.py for the same in Q4_K_M). They are written to DIR/base and DIR/base.gguf once, each
when it is needed, and stay there; everything else is removed again, also after ^C.

What is measured (`--only` takes any of these words):

    warm        build and `cp`, the base in the page cache as far as memory holds it
    cold        the same, the base evicted first
    cast        the same as warm, with --dtype float16: every weight goes through the processor
    memory      peak resident memory, for a 0.1 GB model and for the large one
    startup     `dus --help`, and building a 3.6 MB model in memory (tmpfs)
    plan        `dus plan` of the base
    shared      --shard-layout source on XFS and btrfs images with shared extents (Linux, root)
    gguf-warm, gguf-cold, gguf-memory, gguf-shared
                the same four of a GGUF file: 4.4 GB read and 6.5 GB written; 12 GB of disk
    cold-build  `cargo build --release -p dus` into an empty folder

The protocol of warm, cold and cast, GGUF or not. Everything is synced first; one run of each is thrown away; then
d c c d d c c d, d being `dus` and c being `cp`. A time is the wall clock of the command and of a
`sync -f` after it, so that the bytes are on the disk. Before each run the last output is removed,
and after a sync there are some seconds of rest, because a mount with online discard makes the next
sync wait for the removal. Before each warm run the base is read once. Numbers are medians and
ranges.

What `cp` copies: the base's files, then the first of them again, until exactly as many bytes are
written as `dus` wrote. So both read the same 14.5 GB and write the same 21.46 GB (GGUF: 4.4 GB and
6.5 GB). The last file is
cut short by a limit on the size of files (RLIMIT_FSIZE), which ends `cp` at that byte: all bytes
are moved by `cp` in its own way. Where the disk can share extents, `cp --reflink=never` and
`dus --copy stream` are used, so that both really copy (the kernel would share).

Processor time and peak memory are the kernel's numbers for the command (wait4). The kernel counts
the memory of the starting process too, so in timed runs a peak below this script's own, which is
printed as the floor, cannot be seen; `memory` therefore reads the command's own high-water mark
(VmHWM, on Linux) while it runs.

Needs Python 3.9 and nothing else.
"""

import argparse
import fcntl
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parent.parent
KINDS = (
    "warm", "cold", "cast", "memory", "startup", "plan", "shared",
    "gguf-warm", "gguf-cold", "gguf-memory", "gguf-shared", "cold-build",
)  # fmt: skip
OF_FOLDER = {"warm", "cold", "cast", "memory", "plan", "shared"}  # what needs the large folder
REPEATS = 20  # of what takes milliseconds
SHARED_REPEATS = 5
PLAN = "dus(8)"
LLAMA = ["--architecture", "llama"]
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
IS_MAC = platform.system() == "Darwin"


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(args)
    try:
        bench.prepare()
        for kind in KINDS:
            if kind in args.only:
                try:
                    getattr(bench, kind.replace("-", "_"))()
                except Failed as error:  # the others are still worth measuring
                    bench.failures.append(kind)
                    bench.skip(kind, f"it failed: {error}")
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except Failed as error:
        sys.exit(f"error: {error}")
    finally:
        bench.clean_up()
        bench.report()
    sys.exit(1 if bench.failures else 0)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dus", default=REPOSITORY / "target/release/dus", metavar="PATH")
    parser.add_argument(
        "--dir",
        default=REPOSITORY / "target/benchmark",
        metavar="DIR",
        help="where to work, on the disk to be measured (default: target/benchmark)",
    )
    parser.add_argument("--base", metavar="DIR", help="a base that is already there, used as it is")
    parser.add_argument("--gguf-base", metavar="FILE", help="likewise a GGUF file")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--only", default=",".join(KINDS), metavar="KIND,...")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="of d c c d (default: 2)")
    parser.add_argument(
        "--settle", type=float, default=5.0, metavar="SECONDS", help="rest before a run (default: 5)"
    )
    parser.add_argument("--json", metavar="FILE", help="every single number, for machines")
    args = parser.parse_args()
    args.only = args.only.split(",")
    for kind in args.only:
        if kind not in KINDS:
            parser.error(f"--only knows {', '.join(KINDS)}; not {kind!r}")
    args.dus = shutil.which(args.dus)
    if args.dus is None and set(args.only) != {"cold-build"}:
        parser.error("there is no dus; `cargo build --release -p dus`, or name it with --dus")
    args.dus = args.dus and str(Path(args.dus).resolve())
    return args


class Failed(Exception):
    """A command failed, or something the benchmark rests on is not so."""


# ------------------------------------------------------------------------------ the measurements


class Base:
    """A model to build from: a folder, or a GGUF file, with the files that hold its weights."""

    def __init__(self, path, options=()):
        self.path, self.options = path, list(options)
        self.is_gguf = path.suffix == ".gguf"
        self.name = "GGUF, " if self.is_gguf else ""
        self.out = "solar.gguf" if self.is_gguf else "solar"

    def look(self):
        self.files = [self.path] if self.is_gguf else sorted(self.path.glob("*.safetensors"))
        self.bytes = sum(file.stat().st_size for file in self.files)
        return self

    def parts(self):
        """All its files."""
        return [self.path] if self.is_gguf else sorted(self.path.iterdir())

    def moved_to(self, folder):
        """The same model in another place, if it is copied there."""
        return Base(folder / self.path.name, self.options)


class Bench:
    def __init__(self, args):
        self.args = args
        self.dir = Path(args.dir).resolve()
        self.scratch = self.dir / "scratch"  # holds everything that is removed again
        small = args.scale == "small"
        name = "base-small" if small else "base"
        # Five shards, as at full size.
        options = [*LLAMA, *(["--max-shard-size", "350MB"] if small else [])]
        self.folder = Base(Path(args.base).resolve() if args.base else self.dir / name, options)
        gguf = Path(args.gguf_base).resolve() if args.gguf_base else self.dir / f"{name}.gguf"
        self.gguf = Base(gguf)
        self.mounts, self.tmpfs = [], None
        self.rows, self.small_rows, self.skipped, self.raw = [], [], [], {}
        self.peaks = {}  # what was built: peak resident memory of `dus`, in bytes
        self.failures = []
        self.started = False

    def prepare(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        if self.scratch.exists():
            raise Failed(f"{self.scratch} is left from another run; remove it if none is running")
        self.scratch.mkdir()
        self.started = True
        self.floor = maximum_resident(resource.getrusage(resource.RUSAGE_SELF))
        self.shares = can_share_extents(self.scratch)
        if set(self.args.only) & OF_FOLDER:
            self.make_folder()
        if any(kind.startswith("gguf") for kind in self.args.only):
            self.make_gguf()

    def make_folder(self):
        path = self.folder.path
        complete = (path / "tokenizer_config.json").exists()  # the last file to be written
        if self.args.base and not (path / "config.json").exists():
            raise Failed(f"{path} holds no model")
        base_bytes = {"full": 14_483_464_192, "small": 1_003_620_352}[self.args.scale]
        self.need_room(base_bytes, complete or self.args.base)
        if not complete and not self.args.base:
            if path.exists():  # a base that was interrupted
                shutil.rmtree(path)
            synthesise(path, {"full": "mistral-7b", "small": "1gb"}[self.args.scale])
        self.folder.look()

    def make_gguf(self):
        path = self.gguf.path
        if self.args.gguf_base and not path.exists():
            raise Failed(f"{path} does not exist")
        base_bytes = {"full": 4_368_469_632, "small": 307_930_752}[self.args.scale]
        self.need_room(base_bytes, path.exists())
        if not path.exists():
            preset = {"full": "mistral-7b", "small": "300mb"}[self.args.scale]
            synthesise(path, preset, "synthetic_gguf.py")
        self.gguf.look()

    def need_room(self, base_bytes, has_base):
        needed = int(base_bytes * (1.55 if has_base else 2.55))
        free = shutil.disk_usage(self.dir).free
        if free < needed:
            raise Failed(f"{self.dir} has {gb(free)} GB free, {gb(needed)} are needed")

    def build_command(self, base, out, *options, plan=PLAN):
        command = [self.args.dus, "build", base.path, "--layers", plan, *base.options, *options]
        return [str(word) for word in [*command, "-o", out / base.out, "--quiet"]]

    # -- beside cp

    def warm(self):
        self.warm_of(self.folder)

    def gguf_warm(self):
        self.warm_of(self.gguf)

    def warm_of(self, base):
        self.beside_cp(base, f"{base.name}warm cache", "≤ 1.05", self.warm_up)

    def cold(self):
        self.cold_of(self.folder)

    def gguf_cold(self):
        self.cold_of(self.gguf)

    def cold_of(self, base):
        if not hasattr(os, "posix_fadvise"):
            return self.skip(f"{base.name}cold", "this system has no posix_fadvise")
        self.beside_cp(base, f"{base.name}cold cache", "≤ 1.05", self.evict)

    def cast(self):
        title, options = "cast bf16 → f16, warm", ["--dtype", "float16"]
        self.beside_cp(self.folder, title, "≤ 1.3", self.warm_up, *options)

    def warm_up(self, base):
        for file in base.files:
            run(["cat", str(file)])

    def evict(self, base):
        os.sync()
        for path in base.files:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if IS_ROOT:
            Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def beside_cp(self, base, title, target, before, *options):
        if self.shares:
            options += ("--copy", "stream")
        out = self.scratch / "out"
        self.total = None
        runs = {"d": [], "c": []}

        def one(which):
            self.clear_output()
            before(base)
            out.mkdir()
            if which == "d":
                result = run(self.build_command(base, out, *options), sync=out)
                total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
                if self.total not in (None, total):
                    raise Failed(f"two builds of {self.total:,} and {total:,} bytes")
                self.total = total
            else:
                result = self.copy(base, out)
            say(f"  {'dus' if which == 'd' else 'cp '}  {result}")
            return result

        say(f"{title}: one discarded run of each, then {'d c c d ' * self.args.rounds}")
        one("d"), one("c")
        for which in "dccd" * self.args.rounds:
            runs[which].append(one(which))
        self.clear_output()

        d, c = runs["d"], runs["c"]
        wall = ratio(d, c, "total")
        cpu = ratio(d, c, "cpu")
        for name, which in (("dus", d), ("cp", c)):
            self.rows.append([
                f"{title}: {name}",
                f"{self.total:,}",
                spread([r.total for r in which]),
                f"{self.total / median(r.total for r in which) / 1e9:.2f}",
                f"{wall:.3f}" if name == "dus" else "1",
                spread([r.cpu for r in which]),
                f"{cpu:.2f}" if name == "dus" else "1",
                mb(max(r.peak for r in which)),
                f"wall {target}, CPU ≤ 1.1" if name == "dus" and "cast" not in title
                else f"wall {target}" if name == "dus" else "",
            ])  # fmt: skip
        self.peaks[f"{gb(self.total)} GB, {title}"] = max(r.peak for r in d)
        self.raw[title] = {
            "bytes": self.total,
            "dus": [r.numbers() for r in d],
            "cp": [r.numbers() for r in c],
            "ratio_wall": wall,
            "ratio_cpu": cpu,
        }

    def copy(self, base, out):
        """`cp` of the base's files, again and again, until `self.total` bytes are written."""
        whole, left = [], self.total
        while left >= base.files[len(whole) % len(base.files)].stat().st_size:
            whole.append(base.files[len(whole) % len(base.files)])
            left -= whole[-1].stat().st_size
        last = base.files[len(whole) % len(base.files)]
        cp = ["cp"] + (["--reflink=never"] if self.shares and not IS_MAC else [])

        commands, n = [], len(base.files)
        for lap in range(0, len(whole), n):  # cp takes a name once, so a lap a folder
            folder = out / f"copy-{lap}"
            folder.mkdir()
            commands.append((cp + [str(f) for f in whole[lap : lap + n]] + [str(folder)], None))
        if left:
            commands.append((cp + [str(last), str(out / "rest")], left))
        result = run_all(commands, sync=out)
        written = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        if written != self.total:
            raise Failed(f"cp wrote {written:,} bytes instead of {self.total:,}")
        return result

    def clear_output(self):
        shutil.rmtree(self.scratch / "out", ignore_errors=True)
        os.sync()
        time.sleep(self.args.settle)

    # -- the small ones

    def memory(self):
        small = Base(self.scratch / "base-100mb", LLAMA)
        synthesise(small.path, "100mb")
        cast, large = ["--dtype", "float16"], f"{gb(self.folder.bytes)} GB"
        self.memory_of([
            ("0.1 GB", small, [], PLAN),
            ("0.1 GB, cast", small, cast, PLAN),
            (large, self.folder, [], PLAN),
            (f"{large}, cast", self.folder, cast, PLAN),
        ])  # fmt: skip
        shutil.rmtree(small.path)

    def gguf_memory(self):
        small = Base(self.scratch / "base-70mb.gguf")
        synthesise(small.path, "70mb", "synthetic_gguf.py")
        scaled, large = f"{PLAN}{{new down_proj: scale 0.5}}", f"GGUF, {gb(self.gguf.bytes)} GB"
        self.memory_of([
            ("GGUF, 0.07 GB", small, [], PLAN),
            (large, self.gguf, [], PLAN),
            (f"{large}, blocks scaled", self.gguf, [], scaled),
        ])  # fmt: skip
        small.path.unlink()

    def memory_of(self, builds):
        say("memory")
        out = self.scratch / "out"
        for name, base, options, plan in builds:
            self.clear_output()
            out.mkdir()
            result = run(self.build_command(base, out, *options, plan=plan), watch=True)
            self.peaks[f"{name} base"] = result.peak
            say(f"  {name}: {mb(result.peak)} MB")
        self.clear_output()

    def startup(self):
        times = [run([self.args.dus, "--help"]).wall for _ in range(REPEATS + 1)][1:]
        self.small_row("`dus --help`", times, "≤ 10 ms")
        self.raw["help"] = times

        shm = Path("/dev/shm")
        folder = shm if shm.is_dir() and os.access(shm, os.W_OK) else self.scratch
        self.tmpfs = Path(tempfile.mkdtemp(prefix="dus-benchmark-", dir=folder))
        base, out = Base(self.tmpfs / "base", LLAMA), self.tmpfs / "out"
        synthesise(base.path, "3.6mb")
        times = []
        for _ in range(REPEATS + 1):
            times.append(run(self.build_command(base, out)).wall)
            shutil.rmtree(out)
        where = "on tmpfs" if folder == shm else "on disk (no /dev/shm here)"
        self.small_row(f"`dus build` of a 3.6 MB model {where}", times[1:], "≤ 50 ms")
        self.raw["build_3.6mb"] = times[1:]

    def plan(self):
        command = [self.args.dus, "plan", str(self.folder.path), "--layers", PLAN]
        times = [run(command).wall for _ in range(REPEATS + 1)][1:]
        self.small_row("`dus plan` of SOLAR", times, "≤ 50 ms")
        self.raw["plan"] = times

    def small_row(self, title, times, target):
        row = [title, spread([t * 1000 for t in times], 1) + " ms", "", target]
        self.small_rows.append(row)
        say(f"{title}: {row[1]}")

    # -- shared extents

    def shared(self):
        self.shared_of(self.folder)

    def gguf_shared(self):
        self.shared_of(self.gguf)

    def shared_of(self, base):
        what = f"{base.name}shared"
        if not IS_ROOT or platform.system() != "Linux":
            return self.skip(what, "mounting an image needs Linux and root")
        free = shutil.disk_usage(self.dir).free
        if free < base.bytes * 1.1:
            return self.skip(what, f"{self.dir} has only {gb(free)} GB free")
        for kind, mkfs in (
            ("xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"]),
            ("btrfs", ["mkfs.btrfs", "-q"]),
        ):
            if shutil.which(mkfs[0]) is None:
                self.skip(f"{what}, {kind}", f"there is no {mkfs[0]}")
                continue
            try:
                self.shared_on(base, kind, mkfs)
            except Failed as error:
                self.skip(f"{what}, {kind}", str(error))
            finally:
                self.unmount()

    def shared_on(self, original, kind, mkfs):
        image, mount = self.scratch / f"{kind}.img", self.scratch / kind
        # Sparse, and large enough for the output even if nothing were shared.
        size = int(original.bytes * 2.6) + (1 << 30)
        with open(image, "wb") as file:
            file.truncate(size)
        run(mkfs + [str(image)])
        mount.mkdir()
        run(["mount", "-o", "loop", str(image), str(mount)])
        self.mounts.append((mount, image))
        base, out = original.moved_to(mount), mount / "out"
        folder = mount if base.is_gguf else base.path
        folder.mkdir(exist_ok=True)
        say(f"{kind}: copying the base into an image")
        run(["cp"] + [str(f) for f in original.parts()] + [str(folder)], sync=mount)
        layout = [] if base.is_gguf else ["--shard-layout", "source"]

        results, growth = [], []
        for i in range(SHARED_REPEATS + 1):
            shutil.rmtree(out, ignore_errors=True)
            settle_used(mount, self.args.settle)
            before = used_bytes(mount)
            out.mkdir()
            result = run(self.build_command(base, out, *layout), sync=out)
            settle_used(mount, 0)
            total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
            say(f"  dus  {result}")
            if i:
                results.append(result)
                growth.append((used_bytes(mount) - before) / total * 100)
        self.small_rows.append([
            f"`{' '.join(['dus build', *layout])}` on {kind}, {base.name}{total:,} bytes",
            spread([r.total for r in results], 3) + " s",
            f"{spread(growth, 2)} % more blocks used",
            "≤ 1 s, ≤ 1 % blocks",
        ])  # fmt: skip
        self.peaks[f"{base.name}{gb(total)} GB, shared on {kind}"] = max(r.peak for r in results)
        self.raw[f"{'gguf_' if base.is_gguf else ''}shared_{kind}"] = {
            "bytes": total,
            "dus": [r.numbers() for r in results],
            "blocks_percent": growth,
        }

    def unmount(self):
        for mount, image in self.mounts:
            if subprocess.run(["umount", str(mount)], stderr=subprocess.DEVNULL).returncode:
                subprocess.run(["umount", "-l", str(mount)])
            if mount.is_dir() and not os.path.ismount(mount):
                mount.rmdir()
        self.mounts = []
        for image in self.scratch.glob("*.img"):
            image.unlink()

    # -- the compiler

    def cold_build(self):
        if shutil.which("cargo") is None:
            return self.skip("cold-build", "there is no cargo")
        say("cargo build --release -p dus")
        run(["cargo", "fetch", "--locked"], cwd=REPOSITORY)  # the network is not measured
        target = self.scratch / "cargo-target"
        environment = dict(os.environ, CARGO_TARGET_DIR=str(target))
        command = ["cargo", "build", "--release", "--locked", "-p", "dus"]
        result = run(command, cwd=REPOSITORY, env=environment)
        shutil.rmtree(target)
        self.small_rows.append(
            ["cold `cargo build --release -p dus`", f"{result.wall:.1f} s", "", "≤ 60 s"]
        )
        self.raw["cold_build"] = result.numbers()

    # -- the end

    def skip(self, what, why):
        self.skipped.append((what, why))
        say(f"{what}: skipped, {why}")

    def clean_up(self):
        if not self.started:
            return
        self.unmount()
        if not any(os.path.ismount(path) for path in self.scratch.iterdir()):
            shutil.rmtree(self.scratch, ignore_errors=True)
        if self.tmpfs:
            shutil.rmtree(self.tmpfs, ignore_errors=True)

    def report(self):
        if not self.started:
            return
        line = machine(self.dir)
        print(f"\n{line}")
        if self.rows:
            print(
                f"\nSeconds are median (min–max) of {2 * self.args.rounds} runs, sync included; "
                "GB/s is bytes written by the median.\n"
            )
            head = ["", "bytes", "wall s", "GB/s", "× cp", "CPU s", "× cp", "peak MB", "target"]
            table(head, self.rows)
        if self.small_rows:
            print()
            table(["", "median (min–max)", "", "target"], self.small_rows)
        if self.peaks:
            print()
            peaks = [[name, mb(peak), "≤ 64"] for name, peak in self.peaks.items()]
            table(["peak resident memory of `dus build`", "MB", "target"], peaks)
            print(f"\nThe floor in timed runs, this script's own memory, is {mb(self.floor)} MB.")
        for what, why in self.skipped:
            print(f"\nSkipped {what}: {why}.")
        if self.args.json:
            raw = {
                "machine": line,
                "measurements": self.raw,
                "peak_bytes": self.peaks,
                "peak_floor_bytes": self.floor,
                "skipped": dict(self.skipped),
            }
            Path(self.args.json).write_text(json.dumps(raw, indent=2) + "\n")


# ------------------------------------------------------------------------------ running commands


class Result:
    """What one run took: seconds, bytes of memory, bytes read from the disk."""

    def __init__(self, wall, sync, usage):
        self.wall, self.sync, self.total = wall, sync, wall + sync
        self.user = sum(u.cpu[0] for u in usage)
        self.system = sum(u.cpu[1] for u in usage)
        self.cpu = self.user + self.system
        self.peak = max(u.peak for u in usage)
        self.disk_read = sum(u.disk_read for u in usage)

    def __str__(self):
        return (
            f"{self.total:7.2f} s (sync {self.sync:.2f}), CPU {self.cpu:.2f} s, "
            f"read {gb(self.disk_read)} GB from disk, peak {mb(self.peak)} MB"
        )

    def numbers(self):
        return dict(self.__dict__)


def run(command, sync=None, **options):
    return run_all([(command, None)], sync, **options)


def run_all(commands, sync=None, **options):
    """Runs (command, limit on the size of files) one after the other, then syncs the disk of `sync`."""
    usage = []
    started = time.monotonic()
    for command, limit in commands:
        usage.append(run_one(command, limit, **options))
    ended = time.monotonic()
    if sync is not None:
        sync_disk(sync)
    return Result(ended - started, time.monotonic() - ended if sync is not None else 0.0, usage)


def run_one(command, limit=None, watch=False, **options):
    def set_limits():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=None if limit is None else set_limits,
            **options,
        )
        try:
            high_water = watch_memory(child.pid) if watch else None
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # ^C reached the child as well; it cleans up after itself
            child.terminate()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0 and limit is None:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()
            raise Failed(f"`{' '.join(command)}` ended with {child.returncode}:\n{text}")
    return Usage(usage, high_water)


class Usage:
    """The kernel's account of a process that has ended."""

    def __init__(self, usage, high_water):
        self.cpu = usage.ru_utime, usage.ru_stime
        self.disk_read = usage.ru_inblock * 512
        self.peak = high_water or maximum_resident(usage)


def watch_memory(pid):
    """The high-water mark of a process's memory in bytes, read until it ends; None without /proc."""
    mark = None
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            break
        if "VmHWM:" in status:  # not there once the process has given its memory back
            mark = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        time.sleep(0.002)
    return mark


def sync_disk(path):
    """`sync -f`, or all disks where `sync` does not know that."""
    done = subprocess.run(["sync", "-f", str(path)], stderr=subprocess.DEVNULL)
    if done.returncode:
        os.sync()


def synthesise(out, preset, script="synthetic_mistral.py"):
    say(f"writing a synthetic base ({out.name}, {preset})")
    script = Path(__file__).with_name(script)
    run([sys.executable, str(script), "--out", str(out), "--preset", preset])
    os.sync()


def maximum_resident(usage):
    return usage.ru_maxrss if IS_MAC else usage.ru_maxrss * 1024


# --------------------------------------------------------------------------- disks and machines


def can_share_extents(folder):
    """Whether FICLONE works there."""
    if platform.system() != "Linux":
        return False
    FICLONE = 0x40049409
    a, b = folder / "ficlone-a", folder / "ficlone-b"
    a.write_bytes(b"x" * 65536)
    try:
        with open(a, "rb") as source, open(b, "wb") as target:
            fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
        return True
    except OSError:
        return False
    finally:
        a.unlink()
        b.unlink(missing_ok=True)


def used_bytes(path):
    stat = os.statvfs(path)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def settle_used(path, least_seconds):
    """Waits until the number of used blocks stands still: both file systems free them later."""
    sync_disk(path)
    time.sleep(least_seconds)
    for _ in range(30):
        before = used_bytes(path)
        time.sleep(0.5)
        sync_disk(path)
        if used_bytes(path) == before:
            return


def machine(folder):
    model, memory, filesystem = platform.processor() or platform.machine(), None, "?"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mounts = Path("/proc/mounts")
    if mounts.exists():
        best = ""
        for line in mounts.read_text().splitlines():
            _, point, kind, options = line.split()[:4]
            inside = f"{folder}/".startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, filesystem = point, f"{kind}{', discard' if 'discard' in options else ''}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} cores of {model}, {memory / 2**30:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}, {filesystem}."
        if memory
        else f"{cores} cores of {model}, {platform.system()} {platform.release()}, {filesystem}."
    )


# ------------------------------------------------------------------------------------- numbers


def ratio(d, c, key):
    bottom = median(getattr(r, key) for r in c)
    return median(getattr(r, key) for r in d) / bottom if bottom else float("nan")


def spread(values, digits=2):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def gb(count):
    return f"{count / 1e9:.1f}"


def mb(count):
    return f"{count / 1e6:.1f}"


def table(head, rows):
    for row in [head, ["---"] * len(head)] + rows:
        print("| " + " | ".join(row) + " |")


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
