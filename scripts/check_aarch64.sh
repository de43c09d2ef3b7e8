#!/usr/bin/env bash
# The unit tests of `infer` as compiled for aarch64, on an emulated processor: `scripts/check_aarch64.sh [FILTER]`.
#
# Needs a linker and an emulator (Debian's gcc-aarch64-linux-gnu and qemu-user) and the target's standard
# library: `rustup target add aarch64-unknown-linux-gnu`, or its source, which is then compiled as well. That
# is rustup's component rust-src, or the folder `library` of Rust's source of the same version in RUST_SRC.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
rustlib=$(rustc --print sysroot)/lib/rustlib
version=$(rustc --version | cut -d ' ' -f 2)
options=(--locked -p infer --lib --target "$target")
if [ ! -d "$rustlib/$target" ]; then
    for source in "${RUST_SRC:-}" "$rustlib/src/rust/library" "/usr/src/rustc-$version/library"; do
        [ -f "$source/std/Cargo.toml" ] && break
    done
    [ -f "$source/std/Cargo.toml" ] || { echo "no standard library for $target, nor its source" >&2; exit 1; }
    # A stable cargo compiles it only if told that it may, and looks beside rustc only if told nothing.
    export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$source
    options+=(-Zbuild-std=std,panic_unwind,test)
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/check-aarch64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${LINKER:-aarch64-linux-gnu-gcc}
# Emulated instructions are slow: there should be few.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0
# One processor with sums of products of bytes, and one without.
for processor in max cortex-a72; do
    echo "$ qemu-aarch64 -cpu $processor"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $processor -L /usr/aarch64-linux-gnu"
    cargo test "${options[@]}" -- "$@"
done
