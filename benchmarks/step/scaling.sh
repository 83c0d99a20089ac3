#!/bin/sh
# scaling.sh [MODEL [BATCH [SEQ [ROUNDS [STEPS]]]]]: what ranks cost. Times whole training steps (lockstep bench step) three
# ways in turn, ROUNDS times, and prints each round and the medians:
#   threads   1 rank of 2 threads, BATCH sequences a step
#   ranks     2 ranks of a thread, BATCH / 2 each: the same work, and gradients reduced
#   alone     1 rank of a thread, BATCH / 2, on a processor of its own: what weak scaling is held against
# Strong: speed of the ranks beside the threads. Weak: of the two ranks' tokens a second, the share of twice what one makes
# alone; the share that memory and clock leave to two processes that share nothing is printed with it (two such alone at once).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
model=${1:-gpt2-124m}
batch=${2:-4}
seq=${3:-1024}
rounds=${4:-3}
steps=${5:-2}
half=$((batch / 2))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bench() { # bench THREADS BATCH FILE COMMAND...: the command goes before the program
    threads=$1
    sequences=$2
    file=$3
    shift 3
    OMP_NUM_THREADS=$threads "$@" "$lockstep" bench step --model "$model" --batch "$sequences" --seq "$seq" --threads "$threads" \
        --repeat "$steps" --json >"$file" 2>/dev/null
}
seconds() { # of the steps in a file
    sed -n 's/^  "seconds": *\([0-9.e+-]*\).*/\1/p' "$1" | head -n 1
}
i=0
while [ "$i" -lt "$rounds" ]; do
    bench 2 "$batch" "$work/threads"
    bench 1 "$half" "$work/ranks" "$root/launch/mpirun/local.sh" 2
    bench 1 "$half" "$work/alone" taskset -c 0
    bench 1 "$half" "$work/first" taskset -c 0 &
    bench 1 "$half" "$work/second" taskset -c 1
    wait $!
    echo "$(seconds "$work/threads") $(seconds "$work/ranks") $(seconds "$work/alone") $(seconds "$work/first") $(seconds "$work/second")" |
        awk '{beside = ($4 + $5) / 2
              printf "threads %.3f s, ranks %.3f s, alone %.3f s, two apart at once %.3f s: strong %.3f, weak %.3f (apart %.3f)\n",
                     $1, $2, $3, beside, $1 / $2, $3 / $2, $3 / beside}' | tee -a "$work/rows"
    i=$((i + 1))
done
median() { # median WORD: of the number after it
    sed "s/.*$1 \([0-9.]*\).*/\1/" "$work/rows" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'
}
echo "median of $rounds: strong $(median strong), weak $(median weak), apart $(median '(apart')"
