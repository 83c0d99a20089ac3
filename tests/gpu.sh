#!/bin/sh
# gpu.sh: builds and runs everything for real on this machine's GPUs; needs no network. Without a GPU or nvcc it says
# `skipped: why` and ends with 77. Ends with a table of what passed, and one of figures beside what they should be;
# $TORCH_PYTHON (the python of an environment with PyTorch) and $LLMC_DIR (a checkout of llm.c with train_gpt2cu built) add
# comparisons. $PARTS: which of "tests benchmarks sanitizer" (all). To try the script: $GPU_SH_BUILD, a build that is there already,
# $DEVICE (cuda), $REPEATS of operations, $MODELS (benchmarks/gpu/train.sh, each with about how many seconds it takes).
#
# Where a machine is had for minutes at a time: LIMIT_S=540 RESUME=1 tests/gpu.sh, again until it ends with 0. All is over after
# LIMIT_S seconds: no check begins that may take longer than what is left, and the most valuable come first; with RESUME=1 what has
# passed or failed on the same commit and GPU is not run again. Results, figures and what each check said (log.*) lie in
# build/gpu/results as they come, and the last call's tables have them all. A check is ended after CHECK_S seconds (420), or at the
# end, and is then to be run again.
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
began=$(date +%s) left=
state=$(git -C "$root" rev-parse HEAD 2>/dev/null; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)
mkdir -p "$kept"
if [ -z "${RESUME:-}" ] || [ "$state" != "$(cat "$kept/state" 2>/dev/null)" ]; then
    rm -f "$kept"/*
fi
echo "$state" >"$kept/state"
touch "$results"
# check NAME SECONDS COMMAND...: runs it, which takes about so long on an H200, and keeps a line for the table.
check() {
    name=$1 seconds=$2
    shift 2
    grep -qE "^$(printf '%-56s' "$name") (passed|FAILED)" "$results" && return
    start=$(date +%s)
    most=${CHECK_S:-420}
    if [ "${LIMIT_S:-}" ]; then
        rest=$((LIMIT_S - (start - began)))
        if [ "$seconds" -gt "$rest" ]; then
            left="$left
   $name ($seconds s)"
            return
        fi
        [ "$most" -lt "$rest" ] || most=$rest
    fi
    log=$kept/log.$(printf %s "$name" | tr -c 'A-Za-z0-9.' -)
    timeout -k 20 "$most" "$@" >"$log" 2>&1
    status=$?
    tail -n 80 "$log"
    case $status in
    0) word=passed ;;
    77) word=skipped ;;
    124 | 137) word="CUT OFF" ;;
    *) word="FAILED ($status)" ;;
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
        -DCMAKE_CUDA_ARCHITECTURES=native -DLS_EMULATED_DEVICE=OFF &&
        cmake --build "$build" --parallel "$(nproc)" --target lockstep test_kernels test_cudnn test_comm_nccl test_train_gpu \
            test_layouts bench_gpu
}

report() {
    echo
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    date -u '+%Y-%m-%d %H:%M UTC'
    cat "$results"
    [ -z "$left" ] || echo "did not fit into $LIMIT_S s, and the same call with RESUME=1 goes on with them:$left"
    echo
    cat "$kept"/figures.* 2>/dev/null | awk -v date="$(date -u +%F)" -v gpu="$(nvidia-smi \
        --query-gpu=name,driver_version --format=csv,noheader | head -n 1)" -f "$root/tests/gpu/report.awk"
}

ranks=$root/tests/gpu/ranks.sh

# Always: it finds out for itself what is there.
[ "${GPU_SH_BUILD:-}" ] || configure || {
    echo "gpu.sh: the build failed" >&2
    exit 1
}
tests=$build/tests bench=$root/benchmarks/gpu/train.sh
models=${MODELS:-gpt2-124m:16:12:12:768:45 gpt2-1558m:8:25:48:1600:110}

if wants tests; then
    check "operations against the reference" 60 "$tests/device/test_kernels" cuda
fi
# On a GPU that does nothing else.
if wants benchmarks; then
    check "operations beside their floors" 45 "$build/benchmarks/gpu/bench_gpu" "${REPEATS:-20}" "$kept/figures.operations"
    product=$(sed -n 's/^# product //p' "$kept/figures.operations" 2>/dev/null)
    for model in $models; do
        preset=${model%%:*}
        check "tokens/s of $preset" "${model##*:}" env MODELS="${model%:*}" PEERS= \
            "$bench" "$build/bin/lockstep" "$work/train" 30 "$kept/figures.train.$preset" "$product"
    done
fi
if wants tests; then
    check "attention by cuDNN against the reference" 20 "$tests/gpu/test_cudnn"
    check "NCCL on 1 rank" 15 "$ranks" 1 "$tests/gpu/test_comm_nccl"
    check "NCCL on 2 ranks" 25 "$ranks" 2 "$tests/gpu/test_comm_nccl"
    check "NCCL on 4 ranks" 40 "$ranks" 4 "$tests/gpu/test_comm_nccl"
    check "training on 1 rank against the CPU" 20 "$ranks" 1 "$tests/gpu/test_train_gpu"
    check "training on 2 ranks against the CPU" 30 "$ranks" 2 "$tests/gpu/test_train_gpu"
fi
# Most of it is compiling.
if wants benchmarks; then
    export TORCH_PYTHON="${TORCH_PYTHON:-}" LLMC_DIR="${LLMC_DIR:-}"
    for model in $models; do
        preset=${model%%:*}
        tokens=$(sed -n "s/^# tokens $preset //p" "$kept/figures.train.$preset" 2>/dev/null)
        for peer in torch.compile llm.c; do
            case $peer in torch.compile) seconds=$((${model##*:} * 2 + 20)) ;; *) seconds=${model##*:} ;; esac
            check "tokens/s of $preset by $peer" "$seconds" env MODELS="${model%:*}" PEERS="$peer" TOKENS="${tokens:-0}" \
                "$bench" "$build/bin/lockstep" "$work/train" 15 "$kept/figures.train.$preset.$peer"
        done
    done
fi
if wants tests; then
    check "train, checkpoint GPU -> CPU -> GPU, eval, sample" 240 \
        env LOCKSTEP="$build/bin/lockstep" "$root/tests/gpu/train.sh" "$build/bin/lockstep" "${DEVICE:-cuda}"
    for part in 0 1 2; do
        check "layouts on 4 ranks against the CPU, part $part of 3" 120 \
            env LS_LAYOUTS_PART=$part/3 "$ranks" 4 "$tests/layouts/test_layouts" gpu
    done
fi
# Last, for it takes longest.
if wants sanitizer; then
    for tool in memcheck racecheck synccheck; do
        check "compute-sanitizer $tool" 300 "$root/tests/gpu/sanitizer.sh" "$tool" "$tests/device/test_kernels" cuda
    done
fi
report
! grep -qE ' (FAILED \(|CUT OFF)' "$results" && [ -z "$left" ]
