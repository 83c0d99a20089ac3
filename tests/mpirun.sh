#!/bin/sh
# mpirun.sh RANKS COMMAND...: mpirun as tests need it: as root in containers, more ranks than
# processors, no binding (two jobs may run side by side).
ranks=$1
shift
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# What Open MPI and PMIx leave behind at the end is not ours to report.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# As launch/mpirun/run.sh does, so that no test waits for hours; neither a child of mpirun's, nor with its command line.
(sh -c '. "$0"; end_bereft "$1"' "$(dirname "$0")/../launch/ask.sh" $$ </dev/null >/dev/null 2>&1 &)
exec mpirun --oversubscribe --bind-to none --mca btl_base_warn_component_unused 0 -n "$ranks" "$@"
