#!/bin/sh
# local.sh RANKS PROGRAM ARGS...: mpirun on this machine.
#
#   launch/mpirun/local.sh 2 build/release/bin/lockstep train CONFIG.yaml --resume
#
# - Works as root (containers) and with more ranks than processors.
# - Leaves the processors unbound: lockstep shares them out among the ranks of a host itself.
# - Ctrl-C, SIGTERM and SIGUSR1 become SIGUSR1 for the ranks, so that they finish the step and save; mpirun
#   alone would kill them a second later. A second Ctrl-C ends the job at once.
# The exit status is that of the program.
set -u
case "${1:-}" in
'' | -h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
    exit 2
    ;;
*[!0-9]*)
    echo "local.sh: the number of ranks is '$1'; a whole number is needed" >&2
    exit 2
    ;;
esac
ranks=$1
shift
command -v mpirun >/dev/null || {
    echo "local.sh: mpirun is not installed; on Debian: apt-get install openmpi-bin" >&2
    exit 3
}
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# In a session of its own, so that a terminal's Ctrl-C reaches this script only.
setsid mpirun --quiet --oversubscribe --bind-to none -n "$ranks" "$@" &
job=$!
asked=0
stop() {
    asked=$((asked + 1))
    if [ "$asked" = 1 ]; then
        echo "local.sh: asking the ranks to save and stop; once more to end them at once" >&2
        kill -USR1 "$job"
    else
        kill -TERM "$job"
    fi
}
trap stop INT TERM
trap 'kill -USR1 "$job"' USR1
while :; do
    wait "$job"
    status=$?
    kill -0 "$job" 2>/dev/null || break
done
exit "$status"
