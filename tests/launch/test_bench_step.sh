#!/bin/sh
# lockstep bench step: every operation of a step is there, times add up, layouts and optimizers are
# taken from settings, nothing is left behind.
set -eu
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work/tmp"
mkdir "$TMPDIR"
fails() {
    echo "$1" >&2
    cat "$work/out" >&2
    exit 1
}
has() {
    grep -q -- "$1" "$work/out" || fails "the output lacks '$1'"
}

"$LOCKSTEP" bench step --model gpt2-tiny --batch 2 --seq 16 --repeat 2 >"$work/out" 2>&1 || fails "bench step"
for row in 'gemm forward 32x' 'gemm dX 32x' 'gemm dW ' 'attention forward' 'attention backward' 'norm forward' \
    'gelu backward' 'embedding backward' 'cross-entropy' 'adamw' 'gradient norm' 'all operations' 'between operations'; do
    has "$row"
done

"$LOCKSTEP" bench step --model llama3-tiny --batch 1 --seq 16 --repeat 1 --json optim.name=muon >"$work/out" 2>"$work/err"
# The seconds of the operations are those of operation_seconds, and no more than the step's.
awk -F'[:,]' '
    /^ *"operation_seconds"/ { inside = $2 }
    /^  "seconds"/ { step = $2 }
    /^      "seconds"/ { sum += $2; rows++ }
    END { exit !(rows > 10 && sum > 0.999 * inside && sum < 1.001 * inside && inside <= step) }
' "$work/out" || fails "the operations' seconds do not add up"
# Exponentials of 2 layers' 4 heads with 136 pairs of tokens, of 257 logits and of 176 gates a token, are in the floors.
awk -F'[:,]' '
    /^  "exps_per_s"/ { rate = $2 }
    /^      "exps"/ { exps = $2; seen[exps + 0]++ }
    /^      "floor_seconds"/ && $2 < 0.999 * exps / rate { exit 1 }
    END { exit !(rate > 0 && seen[1088] == 2 && seen[4112] == 1 && seen[5632] == 2) }
' "$work/out" || fails "the floors lack exponentials"
has '"optimizer": "muon"'
has '"name": "swiglu forward"'
has '"name": "sgd"' # Muon's last pass

sh "$here/../mpirun.sh" 2 "$LOCKSTEP" bench step --model llama3-tiny --batch 1 --seq 16 --repeat 1 \
    parallel.tensor=2 >"$work/out" 2>&1 || fails "bench step on two tensor ranks"
has '2 ranks'
has 'tensor ranks wait'

for wrong in 'gemm model.layers=1' 'step model.layer=1' 'step --batch 0' 'step --model gpt5'; do
    status=0
    # shellcheck disable=SC2086 # words
    "$LOCKSTEP" bench $wrong >"$work/out" 2>&1 || status=$?
    [ "$status" = 2 ] || fails "bench $wrong: exit status $status, expected 2"
done
[ -z "$(ls "$TMPDIR")" ] || fails "left behind: $(ls "$TMPDIR")"
