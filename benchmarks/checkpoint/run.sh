#!/bin/sh
# run.sh [DIR [MIB [THREADS [ROUNDS]]]]: everything that is measured of checkpoints, on the disk of DIR
# (a new folder beside this tree's build). LOCKSTEP_BUILD: another build folder. LOCKSTEP_PEER_PYTHON: a
# python with torch, to measure torch.save and torch.distributed.checkpoint beside it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${LOCKSTEP_BUILD:-$here/../../build/release}
mib=${2:-1024} threads=${3:-$(nproc)} rounds=${4:-5}
directory=${1:-$build/bench-checkpoint}
mkdir -p "$directory"
OMP_NUM_THREADS=$threads "$build/benchmarks/checkpoint/bench_checkpoint" "$directory" "$mib" "$threads" "$rounds"
"$build/benchmarks/checkpoint/bench_list" "$directory" "$build/bin/lockstep"
OMP_NUM_THREADS=$threads "$build/benchmarks/checkpoint/bench_stall" "$directory" "$mib" "$threads" "$rounds"
if [ -n "${LOCKSTEP_PEER_PYTHON:-}" ]; then
    "$LOCKSTEP_PEER_PYTHON" "$here/peers.py" "$directory" "$mib" "$threads" "$rounds"
else
    echo "LOCKSTEP_PEER_PYTHON is not set: no comparison with torch"
fi
rmdir "$directory" 2>/dev/null || true
