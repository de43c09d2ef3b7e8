#!/usr/bin/env python3
"""Measures `dus build` beside `cp`: Mistral-7B to SOLAR, 14.5 GB read and 21.46 GB written.

    cargo build --release -p dus
    python3 benchmarks/build.py --dir DIR                  everything; 40 GB of disk, half an hour
    python3 benchmarks/build.py --dir DIR --scale small    a quick try: a 1 GB model
    python3 benchmarks/build.py --dir DIR --only warm,cold --json numbers.json

The weights are synthetic, with Mistral-7B's names, shapes and layout (synthetic_mistral.py). They are
written to DIR/base once and stay there; everything else is removed again, also after ^C.

What is measured (`--only` takes any of these words):

    warm        build and `cp`, the base in the page cache as far as memory holds it
    cold        the same, the base evicted first
    cast        the same as warm, with --dtype float16: every weight goes through the processor
    memory      peak resident memory, for a 0.1 GB model and for the large one
    startup     `dus --help`, and building a 3.6 MB model in memory (tmpfs)
    plan        `dus plan` of the base
    shared      --shard-layout source on XFS and btrfs images with shared extents (Linux, root)
    cold-build  `cargo build --release -p dus` into an empty folder

The protocol of warm, cold and cast. Everything is synced first; one run of each is thrown away; then
d c c d d c c d, d being `dus` and c being `cp`. A time is the wall clock of the command and of a
`sync -f` after it, so that the bytes are on the disk. Before each run the last output is removed,
and after a sync there are some seconds of rest, because a mount with online discard makes the next
sync wait for the removal. Before each warm run the base is read once. Numbers are medians and
ranges.

What `cp` copies: the base's files, then the first of them again, until exactly as many bytes are
written as `dus` wrote. So both read the same 14.5 GB and write the same 21.46 GB. The last file is
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
KINDS = ("warm", "cold", "cast", "memory", "startup", "plan", "shared", "cold-build")
PRESETS = {"full": "mistral-7b", "small": "1gb"}  # of synthetic_mistral.py
BASES = {"full": "base", "small": "base-small"}  # folders in --dir
REPEATS = 20  # of what takes milliseconds
SHARED_REPEATS = 5
PLAN = ["--layers", "dus(8)"]
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
    parser.add_argument("--scale", choices=PRESETS, default="full")
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


class Bench:
    def __init__(self, args):
        self.args = args
        self.dir = Path(args.dir).resolve()
        self.scratch = self.dir / "scratch"  # holds everything that is removed again
        self.base = Path(args.base).resolve() if args.base else self.dir / BASES[args.scale]
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
        if set(self.args.only) & {"warm", "cold", "cast", "memory", "plan", "shared"}:
            self.make_base()

    def make_base(self):
        preset = PRESETS[self.args.scale]
        complete = (self.base / "tokenizer_config.json").exists()  # the last file to be written
        if self.args.base and not (self.base / "config.json").exists():
            raise Failed(f"{self.base} holds no model")
        base_bytes = {"full": 14_483_464_192, "small": 1_003_620_352}[self.args.scale]
        needed = int(base_bytes * 1.55) if complete or self.args.base else int(base_bytes * 2.55)
        free = shutil.disk_usage(self.dir).free
        if free < needed:
            raise Failed(f"{self.dir} has {gb(free)} GB free, {gb(needed)} are needed")
        if not complete and not self.args.base:
            if self.base.exists():  # a base that was interrupted
                shutil.rmtree(self.base)
            synthesise(self.base, preset)
        self.shards = sorted(self.base.glob("*.safetensors"))
        self.base_bytes = sum(file.stat().st_size for file in self.shards)

    def build_command(self, base, out, *options):
        command = [self.args.dus, "build", base, *PLAN, *LLAMA, *options, "-o", out, "--quiet"]
        if self.args.scale == "small" and base == self.base:
            command += ["--max-shard-size", "350MB"]  # five files, as at full size
        return [str(word) for word in command]

    # -- beside cp

    def warm(self):
        self.beside_cp("warm cache", "≤ 1.05", self.warm_up)

    def cold(self):
        if not hasattr(os, "posix_fadvise"):
            return self.skip("cold", "this system has no posix_fadvise")
        self.beside_cp("cold cache", "≤ 1.05", self.evict)

    def cast(self):
        self.beside_cp("cast bf16 → f16, warm", "≤ 1.3", self.warm_up, "--dtype", "float16")

    def warm_up(self):
        for shard in self.shards:
            run(["cat", str(shard)])

    def evict(self):
        os.sync()
        for shard in self.shards:
            with open(shard, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if IS_ROOT:
            Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def beside_cp(self, title, target, before, *options):
        if self.shares:
            options += ("--copy", "stream")
        out = self.scratch / "out"
        self.total = None
        runs = {"d": [], "c": []}

        def one(which):
            self.clear_output()
            before()
            out.mkdir()
            if which == "d":
                result = run(self.build_command(self.base, out / "solar", *options), sync=out)
                total = sum(f.stat().st_size for f in (out / "solar").rglob("*") if f.is_file())
                if self.total not in (None, total):
                    raise Failed(f"two builds of {self.total:,} and {total:,} bytes")
                self.total = total
            else:
                result = self.copy(out)
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

    def copy(self, out):
        """`cp` of the base's files, again and again, until `self.total` bytes are written."""
        whole, left = [], self.total
        while left >= self.shards[len(whole) % len(self.shards)].stat().st_size:
            whole.append(self.shards[len(whole) % len(self.shards)])
            left -= whole[-1].stat().st_size
        last = self.shards[len(whole) % len(self.shards)]
        cp = ["cp"] + (["--reflink=never"] if self.shares and not IS_MAC else [])

        commands, n = [], len(self.shards)
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
        say("memory")
        small = self.scratch / "base-100mb"
        synthesise(small, "100mb")
        out = self.scratch / "out"
        for name, base, options in (
            ("0.1 GB", small, []),
            ("0.1 GB, cast", small, ["--dtype", "float16"]),
            (f"{gb(self.base_bytes)} GB", self.base, []),
            (f"{gb(self.base_bytes)} GB, cast", self.base, ["--dtype", "float16"]),
        ):
            self.clear_output()
            out.mkdir()
            result = run(self.build_command(base, out / "solar", *options), watch=True)
            self.peaks[f"{name} base"] = result.peak
            say(f"  {name}: {mb(result.peak)} MB")
        self.clear_output()
        shutil.rmtree(small)

    def startup(self):
        times = [run([self.args.dus, "--help"]).wall for _ in range(REPEATS + 1)][1:]
        self.small_row("`dus --help`", times, "≤ 10 ms")
        self.raw["help"] = times

        shm = Path("/dev/shm")
        folder = shm if shm.is_dir() and os.access(shm, os.W_OK) else self.scratch
        self.tmpfs = Path(tempfile.mkdtemp(prefix="dus-benchmark-", dir=folder))
        synthesise(self.tmpfs / "base", "3.6mb")
        times = []
        for i in range(REPEATS + 1):
            out = self.tmpfs / f"solar-{i}"
            times.append(run(self.build_command(self.tmpfs / "base", out)).wall)
            shutil.rmtree(out)
        where = "on tmpfs" if folder == shm else "on disk (no /dev/shm here)"
        self.small_row(f"`dus build` of a 3.6 MB model {where}", times[1:], "≤ 50 ms")
        self.raw["build_3.6mb"] = times[1:]

    def plan(self):
        command = [self.args.dus, "plan", str(self.base), *PLAN]
        times = [run(command).wall for _ in range(REPEATS + 1)][1:]
        self.small_row("`dus plan` of SOLAR", times, "≤ 50 ms")
        self.raw["plan"] = times

    def small_row(self, title, times, target):
        row = [title, spread([t * 1000 for t in times], 1) + " ms", "", target]
        self.small_rows.append(row)
        say(f"{title}: {row[1]}")

    # -- shared extents

    def shared(self):
        if not IS_ROOT or platform.system() != "Linux":
            return self.skip("shared", "mounting an image needs Linux and root")
        free = shutil.disk_usage(self.dir).free
        if free < self.base_bytes * 1.1:
            return self.skip("shared", f"{self.dir} has only {gb(free)} GB free")
        for kind, mkfs in (
            ("xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"]),
            ("btrfs", ["mkfs.btrfs", "-q"]),
        ):
            if shutil.which(mkfs[0]) is None:
                self.skip(f"shared, {kind}", f"there is no {mkfs[0]}")
                continue
            try:
                self.shared_on(kind, mkfs)
            except Failed as error:
                self.skip(f"shared, {kind}", str(error))
            finally:
                self.unmount()

    def shared_on(self, kind, mkfs):
        image, mount = self.scratch / f"{kind}.img", self.scratch / kind
        # Sparse, and large enough for the output even if nothing were shared.
        size = int(self.base_bytes * 2.6) + (1 << 30)
        with open(image, "wb") as file:
            file.truncate(size)
        run(mkfs + [str(image)])
        mount.mkdir()
        run(["mount", "-o", "loop", str(image), str(mount)])
        self.mounts.append((mount, image))
        base, out = mount / "base", mount / "out"
        base.mkdir()
        say(f"{kind}: copying the base into an image")
        run(["cp"] + [str(f) for f in sorted(self.base.iterdir())] + [str(base)], sync=mount)

        results, growth = [], []
        for i in range(SHARED_REPEATS + 1):
            shutil.rmtree(out, ignore_errors=True)
            settle_used(mount, self.args.settle)
            before = used_bytes(mount)
            out.mkdir()
            command = self.build_command(base, out / "solar", "--shard-layout", "source")
            result = run(command, sync=out)
            settle_used(mount, 0)
            total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
            say(f"  dus  {result}")
            if i:
                results.append(result)
                growth.append((used_bytes(mount) - before) / total * 100)
        self.small_rows.append([
            f"`dus build --shard-layout source` on {kind}, {total:,} bytes",
            spread([r.total for r in results], 3) + " s",
            f"{spread(growth, 2)} % more blocks used",
            "≤ 1 s, ≤ 1 % blocks",
        ])  # fmt: skip
        self.peaks[f"{gb(total)} GB, shared on {kind}"] = max(r.peak for r in results)
        self.raw[f"shared_{kind}"] = {
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


def synthesise(out, preset):
    say(f"writing a synthetic base ({preset})")
    script = Path(__file__).with_name("synthetic_mistral.py")
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
