#!/bin/sh
# local.sh RANKS PROGRAM ARGS...: mpirun on this machine; run.sh in the same folder has more.
#
#   launch/mpirun/local.sh 2 build/release/bin/lockstep train CONFIG.yaml --resume
case "${1:-}" in
-h | --help)
    sed -n '2,4s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
'' | *[!0-9]*)
    echo "local.sh: the number of ranks is '${1:-}'; a whole number is needed, and then the program" >&2
    exit 2
    ;;
esac
ranks=$1
shift
exec "$(dirname "$0")/run.sh" -n "$ranks" -- "$@"
