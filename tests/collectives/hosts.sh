#!/bin/sh
# hosts.sh TEST_COMM_HOSTS: two hosts: operations, a training run that does not depend on them, and a
# host that freezes.
. "$(dirname "$0")/../launch/lib.sh"
program=$1
on_hosts() { "$root/tests/hosts.sh" "$@"; }

status=0
on_hosts 2 2 "$program" 2 hier >"$work/out" 2>"$work/err" || status=$?
[ $status != 77 ] || { cat "$work/out"; exit 77; }
holds [ $status = 0 ]
gives 0 on_hosts 2 1 "$program" 2 mpi # one rank on each
# Hosts with an interface that has no link, beside an administrator's choice of interfaces, and without one.
without_link='ip link add eth7 type veth peer name eth8 && ip addr add 10.78.0.$((OMPI_COMM_WORLD_RANK + 1))/24 dev eth7 &&
    ip link set eth7 up && exec "$0" 2 mpi'
gives 0 env OMPI_MCA_pml=ob1 "$root/tests/hosts.sh" 2 1 sh -c "$without_link" "$program"
echo 'btl_tcp_if_include = eth0' >"$work/mca-params.conf"
gives 0 env OMPI_MCA_pml=ob1 OMPI_MCA_mca_base_param_files="$work/mca-params.conf" "$root/tests/hosts.sh" 2 1 sh -c "$without_link" "$program"
gives 2 on_hosts 2 1 "$LOCKSTEP" bench collective --backend shm -e 8
says 'lie on 2 hosts, and the back end shm serves those of one'
# Ctrl-C while ranks run.
env --default-signal=INT "$root/tests/hosts.sh" 2 1 sleep 1000 >"$work/out" 2>"$work/err" &
pid=$!
until ip netns pids "ls-$pid-1" 2>/dev/null | xargs -r ps -o comm= -p | grep -q sleep; do
    kill -0 "$pid" 2>/dev/null || fail "no ranks"
done
kill -INT "$pid"
status=0
wait "$pid" || status=$?
holds [ $status = 130 ]
[ -z "$(ip netns list | grep "^ls-$pid-" || true)" ] || fail "namespaces are left"

make_corpus
here=$root/tests/launch
gives 0 on_hosts 2 2 "$LOCKSTEP" train $tiny run.name=two numerics.reduction=invariant batch.micro=1 checkpoint.writers=node
says 'on 4 ranks of 1 thread, 2 hosts'
holds [ "$(find "$work/runs/two/checkpoints" -name 'node-0000[01].h5' | wc -l)" = 2 ] # one a host
gives 0 ranks 4 "$LOCKSTEP" train $tiny run.name=one numerics.reduction=invariant batch.micro=1
says 'on 4 ranks of 1 thread, 1 host'
gives 0 "$LOCKSTEP" ckpt diff "$work/runs/one" "$work/runs/two"

begin() { # begin NAME RANKS SETTINGS...: on each of two hosts, until it has made some steps
    name=$1 ranks=$2
    shift 2
    "$root/tests/hosts.sh" 2 "$ranks" "$LOCKSTEP" train $tiny run.name="$name" run.steps=1000000 "$@" \
        >"$work/out" 2>"$work/err" &
    pid=$!
    trap 'kill $pid 2>/dev/null || true; rm -rf "$work"' EXIT
    until [ "$(wc -l 2>/dev/null <"$work/runs/$name/train.jsonl" || echo 0)" -ge 5 ]; do
        kill -0 "$pid" 2>/dev/null || fail "the run ended early"
    done
}

# Everything on the second host stops: its ranks are silent, and one of them is named.
begin frozen 2 faults.min_deadline_s=5
frozen=$(ip netns pids "ls-$pid-1")
# shellcheck disable=SC2086
kill -STOP $frozen
until grep -q 'error: ' "$work/err" || ! kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
# mpirun waits for its daemon on that host.
# shellcheck disable=SC2086
kill -CONT $frozen 2>/dev/null || true
status=0
wait $pid || status=$?
holds [ "$status" = 3 ]
says 'error: .*rank [23] on host host1 '

on_host() { # on_host NUMBER NAME: its process of that name
    ip netns pids "ls-$pid-$1" | while read -r process; do
        [ "$(cat "/proc/$process/comm")" != "$2" ] || echo "$process"
    done
}

# Its only rank is killed. Nobody sees that in memory; mpirun ends the other one two seconds later, long before it would
# look by itself.
begin killed 1 faults.min_deadline_s=100
kill -KILL "$(on_host 1 lockstep)"
status=0
wait $pid || status=$?
holds [ "$status" != 0 ]
says 'error: .*rank 1 on host host1 .*; its process has ended'
holds grep -q '^3 rank 0 on host0: rank 1 on host host1 ' "$work/runs/killed/outcome"

# The first of its signals is enough, a second before it asks to end.
begin asked 1 faults.min_deadline_s=100
mpirun=$(on_host 0 mpirun && on_host 0 prterun) # as Open MPI 5 calls itself
kill -STOP "$mpirun"
kill -KILL "$(on_host 1 lockstep)"
kill -CONT "$(on_host 0 lockstep)"
late=$(($(date +%s) + 40)) # half a deadline is when it looks by itself
until [ -s "$work/runs/asked/outcome" ] || [ "$(date +%s)" -gt "$late" ]; do :; done
kill -CONT "$mpirun"
wait $pid || true
holds grep -q '^3 rank 0 on host0: rank 1 on host host1 ' "$work/runs/asked/outcome"
passed
