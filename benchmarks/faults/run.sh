#!/bin/sh
# run.sh [REPEATS [OPTIONS]]: how long a fault takes to be noticed, and to the next productive step, for every
# fault of tests/faults; the worst of so many runs each (3). Deadlines are those of the defaults. OPTIONS as
# --only kill-rank,cut are faults.py's.
here=$(cd "$(dirname "$0")" && pwd)
repeats=${1:-3}
[ $# = 0 ] || shift
exec "$here/../../tests/faults/faults.py" --repeat "$repeats" "$@"
