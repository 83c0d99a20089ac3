#!/bin/sh
# The batch files on a real Slurm of four nodes, of which jobs use two: a run to its end, and runs that are stopped, killed and
# moved in the middle, whose parameters must end as those of the undisturbed one.
. "$(dirname "$0")/../launch/lib.sh"
for tool in slurmctld slurmd sbatch munged; do
    command -v $tool >/dev/null || PATH=$PATH:/usr/sbin:/sbin
    command -v $tool >/dev/null || { echo "skipped: $tool is not installed (launch/setup.sh --tests installs it)"; exit 77; }
done
[ "$(id -u)" = 0 ] && unshare -u true 2>/dev/null ||
    { echo "skipped: several nodes on one machine need root and a host name of their own each"; exit 77; }

cluster=$work/cluster
export SLURM_CONF="$cluster/slurm.conf"
trap 'scancel --user=root --signal=KILL 2>/dev/null || true; "$root/tests/slurm/cluster.sh" stop "$cluster"; rm -rf "$work"' EXIT
"$root/tests/slurm/cluster.sh" start "$cluster" 4
# All nodes have one address, which the kernel calls local and Open MPI would not connect to.
export OMPI_MCA_reachable=weighted
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 LOCKSTEP RUN_DIR="$work/runs" PREFLIGHT_S=30

make_corpus
ln -s "$root" "$work/a checkout" # Slurm names it with its space
root="$work/a checkout"
kind=cpu
settings="model.preset=llama3-tiny model.context=32 data.dir=$data batch.sequences=8 batch.micro=2 schedule.warmup_steps=2
          eval.every=0 optim.lr=1e-3 run.steps=200 run.threads=1 checkpoint.every=25 faults.min_deadline_s=20"

# submit NAME OPTIONS...: the job's number in $job.
submit() {
    name=$1
    shift
    # shellcheck disable=SC2086
    job=$(cd "$work" && sbatch --parsable --job-name="$name" --cpus-per-task=1 "$@" "$root/launch/slurm/$kind.sbatch" $settings)
}
state() { scontrol show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p' | head -n 1; }
log() { cat "$work"/"$1"-*.log 2>/dev/null; }
# until SECONDS WHAT COMMAND...: polls until the command holds.
until_holds() {
    tries=$(($1 * 10))
    what=$2
    shift 2
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || {
            sinfo -N -l >&2
            squeue -l >&2
            log "$name" >&2
            fail "waited in vain for: $what"
        }
        sleep 0.1
    done
    checks=$((checks + 1))
}
has_step() { [ "$(cat "$work/runs/$1/train.jsonl" 2>/dev/null | wc -l)" -ge "$2" ]; }
# The second start of a requeued job, without the two minutes that Slurm waits by itself. A few seconds
# must pass all the same: the credential of the first start is revoked by the second. Slurm may put it off once more
# when the last process of the first start has ended.
start_soon() {
    begins=$(scontrol show job "$job" | sed -n '/JobState=PENDING Reason=BeginTime/,$s/^ *StartTime=\([^ ]*\).*/\1/p')
    if [ -n "$begins" ] && [ "$(date -d "$begins" +%s 2>/dev/null || echo 0)" -gt "$(($(date +%s) + 10))" ]; then
        scontrol update jobid="$job" starttime=now+4seconds
    fi
}
started_again() {
    start_soon
    log "$name" | grep -q 'start 2'
}
is_state() { state "$1" | grep -q -E "^($2)$"; }
# On a machine with much else to do Slurm may not hear of the end of a short job, and queues it again by itself.
is_over() { is_state "$job" 'COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL' || { start_soon && false; }; }
ended() {
    until_holds 120 "the end of $name" is_over
}
final=checkpoints/step-00000200
same() { holds "$TEST_CKPT_EQUAL" "$work/runs/plain/$final" "$work/runs/$name/$final"; }
logged() { log "$name" | grep -q -e "$1" || { log "$name" >&2; fail "the log of $name lacks '$1'"; }; checks=$((checks + 1)); }
not_logged() { ! log "$name" | grep -q -e "$1" || { log "$name" >&2; fail "the log of $name has '$1'"; }; checks=$((checks + 1)); }
completed() { [ "$(state "$job")" = COMPLETED ] || { log "$name" >&2; fail "job $name is $(state "$job"), not COMPLETED"; }; checks=$((checks + 1)); }
first_rank() { pgrep -f "^$LOCKSTEP train.* run.dir=$RUN_DIR run.name=$name" | head -n 1; }

# To the end, on both nodes; submitted again there is nothing to do.
submit plain
ended
completed
logged 'on n\[1-2\], start 1'
logged '4 ranks of 1 thread, 2 hosts'
logged '^n2: [1-9][0-9]* passed, [0-9]* warned of, 0 failed$'
fails grep -q '^PASS' "$work"/plain-*.log
holds [ -f "$work/runs/plain/done" ]
holds grep -q '^0 ' "$work/runs/plain/outcome"
submit plain
ended
logged 'run plain is done'
# For longer it goes on, on fewer nodes too, whatever the job's name is.
cp -r "$work/runs/plain" "$work/runs/longer"
short=$settings
settings="$settings run.name=longer run.steps=210"
submit name --nodes=1 --ntasks-per-node=2
ended
logged 'run longer was done with other arguments'
logged 'resumed from .*/longer/checkpoints/step-00000200'
holds [ -d "$work/runs/longer/checkpoints/step-00000210" ]
holds [ ! -e "$work/runs/name" ]
submit name --nodes=1 --ntasks-per-node=2
ended
logged 'run longer is done'
settings=$short

# USR1 as before the time limit: saved, queued again, continued.
submit limit
until_holds 60 'step 5' has_step limit 5
scancel --signal=USR1 --batch "$job"
until_holds 60 'the requeued job' started_again
ended
logged 'stopped on request'
logged 'queued again'
logged 'resumed from'
same

# scancel: saved, and not queued again.
submit cancelled
until_holds 60 'step 5' has_step cancelled 5
scancel "$job"
ended
until_holds 30 'its outcome' grep -q '^75 ' "$work/runs/cancelled/outcome"
not_logged 'queued again'
holds [ ! -f "$work/runs/cancelled/done" ]

# Queued again so often, and no more.
export MAX_REQUEUES=0
submit capped
unset MAX_REQUEUES
until_holds 60 'step 5' has_step capped 5
scancel --signal=USR1 --batch "$job"
ended
logged 'stopped on request'
logged 'not queued again: it has been 0 times'
holds [ "$(state "$job")" = FAILED ]
# A look at its plan does not make the run one that is done.
settings="$settings --dry-run"
submit capped
ended
logged 'pipeline  *1 stage,'
not_logged 'supervise: restart'
completed
holds [ ! -e "$work/runs/capped/done" ]
settings=${settings% --dry-run}

# The examination of the nodes crashes on one of them, as where memory is short: it is made once more.
cat >"$work/crashes" <<CRASH
#!/bin/sh
if [ "\$1 \$SLURM_PROCID" = 'doctor 1' ] && mkdir "$work/crashed" 2>/dev/null; then
    kill -SEGV \$\$
fi
exec "$LOCKSTEP" "\$@"
CRASH
chmod +x "$work/crashes"
(
    export LOCKSTEP="$work/crashes"
    submit crashed
    echo "$job" >"$work/job"
)
name=crashed job=$(cat "$work/job")
ended
logged 'the examination of the nodes ended with 1[0-9]*; once more'
logged '^n2: [1-9][0-9]* passed, [0-9]* warned of, 0 failed$'
same

# A rank killed: the job starts it all again in place.
submit killed
until_holds 60 'a checkpoint' [ -d "$work/runs/killed/checkpoints/step-00000025" ]
kill -9 "$(first_rank)"
ended
logged 'restart 1 of 5'
logged 'resumed from'
completed
same

# From here on nodes are lost, and runs go on with fewer ranks, to the same bytes.
plain=$settings
settings="$settings numerics.reduction=invariant"
# shellcheck disable=SC2086
gives 0 "$LOCKSTEP" train $settings run.dir="$work/runs" run.name=single
same_as_single() { holds "$TEST_CKPT_EQUAL" "$work/runs/single/$final" "$work/runs/$name/$final"; }
# A node set down, of a job that wants all of its nodes: Slurm queues it again, on nodes that are up. (It may
# kill what is left of the first start when the second is there, which the test does not let wait two minutes.)
submit node --no-kill=off
until_holds 60 'a checkpoint' [ -d "$work/runs/node/checkpoints/step-00000025" ]
scontrol update nodename=n2 state=down reason=test
until_holds 60 'the job to leave the node' is_state "$job" 'PENDING|REQUEUED|CONFIGURING'
until_holds 60 'the requeued job' started_again
ended
logged 'resumed from'
same_as_single
node_up() { # it may have come back by itself
    scontrol update nodename=n2 state=resume 2>/dev/null || true
    [ "$(sinfo -h -n n2 -o %t)" = idle ]
}
until_holds 30 'node n2 to be up' node_up

# A node lost, before Slurm misses it: the job goes on with the other one.
submit lost
until_holds 60 'a checkpoint' [ -d "$work/runs/lost/checkpoints/step-00000025" ]
all_of() { # the processes of a node
    slurmd=$(cat "$cluster/slurmd-$1.pid")
    for process in /proc/[0-9]*; do
        [ ! "$process/ns/uts" -ef "/proc/$slurmd/ns/uts" ] || echo "${process#/proc/}"
    done
}
# shellcheck disable=SC2046
kill -9 $(all_of n2)
ended
logged 'node n2 is left out: it does not answer\|Node failure on n2' # whoever is first
logged '2 ranks on n1: .*parallel.replicate=2'
completed
same_as_single
"$root/tests/slurm/cluster.sh" node "$cluster" 2
until_holds 30 'node n2 to be up' node_up

# The node of the batch script lost: Slurm would let the job be, and another node queues it again when
# Slurm misses that one, after most of a minute.
if [ "${LOCKSTEP_TEST_ALL:-}" ]; then
    settings="$settings run.steps=20000"
    submit script
    until_holds 60 'the step that guards the batch script' sh -c "squeue --noheader --steps --format=%j | grep -q bash"
    until_holds 60 'a checkpoint' [ -d "$work/runs/script/checkpoints/step-00000025" ]
    # shellcheck disable=SC2046
    kill -9 $(all_of n1)
    until_holds 120 'the job to be queued again' is_state "$job" PENDING
    "$root/tests/slurm/cluster.sh" node "$cluster" 1
    until_holds 60 'the requeued job' started_again
    until_holds 60 'a later step' grep -q '"restarts":1' "$work/runs/script/train.jsonl"
    logged 'on n\[.*\], start 2'
    scancel "$job"
    ended
    settings=${settings% run.steps=20000}
fi

# A node that does not see the directory of the runs is left out; and of a job that needs as many nodes,
# another one takes its place.
on_n2() { nsenter -m -t "$(cat "$cluster/slurmd-n2.pid")" "$@"; }
on_n2 mount -t tmpfs none "$work/runs"
on_n2 touch "$work/runs/.lockstep-doctor" # as of an examination that was killed
submit unfit
ended
logged '^FAIL  shared directory n2: '
logged 'node n2 is left out: it is not fit'
logged '2 ranks on n1: '
same_as_single
export MIN_NODES=2
submit elsewhere --exclude=n4
until_holds 60 'the requeued job' started_again
holds sh -c "scontrol show job $job | grep -q 'ExcNodeList=n4,n2'" # sbatch's stay
ended
unset MIN_NODES
logged 'queued again on others than n2'
logged 'on n\[1,3\], start 2'
same_as_single
on_n2 umount "$work/runs"
settings=$plain

# A chain of short jobs, one after the other, each going on where the last one stopped: those of an array, after
# the one of the same name before them.
settings="$settings --until 100"
submit chain --dependency=singleton
settings=${settings% --until 100}
first=$job
submit chain --array=1-2%1 --dependency=singleton
until_holds 10 'the array to wait' sh -c "squeue -h --name=chain --states=PENDING --format=%r | grep -q Dependency"
until_holds 90 'the last link' [ -f "$work/runs/chain/done" ]
until_holds 60 'the end of the array' sh -c '[ -z "$(squeue -h --name=chain)" ]'
logged 'run chain is done'
holds grep -q 'ended with 75' "$work/chain-$first.log"
holds grep -q 'resumed from' "$work"/chain-*.log
same

# A task of an array is stopped and queued again by itself, also the last one, whose job has the array's number.
submit tasks --array=1-2%1
array=$job
until_holds 60 'step 5' has_step tasks 5
scancel "${array}_1"
job=${array}_2
until_holds 90 'the second task to train' sh -c "grep -q 'resumed from' '$work'/tasks-*.log"
scancel --signal=USR1 --batch "$job"
until_holds 60 'the task to be queued again' is_state "$job" PENDING
holds [ "$(state "${array}_1")" != PENDING ]
until_holds 60 'the requeued task' started_again
ended
completed
same

# The file for GPU nodes asks for them and runs a rank for each: here on a device that is no GPU.
kind=h100
submit gpus --ntasks-per-node=2
ended
completed
same

# And the one for racks, with stand-ins for its tools, on an emulated GPU: a node whose IMEX is not ready is
# left out. (Slurm 22.05 has no --segment.)
if [ -x "${EMULATED:-}" ]; then
    kind=gb200
    mkdir -p "$work/bin" "$work/channels" "$work/launch"
    cp -r "$root/launch/slurm" "$root/launch/mpirun" "$root/launch/supervise" "$root/launch/ask.sh" "$work/launch"
    sed -i '/^#SBATCH --segment/d' "$work/launch/slurm/gb200.sbatch"
    : >"$work/channels/channel0"
    cat >"$work/bin/nvidia-imex-ctl" <<IMEX
#!/bin/sh
[ "\$*" = -q ] || exit 1
[ -e "$work/imex-down" ] && [ "\$(hostname)" = n2 ] && echo INITIALIZING || echo READY
IMEX
    cat >"$work/bin/scontrol" <<SCONTROL
#!/bin/sh
[ "\$*" != 'show topology' ] || { echo 'BlockName=rack1 BlockIndex=0 Nodes=n[1-2] BlockSize=2'; exit; }
exec $(command -v scontrol) "\$@"
SCONTROL
    cat >"$work/bin/nvidia-smi" <<SMI
#!/bin/sh
echo "\$SLURM_PROCID \$*" >>"$work/asked"
SMI
    chmod +x "$work/bin"/*
    printf '%s\n' 'gpus 0 1' 'driver 0 570.86.15' 'name 0 NVIDIA GB200' 'bus_id 0 00000000:00:00.0' 'fabric_state 0 3' \
        'fabric_cluster 0 00112233445566778899aabbccddeeff' 'fabric_clique 0 7' >"$work/gpus"
    settings="model.family=gpt2 model.layers=2 model.channels=16 model.heads=2 model.ffn=32 model.context=16 data.dir=$data
              batch.sequences=4 batch.micro=1 numerics.compute=fp32 run.steps=1 run.device=emulated eval.every=0 eval.batches=1"
    rack() { # rack NAME
        (
            export PATH="$work/bin:$PATH" LOCKSTEP="$EMULATED" LOCKSTEP_IMEX="$work/channels" LOCKSTEP_NVML="$TEST_NVML" EMULATED_NVML="$work/gpus"
            root=$work
            submit "$1" --nodes=2 --ntasks-per-node=2 --gpus-per-node=2
            echo "$job" >"$work/job"
        )
        name=$1 job=$(cat "$work/job")
        ended
        [ "$(state "$job")" = COMPLETED ] || log "$name" >&2
        completed
    }
    rack rack
    logged '^2 nodes in block rack1'
    logged '^n2: [1-9][0-9]* passed, [0-9]* warned of, 0 failed$'
    logged 'on 4 ranks of .*, 2 hosts'
    holds [ "$(grep -c 'pci.bus_id' "$work/asked")" = 4 ] # by each rank, for what is near its GPU
    : >"$work/imex-down"
    rack imex
    logged "node n2: nvidia-imex-ctl -q says 'INITIALIZING', not READY"
    logged 'node n2 is left out: it does not answer, or has failed its check'
    logged '2 ranks on n1: '
fi
kind=cpu settings=$plain

# What is started in another way than it must be says how.
gives 2 srun -n 2 "$LOCKSTEP" train model.preset=llama3-tiny
says 'srun has started 2 tasks that know nothing of each other; use srun --mpi=pmix'
holds [ "$(grep -c 'lockstep: error' "$work/err")" = 1 ]
for kind in cpu h100 gb200; do
    gives 2 env -u SLURM_CONF bash "$root/launch/slurm/$kind.sbatch" CONFIG.yaml
    says "this is for sbatch: sbatch --job-name=NAME $kind.sbatch CONFIG.yaml"
done
kind=cpu

# A fault that would come again is not repeated.
settings="$settings optim.lr=wrong"
submit wrong
ended
not_logged 'restart 1'
logged 'optim.lr'
holds [ "$(state "$job")" = FAILED ]
passed
