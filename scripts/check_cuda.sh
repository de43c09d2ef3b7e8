#!/usr/bin/env bash
# Type-checks `infer` with the features `candle-cuda` and `cuda`, one after the other, where there is no CUDA: `scripts/check_cuda.sh [check|clippy]`.
#
# candle's build script compiles kernels with nvcc, which takes minutes and a toolkit; for types they do
# not matter. A stand-in for nvcc leaves empty files where the kernels would be. They must never reach a
# real build, so all of this has a target folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

stand_in=$(mktemp -d)
trap 'rm -rf "$stand_in"' EXIT
mkdir "$stand_in/bin" "$stand_in/include"
cat >"$stand_in/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
folder=. out=
while [ $# -gt 0 ]; do
    case $1 in
    --version) echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit ;;
    --list-gpu-code) echo sm_90; exit ;;
    --output-directory) folder=$2; shift ;;
    -o) out=$2; shift ;;
    *.cu) source=$1 ;;
    esac
    shift
done
[ -n "$out" ] || out=$folder/$(basename "${source:?}" .cu).ptx
: >"$out"
NVCC
chmod +x "$stand_in/bin/nvcc"

export NVCC=$stand_in/bin/nvcc PATH=$stand_in/bin:$PATH
export CUDA_HOME=$stand_in CUDA_PATH=$stand_in CUDA_ROOT=$stand_in
export CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/check-cuda
if [ "${1:-clippy}" = clippy ]; then
    cargo clippy --locked -p infer --features candle-cuda --all-targets -- -D warnings
else
    cargo check --locked -p infer --features candle-cuda
fi

# Kernels of our own are left out where there is no nvcc, so they need no stand-in.
unset NVCC CUDA_HOME CUDA_PATH CUDA_ROOT
PATH=${PATH#"$stand_in/bin:"}
if [ "${1:-clippy}" = clippy ]; then
    cargo clippy --locked -p infer --features cuda --all-targets -- -D warnings
else
    cargo check --locked -p infer --features cuda
fi
