#!/bin/sh
# gpu.sh: builds and runs everything for real on this machine's GPUs; needs no network. Without a GPU or nvcc it says
# `skipped: why` and ends with 77. Ends with a table of what passed, and one of figures beside what they should be;
# $TORCH_PYTHON (the python of an environment with PyTorch) and $LLMC_DIR (a checkout of llm.c with train_gpt2cu built) add
# comparisons. $PARTS: which of "tests benchmarks sanitizer" (all). To try the script: $GPU_SH_BUILD, a build that is there already,
# $DEVICE (cuda), $REPEATS of operations, $MODELS.
#
# Where a machine is had for minutes at a time: LIMIT_S=540 RESUME=1 tests/gpu.sh, again until it ends with 0. No check begins after
# LIMIT_S seconds; with RESUME=1 what has passed on the same commit and GPU is not run again. Results and figures lie in
# build/gpu/results and the last call's tables have them all. A check is ended after CHECK_S seconds (420) and has failed then.
#
# Where nothing can be built: `tests/gpu/pack.sh BUILD FILE` elsewhere, FILE unpacked into this tree and `. packed/env.sh` before.
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
kept=$build/results
results=$kept/table
began=$(date +%s) failures=0 left=0
state=$(git -C "$root" rev-parse HEAD 2>/dev/null; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)
mkdir -p "$kept"
if [ -z "${RESUME:-}" ] || [ "$state" != "$(cat "$kept/state" 2>/dev/null)" ]; then
    rm -f "$kept"/*
fi
echo "$state" >"$kept/state"
touch "$results"
# check NAME COMMAND...: runs it, and keeps a line for the table.
check() {
    name=$1
    shift
    grep -qF "$(printf '%-56s passed' "$name")" "$results" && return
    start=$(date +%s)
    if [ $((start - began)) -ge "${LIMIT_S:-1000000}" ]; then
        left=$((left + 1))
        return
    fi
    timeout -k 20 "${CHECK_S:-420}" "$@"
    status=$?
    case $status in
    0) word=passed ;;
    77) word=skipped ;;
    124 | 137) word="CUT OFF" failures=$((failures + 1)) ;;
    *)
        word="FAILED ($status)"
        failures=$((failures + 1))
        ;;
    esac
    grep -vF "$(printf '%-56s ' "$name")" "$results" >"$work/others"
    cp "$work/others" "$results"
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
    [ "$left" -eq 0 ] || echo "not begun within ${LIMIT_S:-} s: $left checks; the same call with RESUME=1 goes on"
    echo
    cat "$kept"/figures.* 2>/dev/null | awk -v date="$(date -u +%F)" -v gpu="$(nvidia-smi \
        --query-gpu=name,driver_version --format=csv,noheader | head -n 1)" -f "$root/tests/gpu/report.awk"
}

ranks=$root/tests/gpu/ranks.sh

# Always: it finds out for itself what is there.
[ "${GPU_SH_BUILD:-}" ] || configure || failures=1
if [ "$failures" -gt 0 ]; then
    echo "gpu.sh: the build failed" >&2
    exit 1
fi
tests=$build/tests
if wants tests; then
    check "operations against the reference" "$tests/device/test_kernels" cuda
    check "attention by cuDNN against the reference" "$tests/gpu/test_cudnn"
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
    check "operations beside their floors" "$build/benchmarks/gpu/bench_gpu" "${REPEATS:-20}" "$kept/figures.operations"
    product=$(sed -n 's/^# product //p' "$kept/figures.operations" 2>/dev/null)
    export TORCH_PYTHON="${TORCH_PYTHON:-}" LLMC_DIR="${LLMC_DIR:-}"
    for model in ${MODELS:-gpt2-124m:16:12:12:768 gpt2-1558m:8:25:48:1600}; do
        check "tokens/s of ${model%%:*}" env MODELS="$model" "$root/benchmarks/gpu/train.sh" "$build/bin/lockstep" "$work/train" 30 \
            "$kept/figures.train.${model%%:*}" "$product"
    done
fi

# Last, for it takes longest.
if wants sanitizer; then
    for tool in memcheck racecheck synccheck; do
        check "compute-sanitizer $tool" "$root/tests/gpu/sanitizer.sh" "$tool" "$tests/device/test_kernels" cuda
    done
fi
report
[ "$failures" -eq 0 ] && [ "$left" -eq 0 ]
