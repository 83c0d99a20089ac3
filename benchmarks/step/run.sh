#!/bin/sh
# run.sh [MODEL [BATCH [SEQ [ROUNDS]]]]: how much of a training step is not matrix products. Times the
# products of the step alone (lockstep bench gemm) and whole optimizer steps (lockstep train, one
# rank, all processors) in turn, and prints the ratio of each pair and the median.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
model=${1:-gpt2-124m}
batch=${2:-4}
seq=${3:-1024}
rounds=${4:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$lockstep" prep /usr/include --include '*.h' -o "$work/data" >/dev/null 2>&1
vocab=$([ "${model#gpt2}" = "$model" ] && echo 128256 || echo 50257)
i=0
while [ "$i" -lt "$rounds" ]; do
    gemms=$("$lockstep" bench gemm --model "$model" --batch "$batch" --seq "$seq" --repeat 3 --json 2>/dev/null |
        sed -n 's/^  "seconds": *\([0-9.e+-]*\).*/\1/p')
    "$lockstep" train --quiet model.preset="$model" model.vocab="$vocab" data.dir="$work/data" data.sequence="$seq" \
        batch.sequences="$batch" batch.micro="$batch" run.steps=3 schedule.warmup_steps=1 eval.batches=1 \
        checkpoint.at_end=false run.dir="$work/runs" run.name="r$i" >/dev/null
    # the second step: the first pays for page faults, the last holds the evaluation
    step=$(sed -n 2p "$work/runs/r$i/train.jsonl" | sed -n 's/.*"seconds":\([0-9.e+-]*\).*/\1/p')
    echo "$step $gemms" | awk '{printf "step %.3f s, its matrix products %.3f s, ratio %.3f\n", $1, $2, $1 / $2}' |
        tee -a "$work/rows"
    i=$((i + 1))
done
awk '{print $NF}' "$work/rows" | sort -n | awk '{r[NR] = $1} END {printf "median ratio %.3f of %d pairs\n", r[int((NR + 1) / 2)], NR}'
