#!/bin/sh
# layouts.sh [FOLDER [LAYOUT ...]]: measures this machine for the planner on 2 ranks of a thread, then trains a few steps
# of layouts and prints predicted beside measured seconds of a step, in all and by phase.
#
# FOLDER (default: a new one, removed at the end) keeps the profile local.yaml: it is measured when it is missing. LAYOUT:
# settings of one layout, such as "parallel.zero=3"; default: 8 of them. MODEL, STEPS: gpt2-10m, 7. LOCKSTEP names the
# binary (default: build/release/bin/lockstep of this tree).
set -eu
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
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ranks() { "$root/launch/mpirun/local.sh" 2 "$@"; }

if [ ! -e "$work/local.yaml" ]; then
    ranks "$lockstep" bench collective --profile "$work/local.yaml" >"$work/collective.log" 2>&1
    ranks "$lockstep" bench machine --profile "$work/local.yaml" >"$work/machine.log" 2>&1
fi
[ -e "$work/data/data.json" ] || "$lockstep" prep "$root/README.md" "$root/runtime" -o "$work/data" >/dev/null 2>&1

printf '%-46s %10s %10s %7s  %s\n' layout predicted measured error 'phases in ms, predicted and measured'
for layout; do
    rm -rf "$work/runs"
    # shellcheck disable=SC2086 # words
    ranks "$lockstep" train model.preset="${MODEL:-gpt2-10m}" data.dir="$work/data" run.dir="$work/runs" run.name=layout \
        run.steps="${STEPS:-7}" batch.sequences=16 batch.micro=2 eval.every=1000000 eval.batches=1 checkpoint.at_end=false \
        cost.cluster="$work/local.yaml" $layout >"$work/train.log" 2>&1 || { tail -n 3 "$work/train.log" >&2; exit 1; }
    awk -v layout="$layout" '
        { gsub(/[",:]/, " ") }
        $1 ~ /^(predicted|measured)_seconds$/ { kind = $1; next }
        kind && $1 == "}" { kind = "" }
        kind { t[kind, $1] = $2; if (!seen[$1]++) names[++n] = $1 }
        $1 ~ /_step_seconds$/ { step[$1] = $2 }
        END {
            p = step["predicted_step_seconds"]; m = step["measured_step_seconds"]
            printf "%-46s %8.3f s %8.3f s %+6.1f%% ", layout, p, m, 100 * (p / m - 1)
            for (i = 1; i <= n; i++) {
                a = t["predicted_seconds", names[i]]; b = t["measured_seconds", names[i]]
                if (a > 0.003 * m || b > 0.003 * m) printf " %s %.1f/%.1f", names[i], 1000 * a, 1000 * b
            }
            print ""
        }' "$work/runs/layout/ledger.json"
done
