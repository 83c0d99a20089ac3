#!/bin/sh
# gpu.sh: builds and runs everything for real on this machine's GPUs; needs no network. Without a GPU or nvcc it says
# `skipped: why` and ends with 77. Ends with a table of what passed, and one of figures beside what they should be;
# $TORCH_PYTHON (the python of an environment with PyTorch) and $LLMC_DIR (a checkout of llm.c with train_gpt2cu built) add
# comparisons. $PARTS: which of "tests benchmarks sanitizer" (all). To try the script: $GPU_SH_BUILD, a build that is there already,
# $DEVICE (cuda), $REPEATS of operations, $MODELS.
#
# Several ranks share a GPU where there are fewer GPUs than ranks: that is for correctness only.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=${GPU_SH_BUILD:-$root/build/gpu}

skip() {
    echo "skipped: $*"
    exit 77
}
command -v nvidia-smi >/dev/null || skip "no nvidia-smi: this machine has no NVIDIA driver"
nvidia-smi -L 2>/dev/null | grep -q GPU || skip "nvidia-smi lists no GPU"
[ -x /usr/local/cuda/bin/nvcc ] && PATH=$PATH:/usr/local/cuda/bin
[ "${GPU_SH_BUILD:-}" ] || command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] ||
    skip "no nvcc: install the CUDA Toolkit, or set CUDACXX"

PARTS=${PARTS:-tests benchmarks sanitizer}
for part in $PARTS; do
    case $part in tests | benchmarks | sanitizer) ;; *)
        echo "gpu.sh: PARTS has '$part'; its words are tests, benchmarks, sanitizer" >&2
        exit 2
        ;;
    esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=$work/results figures=$work/figures
: >"$results"
: >"$figures"
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
    printf '%-56s %-12s %6d s\n' "$name" "$word" $(($(date +%s) - start)) | tee -a "$results"
}
wants() { # wants PART
    case " $PARTS " in *" $1 "*) true ;; *) false ;; esac
}

configure() {
    generator=
    command -v ninja >/dev/null && generator="-G Ninja"
    # shellcheck disable=SC2086 # words
    cmake -S "$root" -B "$build" $generator -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLS_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES=native -DLS_EMULATED_DEVICE=OFF -DLS_WERROR=ON &&
        cmake --build "$build" --parallel "$(nproc)"
}

report() {
    echo
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    date -u '+%Y-%m-%d %H:%M UTC'
    cat "$results"
    echo
    awk -f "$root/tests/gpu/report.awk" "$figures"
}

ranks=$root/tests/gpu/ranks.sh

[ "${GPU_SH_BUILD:-}" ] || check "build" configure
if [ "$failures" -gt 0 ]; then
    cat "$results"
    exit 1
fi
tests=$build/tests
if wants tests; then
    check "operations against the reference" "$tests/device/test_kernels" cuda
    check "NCCL on 1 rank" "$ranks" 1 "$tests/gpu/test_comm_nccl"
    check "NCCL on 2 ranks" "$ranks" 2 "$tests/gpu/test_comm_nccl"
    check "NCCL on 4 ranks" "$ranks" 4 "$tests/gpu/test_comm_nccl"
    check "training on 1 rank against the CPU" "$ranks" 1 "$tests/gpu/test_train_gpu"
    check "training on 2 ranks against the CPU" "$ranks" 2 "$tests/gpu/test_train_gpu"
    check "layouts on 4 ranks against the CPU" "$ranks" 4 "$tests/layouts/test_layouts" gpu
    check "train, checkpoint GPU -> CPU -> GPU, eval, sample" \
        env LOCKSTEP="$build/bin/lockstep" "$root/tests/gpu/train.sh" "$build/bin/lockstep" "${DEVICE:-cuda}"
fi

# On a GPU that does nothing else.
if wants benchmarks; then
    check "operations beside their floors" "$build/benchmarks/gpu/bench_gpu" "${REPEATS:-20}" "$figures"
    product=$(sed -n 's/^# product //p' "$figures")
    export TORCH_PYTHON="${TORCH_PYTHON:-}" LLMC_DIR="${LLMC_DIR:-}"
    check "tokens/s of GPT-2 124M and 1558M" "$root/benchmarks/gpu/train.sh" "$build/bin/lockstep" "$work/train" 30 "$figures" \
        "$product"
fi

# Last, for it takes longest.
if wants sanitizer && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        check "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$tests/device/test_kernels" cuda
    done
fi
report
[ "$failures" -eq 0 ]
