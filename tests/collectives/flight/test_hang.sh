#!/bin/sh
# Jobs in which the highest rank goes wrong: named, recorded, ended with 3, nothing left behind.
set -eu
program=$1
root=$(cd "$(dirname "$0")/../../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/shm/0" "$work/shm/1" "$work/shm/2" "$work/shm/3"

fail() {
    echo "FAILED: $* ${TEST_BACKEND:-} ${TEST_OPERATION:-}" >&2
    sed 's/^/  stderr: /' "$work/err" >&2
    exit 1
}

left_behind() {
    find "$work/shm" -type f ! -path "${kept:-}"
}

# job STATUSES RANKS WAY [checks]: the records' directory is $work/run; nothing stays in $work/shm, or,
# where mpirun killed a rank before it could tidy up, the next job there removes it.
job() {
    expected=$1 ranks=$2
    shift 2
    rm -rf "$work/run"
    status=0
    timeout -k 5 60 "$root/tests/mpirun.sh" "$ranks" "$program" "$1" "$work/run" "$work/shm" ${2:+"$2"} \
        >"$work/out" 2>"$work/err" || status=$?
    case " $expected " in
    *" $status "*) ;;
    *) fail "$*: exit status $status, expected $expected" ;;
    esac
    if [ -n "$(left_behind)" ]; then
        "$root/tests/mpirun.sh" "$ranks" "$program" fine "$work/next" "$work/shm" >/dev/null 2>&1 ||
            fail "$*: the job after it failed"
        [ -z "$(left_behind)" ] || fail "$*: left behind, also by the job after it: $(left_behind)"
    fi
}
says() {
    grep -q -e "$1" "$work/err" || fail "stderr lacks '$1'"
}
records() { # records RANKS: a record of each, and every rank's last operation in it
    rank=0
    while [ $rank -lt "$1" ]; do
        grep -q '"kind": "all-reduce"' "$work/run/flight-$rank.json" || fail "no record of rank $rank"
        rank=$((rank + 1))
    done
}

job 0 3 fine
[ ! -e "$work/run" ] || fail "an orderly run wrote records"
job 0 2 fine checks
job 0 2 uneven
job 0 4 slow
job 0 3 suspend

never='REPORT rank 2 on host .* never entered all-reduce #6 of group world, bucket 4; last seen in backward of block 7, step 5'
for way in stop loop; do
    job 3 3 $way
    says "$never; it"
    records 3
done
says 'it still runs, but has made no progress'
export TEST_STUCK=all # the file system of the records, too
job 3 3 stop
says "$never; it"
unset TEST_STUCK
job 3 3 stop checks
says "$never; its process is stopped"
says '2 ranks wait for it'
job 3 2 in
says 'REPORT rank 1 on host .* did not finish all-reduce #6 .*; its process is stopped'
records 2
# In the middle of each operation, on each back end: stopped, or killed. Without LOCKSTEP_TEST_ALL, a
# choice of them.
in_operation() { # in_operation STATUS WAY BACKEND RANKS OPERATION
    export TEST_BACKEND="$3" TEST_OPERATION="$5"
    job "$1" "$4" "$2"
    case $2 in
    in) says "REPORT rank $(($4 - 1)) on host .*\(did not finish $5 #6\|never entered \|waiting in $5 \).*; its process is stopped" ;;
    *) says "REPORT rank $(($4 - 1)) on host .*; its process has ended" ;;
    esac
    unset TEST_BACKEND TEST_OPERATION
}
operations='all-reduce reduce reduce-scatter all-gather all-to-all broadcast send receive barrier'
for operation in $operations; do
    in_operation 3 in shm 2 "$operation"
done
for operation in reduce-scatter all-to-all receive; do
    in_operation 3 in mpi 2 "$operation"
done
for operation in all-reduce all-gather; do
    in_operation 3 in hier 4 "$operation"
done
for backend in mpi shm; do
    in_operation '137 3' die-in $backend 2 all-reduce
done
if [ "${LOCKSTEP_TEST_ALL:-}" ]; then
    for operation in $operations; do
        for place in "mpi 2" "mpi 3" "shm 3" "hier 4"; do
            # shellcheck disable=SC2086
            in_operation 3 in $place "$operation"
            # shellcheck disable=SC2086
            in_operation '137 3' die-in $place "$operation"
        done
    done
fi

job 3 2 leave
says 'REPORT rank 1 on host .* never entered all-reduce #6 .*; it has left the job'

# mpirun reports the signal of the rank that was killed, unless it is so late that another has ended, too.
job '137 3' 3 die
says 'REPORT rank 2 on host .*; its process has ended'
records 3

# Those that wait for nobody see it themselves, without a launcher's word.
export TEST_DEAF=1
job '137 3' 3 far
says 'REPORT rank 2 on host .*; its process has ended'
unset TEST_DEAF

# Nor does Open MPI end a rank whose connection breaks before that has told who is lost.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp
job '137 3' 2 break
says 'REPORT rank 1 on host .*; its process has ended'
unset OMPI_MCA_pml OMPI_MCA_btl

# The same between ranks that see no memory of each other; a stopped one can say nothing then.
export TEST_APART=1
job 0 4 slow
job 3 3 loop
says "$never; it still runs"
records 3
kept="$work/shm/2/*" # nobody else can remove it
job '137 3' 3 far    # those that are left wait for nobody
says 'REPORT rank 2 on host .* is silent; its process has ended'
rm -f "$work"/shm/2/*
kept="$work/shm/2/*" # nobody else can remove it
job 3 3 stop
kept=
says 'REPORT rank 2 on host .* is silent while rank 0 waits in all-reduce #6 of group world, bucket 4; its process is stopped'
records 2
unset TEST_APART
rm -f "$work"/shm/2/*
# The record of a rank that is killed before it has written it is left to another of its host.
rm -rf "$work/run"
status=0
timeout -k 5 60 "$root/tests/hosts.sh" 2 3 env TEST_STUCK=4 "$program" die "$work/run" "$work/shm" \
    >"$work/out" 2>"$work/err" || status=$?
if [ $status != 77 ]; then
    says 'REPORT rank 5 on host host1 .*; its process has ended'
    records 6
fi

# Calls that do not fit: found before they do harm with checks, or by the hang that they cause.
job 3 2 kind checks
says 'do not fit: rank [01] calls .*barrier #6 of group world'
says 'all-reduce #6 of group world with 1 int64 (sum)'
job 3 3 count checks
says 'all-reduce #6 of group world with 2 int64 (sum)'
says 'rank 2 calls '
job 3 2 dtype checks
says 'all-reduce #6 of group world with 1 float64 (sum)'
job 3 2 skip checks
says 'rank 1 calls all-gather #6 of group world with 8 bytes'
echo "passed"
