#!/bin/sh
# run.sh [FOLDER]: the communication that a step of training exposes on this machine, predicted by its profile and
# measured, for layouts of 2 ranks.
#
# FOLDER (default: a new one, removed at the end) keeps the profile local.yaml: it is measured when it is missing.
# LOCKSTEP names the binary (default: build/release/bin/lockstep of this tree).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
if [ $# -gt 0 ]; then
    work=$1
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
ranks() { "$root/launch/mpirun/local.sh" 2 "$@"; }

if [ ! -e "$work/local.yaml" ]; then
    ranks "$lockstep" bench collective --profile "$work/local.yaml" >"$work/collective.log" 2>&1
    ranks "$lockstep" bench machine --profile "$work/local.yaml" >"$work/machine.log" 2>&1
fi
[ -e "$work/data/data.json" ] || "$lockstep" prep "$root/runtime" "$root/launch" -o "$work/data" >/dev/null 2>&1

sum() { # sum KEY FILE: of the communication phases in an object of the ledger, in ms
    awk -v key="\"$1\":" '$1 == key { inside = 1; next } inside && /}/ { exit }
        inside { gsub(/[",:]/, " "); if ($1 ~ /^communication/) total += $2 }
        END { printf "%.2f", 1000 * total }' "$2"
}
printf '%-46s %12s %12s %8s\n' layout 'predicted ms' 'measured ms' 'ratio'
model="model.family=llama3 model.layers=6 model.channels=512 model.heads=8 model.kv_heads=4 model.ffn=1536
       model.context=256 model.vocab=8192 data.dir=$work/data batch.sequences=8 batch.micro=1 run.steps=7
       checkpoint.at_end=false checkpoint.async=false eval.every=1000 run.threads=1 run.dir=$work/runs run.name=exposed
       cost.cluster=$work/local.yaml"
while read -r layout; do
    rm -rf "$work/runs"
    # shellcheck disable=SC2086 # words
    ranks "$lockstep" train $model $layout >"$work/train.log" 2>&1 || { cat "$work/train.log" >&2; exit 1; }
    ledger=$work/runs/exposed/ledger.json
    predicted=$(sum predicted_seconds "$ledger")
    measured=$(sum measured_seconds "$ledger")
    awk -v layout="$layout" -v p="$predicted" -v m="$measured" \
        'BEGIN { printf "%-46s %12.2f %12.2f %8.2f\n", layout, p, m, (p > 0 ? m / p : 0) }'
done <<END
parallel.replicate=2
parallel.zero=1
parallel.zero=2
parallel.zero=3
parallel.tensor=2
parallel.tensor=2 parallel.sequence_parallel=true
parallel.context=2
parallel.pipeline=2
END
