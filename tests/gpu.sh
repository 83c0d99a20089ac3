#!/bin/sh
# gpu.sh: builds and runs everything for real on this machine's GPUs; needs no network. Without a GPU,
# nvcc or NCCL it says `skipped: why` and ends with 77. Ends with a table of what passed.
#
# Several ranks share a GPU where there are fewer GPUs than ranks: that is for correctness only.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/gpu

skip() {
    echo "skipped: $*"
    exit 77
}
command -v nvidia-smi >/dev/null || skip "no nvidia-smi: this machine has no NVIDIA driver"
nvidia-smi -L 2>/dev/null | grep -q GPU || skip "nvidia-smi lists no GPU"
command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || [ -x /usr/local/cuda/bin/nvcc ] ||
    skip "no nvcc: install the CUDA Toolkit, or set CUDACXX"

results=$(mktemp)
trap 'rm -f "$results"' EXIT
failures=0
# check NAME COMMAND...: runs it, and keeps a line for the table.
check() {
    name=$1
    shift
    start=$(date +%s)
    "$@"
    status=$?
    case $status in
    0) word=passed ;;
    77) word=skipped ;;
    *)
        word="FAILED ($status)"
        failures=$((failures + 1))
        ;;
    esac
    printf '%-44s %-12s %6d s\n' "$name" "$word" $(($(date +%s) - start)) >>"$results"
}

configure() {
    cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLS_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES=native -DLS_EMULATED_DEVICE=OFF -DLS_WERROR=ON &&
        cmake --build "$build"
}

ranks=$root/tests/gpu/ranks.sh

check "build" configure
if [ "$failures" -gt 0 ]; then
    cat "$results"
    exit 1
fi
tests=$build/tests
check "operations against the reference" "$tests/device/test_kernels" cuda
check "NCCL on 1 rank" "$ranks" 1 "$tests/gpu/test_comm_nccl"
check "NCCL on 2 ranks" "$ranks" 2 "$tests/gpu/test_comm_nccl"
check "NCCL on 4 ranks" "$ranks" 4 "$tests/gpu/test_comm_nccl"
check "training on 1 rank against the CPU" "$ranks" 1 "$tests/gpu/test_train_gpu"
check "training on 2 ranks against the CPU" "$ranks" 2 "$tests/gpu/test_train_gpu"
check "layouts on 4 ranks against the CPU" "$ranks" 4 "$tests/layouts/test_layouts" gpu
check "train, checkpoint GPU -> CPU -> GPU, eval, sample" \
    env LOCKSTEP="$build/bin/lockstep" "$root/tests/gpu/train.sh" "$build/bin/lockstep" cuda
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        check "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$tests/device/test_kernels" cuda
    done
fi

# Benchmarks, on a GPU that does nothing else; benchmarks/README.md has what they are compared with.
bench=$(mktemp -d)
trap 'rm -rf "$results" "$bench"' EXIT
check "operations beside their floors" "$build/benchmarks/gpu/bench_gpu"
check "tokens/s of GPT-2 124M and 1558M" "$root/benchmarks/gpu/train.sh" "$build/bin/lockstep" "$bench"

echo
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
cat "$results"
[ "$failures" -eq 0 ]
