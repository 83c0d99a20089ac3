#!/bin/sh
# run.sh [RUNS [PRESET]]: seconds from starting mpirun to the end of the first optimizer step of a
# 10M model (or the preset's) on 2 ranks, 2 sequences of 256 tokens, and an evaluation batch: process
# start, MPI, data (checked), model, one step. The first run, with cold caches, is not counted.
# Prints each run and the median.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
runs=${1:-7} model=${2:-gpt2-10m}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$lockstep" prep "$root" --include '*.[ch]' --val 0.1 -o "$work/data" >/dev/null 2>&1
i=0
while [ "$i" -le "$runs" ]; do
    began=$(date +%s.%N)
    "$root/launch/mpirun/local.sh" 2 "$lockstep" train --quiet model.preset="$model" \
        model.context=256 data.dir="$work/data" run.dir="$work/runs" run.name="r$i" run.steps=1 \
        schedule.warmup_steps=0 batch.sequences=2 batch.micro=1 eval.batches=1 checkpoint.at_end=false >/dev/null
    ended=$(sed -n '1s/.*"time":\([0-9.]*\).*/\1/p' "$work/runs/r$i/train.jsonl")
    [ "$i" = 0 ] || echo "$began $ended" | awk '{printf "%.3f\n", $2 - $1}' | tee -a "$work/times"
    i=$((i + 1))
done
sort -n "$work/times" | awk '{t[NR] = $1} END {printf "median %.3f s of %d runs (lowest %.3f, highest %.3f)\n", t[int((NR + 1) / 2)], NR, t[1], t[NR]}'
