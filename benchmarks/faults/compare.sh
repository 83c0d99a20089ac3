#!/bin/sh
# compare.sh [PRESET [STEPS]]: what comparing replicas costs (faults.compare_every): two ranks that compare after
# every other step, so that steps with and without alternate in one run. Prints the milliseconds that a
# comparison takes and their share of the default interval.
set -eu
preset=${1:-gpt2-10m} steps=${2:-60}
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
command -v python3 >/dev/null || { echo "compare: python3 is needed" >&2; exit 3; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$lockstep" prep "$root/collectives" "$root/launch" -o "$work/data" --val 0.05 >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
"$root/tests/mpirun.sh" 2 "$lockstep" train model.preset="$preset" data.dir="$work/data" run.dir="$work/runs" run.name=r \
    run.steps="$steps" batch.sequences=4 batch.micro=2 model.context=128 eval.every=0 checkpoint.every=0 checkpoint.at_end=false \
    metrics.every=1 faults.compare_every=2 >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
interval=$("$lockstep" train --help | sed -n 's/.*faults.compare_every.*default \([0-9]*\).*/\1/p')
python3 - "$work/runs/r/train.jsonl" "${interval:-100}" <<'END'
import json, statistics, sys
records = [json.loads(line) for line in open(sys.argv[1])][4:-2]
interval = int(sys.argv[2])
def of(parity, key):
    return [key(r) for r in records if r["step"] % 2 == parity]
other = [of(p, lambda r: r["phase_seconds"]["other"]) for p in (0, 1)]
step = statistics.median(of(1, lambda r: r["seconds"]))
for name, take in (("median", statistics.median), ("mean", statistics.mean)):
    cost = take(other[0]) - take(other[1])
    print(f"{name} of {len(other[0])}: {cost * 1e3:.2f} ms a comparison, {100 * cost / (interval * step):.4f} % of {interval} steps "
          f"of {step * 1e3:.1f} ms")
END
