#!/bin/sh
# checks.sh [PAIRS [STEPS [PRESET]]]: what faults.check_collectives costs a training step (of gpt2-10m) on 2
# ranks: runs with and without it in turn; the ratio of the median steps of each pair, and their median.
set -eu
pairs=${1:-5} steps=${2:-12} preset=${3:-gpt2-10m}
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
command -v python3 >/dev/null || { echo "checks: python3 is needed" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$lockstep" prep "$root/collectives" "$root/launch" -o "$work/data" --val 0.05 >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
pair=0
while [ $pair -lt "$pairs" ]; do
    order="false true"
    [ $((pair % 2)) -eq 0 ] || order="true false" # what the machine does meanwhile falls on both
    for checks in $order; do
        "$root/tests/mpirun.sh" 2 "$lockstep" train model.preset="$preset" data.dir="$work/data" run.dir="$work/runs" \
            run.name="$pair-$checks" run.steps="$steps" batch.sequences=4 batch.micro=1 model.context=128 eval.every=0 \
            checkpoint.at_end=false faults.check_collectives=$checks >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
    done
    pair=$((pair + 1))
done
python3 - "$work/runs" "$pairs" <<'END'
import json, statistics, sys
runs, pairs = sys.argv[1], int(sys.argv[2])
def step(name):
    return statistics.median(json.loads(line)["seconds"] for line in list(open(f"{runs}/{name}/train.jsonl"))[2:])
ratios = []
for pair in range(pairs):
    without, checked = step(f"{pair}-false"), step(f"{pair}-true")
    ratios.append(checked / without)
    print(f"pair {pair}: {without * 1e3:.1f} ms without, {checked * 1e3:.1f} ms with, ratio {ratios[-1]:.3f}")
print(f"median ratio {statistics.median(ratios):.3f}")
END
