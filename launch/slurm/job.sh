#!/bin/bash
# What the sbatch files of this folder share: sourced by them with their parameters set, then called
# as `lockstep_job TRAIN-ARGUMENTS...`. It checks the nodes, runs the job on those that are fit, restarts
# it in place after a fault, without nodes that were lost, and asks Slurm to queue it again when it was
# stopped by the time limit or by preemption, or when too few nodes are left.
#
# RUN_DIR, RUN_NAME, MAX_REQUEUES, RESTARTS, NODES, MIN_NODES, SRUN_OPTIONS: see the sbatch files. LOCKSTEP
# names another binary than the one that belongs to these files, NODE_ANSWER_S how long a node may take
# to answer (20), PREFLIGHT_S how long the doctor may take (180). A function node_check, where an sbatch
# file defines one, is run on every node.
# `bash job.sh TRAIN-ARGUMENTS...` is one start, for the supervisor.

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Built in the checkout, or installed beside share/lockstep/slurm, or on the PATH.
for LOCKSTEP in "${LOCKSTEP:-}" "$launch/../build/release/bin/lockstep" "$launch/../../bin/lockstep" "$(command -v lockstep)"; do
    [ ! -x "$LOCKSTEP" ] || break
done
[ -x "$LOCKSTEP" ] || {
    echo "no lockstep binary beside $launch or on the PATH: build it with launch/setup.sh, or set LOCKSTEP" >&2
    exit 2
}
[ -n "${SLURM_JOB_ID:-}" ] || {
    echo "this is for sbatch: sbatch --job-name=NAME ${0##*/} CONFIG.yaml ..." >&2
    exit 2
}
. "$launch/ask.sh"
eval "${NODE_CHECK:-}" # through the supervisor, whose shell passes no functions on
declare -F node_check >/dev/null || node_check() { :; }
NODE_CHECK=$(declare -f node_check)
# The last task of an array has the array's number as its own job's, which would mean all of them.
job_name=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job_name=${job_name:-$SLURM_JOB_ID}
ranks_a_node=${SLURM_NTASKS_PER_NODE:-$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))}
UNFIT=${UNFIT:-}
export LOCKSTEP RUN_DIR RUN_NAME NODES MIN_NODES SRUN_OPTIONS UNFIT NODE_CHECK
export -f node_check

say() { echo "$(date '+%F %T') job $job_name: $*"; }
count() { wc -w <<<"$*"; }

# make_step "NODE ..." RANKS OPTIONS...: the words of its srun in $step. --overlap, because a step that
# was on a lost node stays until Slurm misses the node.
make_step() {
    local nodes=$1 ranks=$2
    shift 2
    step=(srun --overlap --nodes="$(count "$nodes")" --nodelist="$(xargs <<<"$nodes" | tr ' ' ,)" --ntasks="$ranks"
        --ntasks-per-node="$ranks_a_node" ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} "$@")
}

# Those of the nodes that answer and pass node_check.
ask_nodes() {
    local ranks_a_node=1
    make_step "$1" "$(count "$1")" --no-kill --kill-on-bad-exit=0 --mpi=none
    # shellcheck disable=SC2016 # of the node's own
    timeout -k 1 "${NODE_ANSWER_S:-20}" "${step[@]}" bash -c 'node_check >&2 && echo "fit $SLURMD_NODENAME"' |
        sed -n 's/^fit //p'
}

# Of the nodes that the job has now (Slurm takes away those that it misses), one a line, all that are fit.
fit_nodes() {
    local all answered node
    all=$(scontrol show hostnames "$(squeue --noheader --states=R --format=%N --jobs="$job_name" | head -n 1)")
    answered=$(ask_nodes "$all")
    # One that is gone may keep others from answering: each by itself, then.
    [ "$(count "$answered")" = "$(count "$all")" ] || answered=$(for node in $all; do ask_nodes "$node" & done; wait)
    for node in $all; do
        if ! grep -qxF -e "$node" <<<"$answered"; then
            say "node $node is left out: it does not answer, or has failed its check" >&2
        elif grep -qwF -e "${node%%.*}" <<<"$UNFIT"; then
            say "node $node is left out: it is not fit" >&2
        elif grep -qswF -e "${node%%.*}" "$RUN_DIR/$RUN_NAME/excluded-hosts"; then
            say "node $node is left out: $RUN_DIR/$RUN_NAME/excluded-hosts names it" >&2
        else
            echo "$node"
        fi
    done
}

# Are the nodes fit to train together, and do they see the directory of the runs? Those that fail are
# left out, and the others examined once more. Leaves those that are in $fit.
preflight() {
    local report status bad try
    mkdir -p "$RUN_DIR" || {
        say "cannot make '$RUN_DIR' on $(hostname); set RUN_DIR to a folder that all nodes share"
        return 3
    }
    for try in 1 2; do
        fit=$(fit_nodes)
        [ "$(count "$fit")" -ge "$MIN_NODES" ] && [ -n "$fit" ] || return 75
        local ranks_a_node=1
        # --wait: for the others when one has crashed.
        make_step "$fit" "$(count "$fit")" --mpi=pmix --wait=10
        report=$(timeout -k 5 "${PREFLIGHT_S:-180}" "${step[@]}" "$LOCKSTEP" doctor --brief --dir "$RUN_DIR")
        status=$?
        echo "$report"
        [ "$status" != 0 ] || return 0
        if [ "$status" -ge 124 ] && [ "$try" = 1 ]; then # crashed, or hung
            say "the examination of the nodes ended with $status; once more"
            continue
        fi
        # Lines "FAIL  check  host: what"; of these checks, what is wrong is not the host's that tells it.
        bad=$(sed -n '/^FAIL  \(NVLink domains\|profile\|transport\) /d;s/^FAIL  .\{16\} \([^ ]*\): .*/\1/p' <<<"$report" | sort -u | xargs)
        [ -n "$bad" ] && [ "$(count "$bad")" -lt "$(count "$fit")" ] || return 3
        [ "$try" = 1 ] || return 3
        UNFIT="$UNFIT $bad"
    done
}

# One start of the job, on the nodes that are fit: becomes srun.
lockstep_start() {
    local nodes ranks layout='' settings=()
    nodes=$(fit_nodes | head -n "$NODES")
    ranks=$(($(count "$nodes") * ranks_a_node))
    if [ "$(count "$nodes")" -lt "$NODES" ] && [ "$ranks" -gt 0 ]; then
        layout=$("$LOCKSTEP" train "$@" --fit --ranks "$ranks") || layout=0
        ranks=${layout%% *}
        read -ra settings <<<"${layout#"$ranks"}"
        nodes=$(head -n $(((ranks + ranks_a_node - 1) / ranks_a_node)) <<<"$nodes")
        [ "$ranks" != 0 ] || nodes=
    fi
    if [ "$(count "$nodes")" -lt "$MIN_NODES" ] || [ -z "$nodes" ]; then
        echo "$ranks" >"$TOO_FEW"
        exit 75
    fi
    [ -z "$layout" ] || say "$ranks ranks on $(xargs <<<"$nodes"): ${settings[*]}"
    # shellcheck disable=SC2086 # SRUN_OPTIONS are words
    make_step "$nodes" "$ranks" --mpi=pmix --kill-on-bad-exit=1 --wait=60 --label $SRUN_OPTIONS
    [ -z "${SLURM_GPUS_ON_NODE:-}" ] || step+=("$launch/mpirun/bind.sh")
    trap '' USR1 # where srun does not handle it: at its end
    exec "${step[@]}" "$LOCKSTEP" train --resume "$@" "${settings[@]}"
}

# Slurm gives a requeued job a begin time two minutes ahead, the life of its credentials.
requeue() { # requeue [NODE ...]: on others than these
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_REQUEUES" ]; then
        say "not queued again: it has been ${SLURM_RESTART_COUNT:-0} times, the most that MAX_REQUEUES=$MAX_REQUEUES allows"
        return 75
    fi
    say "queued again${1:+ on others than $*}"
    local excluded # before: sbatch --exclude, and those of an earlier start
    excluded=$(scontrol show job "$job_name" | sed -n 's/.* ExcNodeList=\([^ (]*\).*/\1/p' | head -n 1)
    (
        trap '' TERM # which the first of these sends to all processes of the job
        scontrol requeue "$job_name"
        # Nodes that were lost count no more otherwise.
        scontrol update JobId="$job_name" NumNodes="$SLURM_JOB_NUM_NODES"
        [ $# = 0 ] || scontrol update JobId="$job_name" ExcNodeList="${excluded:+$excluded,}$(tr ' ' , <<<"$*")"
    )
    return 75
}

# Too few nodes are fit.
requeue_elsewhere() {
    local fit bad=() node
    fit=$(fit_nodes 2>/dev/null)
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        grep -qxF -e "$node" <<<"$fit" || bad+=("$node")
    done
    say "too few nodes are fit: $(count "$fit"), and MIN_NODES is $MIN_NODES"
    requeue "${bad[@]}"
}

# With --no-kill, Slurm lets a job go on whose batch script was on a node that is lost. So up to three
# other nodes look whether Slurm has taken that one from the job, and then queue it again.
guard() {
    local others ranks_a_node=1
    others=$(grep -vxF -e "$SLURMD_NODENAME" <<<"$fit" | head -n 3)
    [ -n "$others" ] || return 0
    make_step "$others" "$(count "$others")" --no-kill --mpi=none --output=none --error=none --input=none
    # shellcheck disable=SC2016 # of the node's own
    exec "${step[@]}" bash -c 'while sleep 15; do
        nodes=$(squeue --noheader --states=R --format=%N --jobs="$2" | head -n 1)
        [ -z "$nodes" ] || scontrol show hostnames "$nodes" | grep -qxF -e "$0" || break
    done
    trap "" TERM # of the requeue
    scontrol requeue "$2" && scontrol update JobId="$2" NumNodes="$1"' "$SLURMD_NODENAME" "$SLURM_JOB_NUM_NODES" "$job_name"
}

# The run is at its end, by a job of the same arguments: those of another length go on.
is_done() {
    local file=$RUN_DIR/$RUN_NAME/done
    [ -f "$file" ] || return 1
    if [ "$(tail -n +2 "$file")" = "$(printf '%q\n' "$@")" ]; then
        say "run $RUN_NAME is done ($file tells with which arguments); with a larger run.steps it goes on"
        return 0
    fi
    say "run $RUN_NAME was done with other arguments ($file); it goes on with these"
    rm -f "$file"
    return 1
}

lockstep_job() {
    local argument
    for argument; do # which name the run, as they do without Slurm
        case $argument in
            run.name=*) RUN_NAME=${argument#*=} ;;
            run.dir=*) RUN_DIR=${argument#*=} ;;
        esac
    done
    ! is_done "$@" || return 0
    again=no
    asked=no
    job=
    # Sent by Slurm before the time limit and before preemption (--signal=B:USR1@...).
    trap 'again=yes; asked=yes; [ -z "$job" ] || ask_to_stop "$job"' USR1
    # scancel: Slurm has signalled the ranks itself.
    trap 'say "asked to end"; asked=yes; [ -z "$job" ] || ask_to_stop "$job"' TERM
    say "run $RUN_NAME on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1))"
    [ "${SLURM_NTASKS:-$((ranks_a_node * SLURM_JOB_NUM_NODES))}" = $((ranks_a_node * SLURM_JOB_NUM_NODES)) ] ||
        say "--ntasks=$SLURM_NTASKS has no effect: $ranks_a_node ranks start on each node; give --ntasks-per-node"
    preflight
    status=$?
    if [ "$asked" = yes ]; then
        say "asked to end before the run had begun"
        [ "$again" = no ] || requeue
        return 75
    elif [ "$status" = 75 ]; then
        requeue_elsewhere
        return
    elif [ "$status" != 0 ]; then
        say "the nodes are not fit for the job"
        return 3
    fi
    guard >/dev/null 2>&1 &
    guard=$!
    TOO_FEW=$(mktemp)
    export TOO_FEW
    "$launch/supervise" --restarts "$RESTARTS" --run "$RUN_DIR/$RUN_NAME" \
        bash "$launch/slurm/job.sh" "$@" run.dir="$RUN_DIR" run.name="$RUN_NAME" &
    job=$!
    [ "$asked" = no ] || ask_to_stop "$job" # meanwhile
    wait_for "$job"
    job=
    end_asking
    kill "$guard" 2>/dev/null
    few=$(cat "$TOO_FEW")
    rm -f "$TOO_FEW"
    say "ended with $status"
    # What the ranks have found out by themselves when Slurm sent no signal (faults.stop_before_s).
    grep -q '^75 .*time limit is near' "$RUN_DIR/$RUN_NAME/outcome" 2>/dev/null && again=yes
    if [ "$status" = 0 ]; then # of a run, not of train --dry-run or --help
        ! grep -qs '^0 ' "$RUN_DIR/$RUN_NAME/outcome" || { date && printf '%q\n' "$@"; } >"$RUN_DIR/$RUN_NAME/done"
    elif [ "$few" ] && [ "$asked" = no ]; then
        requeue_elsewhere
        return
    elif [ "$status" = 75 ] && [ "$again" = yes ]; then
        requeue
        return
    fi
    return "$status"
}

[ "${BASH_SOURCE[0]}" != "$0" ] || lockstep_start "$@"
