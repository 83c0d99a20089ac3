#!/bin/sh
# A run that would not fit its host's memory, its cgroup's or its GPU's is refused before it takes any, with figures and
# with what would need less. $EMULATED is a program with an emulated GPU of 4 GiB.
. "$(dirname "$0")/lib.sh"
make_corpus
# As if the host had so many KiB left: bound over /proc/meminfo for one command.
with_available() {
    kib=$1
    shift
    sed "s/^MemAvailable:.*/MemAvailable: $kib kB/" /proc/meminfo >"$work/meminfo"
    unshare -m sh -c 'mount --bind "$0" /proc/meminfo && exec "$@"' "$work/meminfo" "$@"
}
big="$tiny run.device=cpu model.layers=8 batch.sequences=16 batch.micro=8"

if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
    gives 3 with_available 5000 "$LOCKSTEP" train $big run.name=host
    says 'training would take [0-9.]* MiB of memory for 1 rank (from rank 0 on), and the host has 4.88 MiB free; a rank would take '
    for change in batch.micro=1 recompute.mode=full checkpoint.async=false; do
        says "[0-9.]* [KM]iB with $change"
    done
    holds [ ! -e "$work/runs/host" ]
    need=$(sed -n 's/.*would take \([0-9]*\)[0-9.]* MiB of memory for 1 rank.*/\1/p' "$work/err")
    # Enough for one rank is not enough for two, whose state can be divided.
    gives 0 with_available $(((need + 1) * 1536)) "$LOCKSTEP" train $big run.name=one
    gives 3 with_available $(((need + 1) * 1536)) "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $big run.name=two
    says 'memory for 2 ranks (from rank 0 on)'
    says 'with parallel.zero=3 parallel.shard=0 parallel.replicate=0'
    # Just enough: a warning.
    gives 0 with_available $(((need + 1) * 1040)) "$LOCKSTEP" train $big run.name=close
    says 'warning: .*what else runs there may take it'
    # Parameters that ranks would have in common, and a /dev/shm that they do not fit in: each rank gathers its own, and
    # the plan is that of these.
    common="$tiny model.layers=8 model.channels=512 model.ffn=1408 batch.sequences=4 batch.micro=1 run.steps=2 parallel.zero=3"
    with_shm() { unshare -m sh -c 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"' "$@"; }
    planned() { sed -n 's/.* data; \([0-9]*\)[0-9.]* MiB a rank.*/\1/p' "$work/err"; }
    gives 0 with_shm 128m "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $common run.name=common
    fails grep -q '/dev/shm has no room' "$work/err"
    planned >"$work/common"
    gives 0 with_shm 32m "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $common run.name=apart
    says '/dev/shm has no room for 1 x [0-9]* bytes: the ranks do not have them in common'
    holds [ "$(planned)" -gt "$(cat "$work/common")" ]
    gives 0 "$LOCKSTEP" ckpt diff "$work/runs/common" "$work/runs/apart"
else
    echo "skipped in part: another /proc/meminfo needs root"
fi

# A memory cgroup of its own, of the version that there is.
group=
for own in $(cat /proc/self/cgroup); do
    case "$own" in
    *:memory:*) group=/sys/fs/cgroup/memory${own##*:}/lockstep-test-$$ limit=memory.limit_in_bytes ;;
    0::*) group=${group:-/sys/fs/cgroup${own#0::}/lockstep-test-$$} limit=${limit:-memory.max} ;;
    esac
done
if [ "$group" ] && mkdir "$group" 2>/dev/null; then
    trap 'rmdir "$group" 2>/dev/null; rm -rf "$work"' EXIT
    if echo 400000000 2>/dev/null >"$group/$limit"; then
        gives 3 sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" \
            "$LOCKSTEP" train $big run.name=group model.channels=1024 model.ffn=4096
        says 'and the limit of cgroup .*lockstep-test-[0-9]* has [0-9.]* MiB free'
        inside() { sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"; }
        gives 0 inside "$LOCKSTEP" doctor
        prints '^WARN  memory .*the limit of cgroup .*lockstep-test-[0-9]* has [0-9.]* MiB free, of .* on the host: ask for more'
        # One that is killed says nothing itself.
        takes_much='head -c 1G /dev/zero | tail >/dev/null'
        gives 3 inside "$root/launch/supervise" --restarts 0 sh -c "$takes_much"
        says 'given up .*exit status 137; the kernel has killed a process of this job for lack of memory: lower batch.micro'
        gives 137 inside "$root/launch/mpirun/run.sh" -n 1 sh -c "$takes_much"
        says 'run.sh: the kernel has killed a process of this job for lack of memory'
    else
        echo "skipped in part: the cgroup has no memory controller"
    fi
else
    echo "skipped in part: no cgroup can be made"
fi

[ -n "${EMULATED:-}" ] || { echo "skipped in part: this build has no emulated GPU"; passed; exit; }
gives 3 "$EMULATED" train $tiny run.name=gpu run.device=emulated model.channels=4096 model.ffn=16384 model.layers=16
says 'the GPU has 4.00 GiB free'
says 'with recompute.mode=full'
passed
