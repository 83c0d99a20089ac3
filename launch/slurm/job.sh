# What the sbatch files of this folder share: sourced by them with their parameters set, then called
# as `lockstep_job TRAIN-ARGUMENTS...`. It checks the nodes, runs the job, restarts it in place after
# a fault, and asks Slurm to queue it again when it was stopped by the time limit or by preemption.
#
# RUN_DIR, RUN_NAME, MAX_REQUEUES, RESTARTS, SRUN_OPTIONS: see the sbatch files. LOCKSTEP names another
# binary than the one that belongs to these files. A function node_check, where an sbatch file
# defines one, is run on every node.

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Built in the checkout, or installed beside share/lockstep/slurm, or on the PATH.
for LOCKSTEP in "${LOCKSTEP:-}" "$launch/../build/release/bin/lockstep" "$launch/../../bin/lockstep" "$(command -v lockstep)"; do
    [ ! -x "$LOCKSTEP" ] || break
done
[ -x "$LOCKSTEP" ] || {
    echo "no lockstep binary beside $launch or on the PATH: build it with launch/setup.sh, or set LOCKSTEP" >&2
    exit 2
}
node_check() { :; }
. "$launch/ask.sh"

say() { echo "$(date '+%F %T') job $SLURM_JOB_ID: $*"; }

# One task a node: is it fit to train, and does it see the directory of the runs?
preflight() {
    mkdir -p "$RUN_DIR" || {
        say "cannot make '$RUN_DIR' on $(hostname); set RUN_DIR to a folder that all nodes share"
        return 3
    }
    export -f node_check
    srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 --mpi=none bash -c node_check &&
        srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --mpi=pmix "$LOCKSTEP" doctor --dir "$RUN_DIR"
}

# Slurm gives a requeued job a begin time two minutes ahead, the life of its credentials.
requeue() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_REQUEUES" ]; then
        say "not queued again: it has been ${SLURM_RESTART_COUNT:-0} times, the most that MAX_REQUEUES=$MAX_REQUEUES allows"
        return 75
    fi
    say "queued again"
    scontrol requeue "$SLURM_JOB_ID"
    return 75
}

lockstep_job() {
    if [ -f "$RUN_DIR/$RUN_NAME/done" ]; then
        say "run $RUN_NAME is done ($RUN_DIR/$RUN_NAME/done is there)"
        return 0
    fi
    again=no
    asked=no
    job=
    # Sent by Slurm before the time limit and before preemption (--signal=B:USR1@...).
    trap 'again=yes; asked=yes; [ -z "$job" ] || ask_to_stop "$job"' USR1
    # scancel: Slurm has signalled the ranks itself.
    trap 'say "asked to end"; asked=yes; [ -z "$job" ] || ask_to_stop "$job"' TERM
    say "run $RUN_NAME on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1))"
    preflight || {
        say "the nodes are not fit for the job"
        return 3
    }
    if [ "$asked" = yes ]; then
        say "asked to end before the run had begun"
        [ "$again" = no ] || requeue
        return 75
    fi
    # shellcheck disable=SC2086 # SRUN_OPTIONS are words
    "$launch/supervise" --restarts "$RESTARTS" --run "$RUN_DIR/$RUN_NAME" \
        srun --mpi=pmix --kill-on-bad-exit=1 --wait=60 --label $SRUN_OPTIONS \
        "$LOCKSTEP" train --resume "$@" run.dir="$RUN_DIR" run.name="$RUN_NAME" &
    job=$!
    [ "$asked" = no ] || ask_to_stop "$job" # meanwhile
    while :; do
        wait "$job"
        status=$?
        kill -0 "$job" 2>/dev/null || break
    done
    job=
    end_asking
    say "ended with $status"
    # What the ranks have found out by themselves when Slurm sent no signal (faults.stop_before_s).
    grep -q '^75 .*time limit is near' "$RUN_DIR/$RUN_NAME/outcome" 2>/dev/null && again=yes
    if [ "$status" = 0 ]; then
        date >"$RUN_DIR/$RUN_NAME/done"
    elif [ "$status" = 75 ] && [ "$again" = yes ]; then
        requeue
        return
    fi
    return "$status"
}
