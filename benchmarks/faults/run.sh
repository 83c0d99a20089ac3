#!/bin/sh
# run.sh [REPEATS]: how long a fault takes to be noticed, and to the next productive step, for every fault of
# tests/faults; the worst of so many runs each (3). Deadlines are those of the defaults.
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../../tests/faults/faults.py" --repeat "${1:-3}"
