#!/bin/sh
# launch/mpirun/run.sh: the command that it makes of its options; ranks bound by their GPU; and a run that goes on
# without a host that is gone, with the same bytes.
. "$(dirname "$0")/lib.sh"
run=$root/launch/mpirun/run.sh

# What it would run. Hosts and adapters come from files and options alone.
printf '# rack 1\na slots=2\nb slots=2\n\n' >"$work/hosts"
gives 0 "$run" --dry-run --hostfile "$work/hosts" program x
prints '^mpirun .*-H a:2,b:2 .*-n 4 program x$'
gives 0 "$run" --dry-run --hosts a:8,b -n 5 --bind numa --interface 10.0.0.0/8 program
prints '-H a:8,b:1 .*btl_tcp_if_include 10.0.0.0/8 .*-n 5 program$'
prints 'bind-to numa'
gives 0 env NCCL_DEBUG=INFO "$run" --dry-run --hostfile "$work/hosts" --gpus 4 --cluster aws-p6e-gb200-x72 --interface eth7 program
prints '^NCCL_MNNVL_ENABLE=1'
prints '^NCCL_DEBUG=INFO' # what was set counts
prints '^NCCL_SOCKET_IFNAME=eth7'
prints '-H a:4,b:4 .*-x NCCL_MNNVL_ENABLE .*-n 8 .*/bind.sh program$'
gives 0 "$run" --dry-run --hosts a --agent 'ssh -p 22' sh -c "echo it's"
prints "^OMPI_MCA_plm_rsh_agent='ssh -p 22' "
prints "^PRTE_MCA_plm_ssh_agent='ssh -p 22' " # Open MPI 5's
prints " sh -c 'echo it'"
eval "set -- $(sed -n 's/^mpirun .* -n 1 //p' "$work/out")" # as a shell reads it
holds [ "$3" = "echo it's" ]
gives 2 "$run" program
says 'how many ranks'
gives 2 "$run" -n many program
says "'many'"
gives 2 "$run" --cluster nowhere -n 1 program
says "no cluster profile 'nowhere'"
gives 2 "$run" --hostfile "$work/none" program
gives 2 "$run" --frobnicate program
gives 2 "$run" --hosts a:2,b:x program
says "host b has 'x' slots"
gives 2 "$run" -n 2
says 'no program is given'
printf 'a\nb:3\n' >"$work/colon"
gives 2 "$run" --hostfile "$work/colon" program
says "'b:3' in '$work/colon' is no host's name"
# What mpirun would end on without a word.
gives 2 "$run" -n 2 "$work/none"
says "there is no program '$work/none'"
gives 2 "$run" --hosts a:2 --agent "$work/none -p 22" program
says "'$work/none', which reaches other hosts"
gives 2 "$run" -n 2 --interface none0 true
says "this machine is not on 'none0'; it has "
gives 2 env LOCKSTEP_START_LIMIT_S=soon "$run" -n 2 "$LOCKSTEP" doctor
says "LOCKSTEP_START_LIMIT_S is 'soon'; a whole number of seconds"

# Open MPI's files lie where TMPDIR says, and nothing of them stays.
mkdir "$work/a place"
gives 0 env TMPDIR="$work/a place" "$run" -n 2 "$LOCKSTEP" doctor
prints '^PASS  all-reduce .* over 2 ranks'
holds [ -z "$(ls -A "$work/a place")" ]
gives 3 env TMPDIR="$work/none" sh -c 'echo $$ >"$1"/pid; shift; exec "$@"' sh "$work" "$run" -n 2 true
says 'TMPDIR names another directory'
holds [ ! -e "/dev/shm/lockstep-mpirun.$(hostname).$(cat "$work/pid")" ]
# What a killed one has left is removed, but not a session of another machine that has the same directory.
mkdir "$work/shared"
mkdir "$work/shared/lockstep-mpirun.$(hostname).999999999" "$work/shared/lockstep-mpirun.elsewhere.999999999"
gives 0 env TMPDIR="$work/shared" "$root/launch/mpirun/run.sh" -n 1 true
holds [ "$(ls "$work/shared")" = lockstep-mpirun.elsewhere.999999999 ]

# Too few files may be open: refused, where mpirun alone hangs; raised, where that is allowed. A rank sees to itself.
gives 2 sh -c 'ulimit -n 32 && exec "$@"' sh "$run" -n 2 true
says '^run.sh: 32 files may be open at once, and mpirun needs 74 for 2 ranks'
gives 0 sh -c 'ulimit -S -n 32 && exec "$@"' sh "$run" -n 2 "$LOCKSTEP" doctor
prints '^PASS  open files '
gives 2 "$run" -n 2 sh -c 'ulimit -n 32 && exec "$@"' sh "$LOCKSTEP" doctor
says '32 files may be open at once, and no more by the hard limit; at least 64 are needed'

# A node of two GPUs on two sockets, each beside an adapter of its own.
mkdir -p "$work/bin" "$work/sys/class/infiniband" "$work/sys/bus/pci/devices"
for n in 0 1; do
    at=$work/sys/devices/pci000$n:00/000$n:00:01.0
    for device in 1 2; do
        mkdir -p "$at/000$n:0$device:00.0"
        echo $n >"$at/000$n:0$device:00.0/numa_node"
        ln -s "$at/000$n:0$device:00.0" "$work/sys/bus/pci/devices/000$n:0$device:00.0"
    done
    echo 0 >"$at/000$n:01:00.0/local_cpulist"
    mkdir -p "$work/sys/class/infiniband/mlx5_$n"
    ln -s "$at/000$n:02:00.0" "$work/sys/class/infiniband/mlx5_$n/device"
done
cat >"$work/bin/nvidia-smi" <<'SMI'
#!/bin/sh
[ "$1" != -i ] || which=$2
printf '00000000:01:00.0\n00000001:01:00.0\n' | sed -n "${which:+$((which + 1))}p"
SMI
chmod +x "$work/bin/nvidia-smi"
gives 0 env PATH="$work/bin:$PATH" LOCKSTEP_SYS="$work/sys" "$run" -n 2 "$root/launch/mpirun/bind.sh" \
    sh -c 'echo "rank $OMPI_COMM_WORLD_RANK: $UCX_NET_DEVICES, $(taskset -cp $$ | sed "s/.*: //")"'
prints '^rank 0: mlx5_0:1, 0$'
prints '^rank 1: mlx5_1:1, 0$'
# Of those that it may see, or the only one.
for visible in 1,0 1; do
    gives 0 env PATH="$work/bin:$PATH" LOCKSTEP_SYS="$work/sys" CUDA_VISIBLE_DEVICES=$visible "$run" -n 2 "$root/launch/mpirun/bind.sh" \
        sh -c 'echo "$CUDA_VISIBLE_DEVICES: rank $OMPI_COMM_WORLD_RANK: $UCX_NET_DEVICES"'
    cat "$work/out" >>"$work/near"
done
for line in '1,0: rank 0: mlx5_1:1' '1,0: rank 1: mlx5_0:1' '1: rank 0: mlx5_1:1' '1: rank 1: mlx5_1:1'; do
    holds grep -qx "$line" "$work/near"
done
gives 0 env PATH="$work/bin:$PATH" "$run" -n 1 "$root/launch/mpirun/bind.sh" true # no such device in /sys

# An mpirun that buries none of its dead ends all the same, with a word.
printf '#!/bin/sh\ntrue &\nexec sleep 1000\n' >"$work/bin/mpirun"
chmod +x "$work/bin/mpirun"
gives 137 env PATH="$work/bin:$PATH" "$run" -n 1 true
says '^mpirun does not end, though its processes have: killed'
# So does one that has buried them and waits for a lock, unlike one whose ranks are elsewhere; in the tests, too.
printf '#!/bin/sh\nexec sleep 9\n' >"$work/bin/mpirun"
env PATH="$work/bin:$PATH" "$run" -n 1 true &
elsewhere=$!
until pgrep -P $elsewhere -x sleep >"$work/out"; do sleep 0.01; done
printf '#!/bin/sh\nexec python3 -c "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"\n' >"$work/new"
chmod +x "$work/new"
mv "$work/new" "$work/bin/mpirun"
gives 137 env PATH="$work/bin:$PATH" "$run" -n 1 true
says '^mpirun does not end, though its processes have: killed'
gives 137 env PATH="$work/bin:$PATH" "$root/tests/mpirun.sh" 1 true
holds wait $elsewhere
rm "$work/bin/mpirun"

# The layout for fewer ranks.
make_corpus
settings="$tiny batch.sequences=8 batch.micro=2 numerics.reduction=invariant"
fits() { # fits RANKS LINE SETTINGS...
    fit_ranks=$1 fit_line=$2
    shift 2
    # shellcheck disable=SC2086
    gives 0 "$LOCKSTEP" train $settings "$@" --fit --ranks "$fit_ranks"
    prints "^$fit_line$"
}
fits 4 '4 parallel.tensor=1 parallel.context=1 parallel.pipeline=1 parallel.shard=1 parallel.replicate=4'
fits 3 '2 parallel.tensor=1 parallel.context=1 parallel.pipeline=1 parallel.shard=1 parallel.replicate=2'
fits 3 '2 .* parallel.shard=2 parallel.replicate=1' parallel.zero=2
fits 3 '2 parallel.tensor=2 .* parallel.replicate=1' parallel.tensor=2
fits 3 '3 parallel.tensor=1 .* parallel.replicate=3' parallel.tensor=2 numerics.reduction=fast batch.sequences=12
gives 2 "$LOCKSTEP" train $settings parallel.tensor=4 --fit --ranks 3
says 'no layout for 3 ranks or fewer'

# Two hosts, that is two host names, of which one stops answering in the middle; the agent is what reaches them.
if [ "$(id -u)" != 0 ] || ! unshare -u true 2>/dev/null; then
    echo "skipped in part: hosts of a name of their own need root"
    passed
    exit 0
fi
cat >"$work/agent" <<AGENT
#!/bin/sh
host=\$1
shift
[ "\$host" != --through ] || { host=\$1 && shift; } # an option of its own
[ ! -e "$work/gone-\$host" ] || exit 255
exec unshare -u sh -c "hostname \$host && \$*"
AGENT
chmod +x "$work/agent"
printf 'ha slots=2\nhb slots=2\n' >"$work/hosts"
# One that is named in the run's directory, wherever its name is said, is left out.
printf 'run: {name: named, dir: %s}\n' "$work/runs" >"$work/named.yaml"
mkdir -p "$work/runs/named"
echo hb >"$work/runs/named/excluded-hosts"
gives 0 "$run" --dry-run --hostfile "$work/hosts" --elastic --agent "$work/agent" "$LOCKSTEP" train "$work/named.yaml" ${settings%run.dir=*}
says "host hb is left out: $work/runs/named/excluded-hosts names it"
prints '-H ha:2 .*-n 2 .* parallel.replicate=2$'
settings="$settings run.steps=800 checkpoint.every=50 parallel.transport=mpi faults.min_deadline_s=5 eval.every=0"
gives 0 "$LOCKSTEP" train $settings run.name=plain
"$root/launch/supervise" --run "$work/runs/elastic" "$run" --hostfile "$work/hosts" --elastic --agent "$work/agent --through" \
    "$LOCKSTEP" train $settings run.name=elastic --resume >"$work/out" 2>"$work/err" &
job=$!
until [ -d "$work/runs/elastic/checkpoints/step-00000050" ]; do
    kill -0 $job 2>/dev/null || fail 'the run ended early'
    sleep 0.02
done
: >"$work/gone-hb"
for pid in $(pgrep -f "$LOCKSTEP train .*run.dir=$work/runs .*run.name=elastic"); do # what of the run is on hb: its ranks, as killed as their host
    case "$({ tr '\0' '\n' <"/proc/$pid/environ"; } 2>/dev/null | grep '^OMPI_COMM_WORLD_RANK=')" in
    *=2 | *=3) kill -9 "$pid" 2>/dev/null || true ;;
    esac
done
status=0
wait $job || status=$?
holds [ "$status" = 0 ]
says 'host hb is left out: it does not answer'
holds grep -q '"ranks":2,"hosts":1' "$work/runs/elastic/starts.jsonl"
holds grep -q '"after":{"exit":[0-9]*,"outcome":"..*"}' "$work/runs/elastic/starts.jsonl"
holds "$TEST_CKPT_EQUAL" "$work/runs/plain/checkpoints/step-00000800" "$work/runs/elastic/checkpoints/step-00000800"
passed
