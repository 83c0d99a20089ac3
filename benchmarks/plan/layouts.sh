#!/bin/sh
# layouts.sh [MODEL [STEPS]]: measures this machine for the planner on 2 ranks, then trains a few steps
# of layouts and prints predicted beside measured seconds of a step. Default: gpt2-10m 12.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
model=${1:-gpt2-10m}
steps=${2:-12}
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$lockstep" prep "$root/README.md" "$root/runtime" -o "$work/data" >/dev/null 2>&1
"$root/tests/mpirun.sh" 2 "$lockstep" bench collective --profile "$work/local.yaml" >/dev/null
"$root/tests/mpirun.sh" 2 "$lockstep" bench machine --profile "$work/local.yaml" >/dev/null
printf '%-34s %12s %12s %8s  %s\n' layout predicted measured error 'most in'
i=0
for layout in parallel.replicate=2 parallel.tensor=2 "parallel.tensor=2 parallel.sequence_parallel=true" \
              parallel.pipeline=2 parallel.context=2 parallel.zero=1 parallel.zero=2 parallel.zero=3; do
    i=$((i + 1))
    # shellcheck disable=SC2086
    "$root/tests/mpirun.sh" 2 "$lockstep" train model.preset="$model" data.dir="$work/data" run.dir="$work/runs" \
        run.name="r$i" run.steps="$steps" batch.sequences=16 batch.micro=2 eval.batches=1 checkpoint.at_end=false \
        cost.cluster="$work/local.yaml" $layout >"$work/log" 2>&1 || { tail -n 3 "$work/log" >&2; exit 1; }
    json=$work/runs/r$i/ledger.json
    value() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" "$json"; }
    echo "$layout" | awk -v p="$(value predicted_step_seconds)" -v m="$(value measured_step_seconds)" \
        -v w="$(value differs_most_in)" '{ gsub(/parallel\./, ""); printf "%-34s %10.3f s %10.3f s %+7.1f%%  %s\n", $0, p, m, 100 * (p / m - 1), w }'
done
