#!/bin/sh
# nvtx.sh INJECTION: a profiler sees a range for each block and phase of a step.
. "$(dirname "$0")/../launch/lib.sh"
make_corpus
export NVTX_INJECTION64_PATH="$1" NVTX_RANGES="$work/ranges"
gives 0 "$LOCKSTEP" train model.family=gpt2 model.layers=2 model.channels=16 model.heads=2 model.ffn=32 model.context=16 \
    data.dir="$data" run.dir="$work/runs" run.name=nvtx run.device=cpu run.steps=1 batch.sequences=2 batch.micro=1 \
    eval.batches=1 checkpoint.at_end=false
for range in 'data loading' 'forward 0' 'forward 3' 'backward 3' 'backward 0' 'reduction of gradients' 'update of weights'; do
    holds grep -qx "$range" "$work/ranges"
done
passed
