#!/bin/sh
# run.sh [FOLDER [LAYOUT ...]]: the communication that a step of training exposes on this machine, predicted by its profile
# (collectives/wire_cost.h, runtime/plan/operations.c) and measured, for layouts of 2 ranks. exposed.py defines what counts.
#
# The links of a virtual machine change by 2 or 3 times from one second to another, as its processors are moved: so they are
# measured before and after each run, and a round counts only where both give nearly the same prediction (exposed.py, STEADY).
# The layouts are gone through ROUNDS times (3; LIMIT_S: fewer where another would end more than so many seconds after the
# start), and medians of the rounds that count are compared.
#
# FOLDER (default: a new one, removed at the end) keeps the profile local.yaml, which is measured when it is missing, and each
# run's trace and ledger. LAYOUT: settings of one layout, such as "parallel.zero=3"; default: 8 of them. STEPS: so many of a
# run are looked at (8). DETAILS=1: what is predicted of each kind of operation, and each group's operations. LOCKSTEP names the
# binary (default: build/release/bin/lockstep of this tree).
set -eu
began=$(date +%s)
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
if [ $# -gt 0 ]; then
    work=$1
    mkdir -p "$work"
    shift
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
[ $# -gt 0 ] || set -- parallel.replicate=2 parallel.zero=1 parallel.zero=2 parallel.zero=3 parallel.tensor=2 \
    "parallel.tensor=2 parallel.sequence_parallel=true" parallel.context=2 parallel.pipeline=2
ranks() { "$root/launch/mpirun/local.sh" 2 "$@"; }

links() {
    ranks "$lockstep" bench collective --profile "$work/local.yaml" >"$work/collective.log" 2>&1 ||
        { cat "$work/collective.log" >&2; exit 1; }
}
if [ ! -e "$work/local.yaml" ]; then
    links
    ranks "$lockstep" bench machine --profile "$work/local.yaml" >"$work/machine.log" 2>&1
fi
[ -e "$work/data/data.json" ] || "$lockstep" prep "$root/runtime" "$root/launch" -o "$work/data" >/dev/null 2>&1

steps=${STEPS:-8} rounds=${ROUNDS:-3}
model="model.family=llama3 model.layers=6 model.channels=512 model.heads=8 model.kv_heads=4 model.ffn=1536
       model.context=256 model.vocab=8192 data.dir=$work/data batch.sequences=8 batch.micro=1 run.steps=$((steps + 3))
       checkpoint.at_end=false checkpoint.async=false eval.every=1000 run.threads=1 run.dir=$work/runs
       metrics.trace_steps=2..$((steps + 2)) cost.cluster=$work/local.yaml"
rm -rf "$work/runs"
round=1
while [ "$round" -le "$rounds" ]; do
    n=0
    links
    for layout; do
        n=$((n + 1))
        run=$work/runs/$n-$round
        # shellcheck disable=SC2086 # words
        ranks "$lockstep" train $model run.name="$n-$round" $layout >"$work/train.log" 2>&1 ||
            { cat "$work/train.log" >&2; exit 1; }
        links
        # shellcheck disable=SC2086
        "$lockstep" train --dry-run --ranks 2 $model $layout >"$run/plan_after.txt"
    done
    took=$(($(date +%s) - began))
    [ $((took + took / round)) -le "${LIMIT_S:-$((took * 2))}" ] || break
    round=$((round + 1))
done
printf '%-46s %12s %12s %8s %13s %12s %7s\n' layout 'predicted ms' 'measured ms' ratio 'of the rounds' 'waiting ms' rounds
n=0
for layout; do
    n=$((n + 1))
    python3 "$root/benchmarks/exposed/exposed.py" "$layout" "$work/runs/$n-"*
done
