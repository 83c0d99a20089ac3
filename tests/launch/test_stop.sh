#!/bin/sh
# Who asks a run to stop, and when: at the start, in a save, twice; a file; the end of a Slurm job.
. "$(dirname "$0")/lib.sh"
make_corpus
settings="$tiny run.steps=4000 checkpoint.every=5 checkpoint.keep_last=3 eval.every=0"
records() { cat "$work/runs/$1/train.jsonl" 2>/dev/null | wc -l; }
last_step() { tail -n 1 "$work/runs/$1/train.jsonl" | sed 's/.*"step":\([0-9]*\),.*/\1/'; }
begin() { # begin NAME COMMAND...: in the background, as $pid
    name=$1
    shift
    # shellcheck disable=SC2086
    "$@" "$LOCKSTEP" train $settings run.name="$name" --resume >"$work/out" 2>"$work/told" &
    pid=$!
}
until_true() { # until_true COMMAND...: while the run is there
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || fail "the run ended early, before: $*"
    done
    checks=$((checks + 1))
}
ended() { # ended STATUS
    status=0
    while :; do
        wait "$pid" || status=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    holds [ "$status" = "$1" ]
}
stopped() { # with everything saved up to the step that its last record tells, and nothing half written
    ended 75
    holds [ -f "$(printf '%s/runs/%s/checkpoints/step-%08d/manifest.json' "$work" "$name" "$(last_step "$name")")" ]
    gives 0 "$LOCKSTEP" ckpt verify "$work/runs/$name" --full
    holds [ -z "$(find "$work/runs/$name" -name '.tmp*')" ]
}
handled() { # SIGTERM by the process: its first moment that can be told from outside
    # Before it has its program it is a copy of this shell, with this shell's handlers.
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != "$(cat /proc/$$/comm)" ] || return
    caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
    case "${caught%???}" in *[4567cdef]) return 0 ;; esac
    return 1
}
grown() { [ "$(records "$1")" -ge "$2" ]; }
saving() { ls -d "$work/runs/$1/checkpoints"/.tmp-* >/dev/null 2>&1; }

# SIGTERM before anything is read; and asked before a resumed run begins, which has nothing to save.
begin start
until_true handled
kill -TERM $pid
stopped
step=$(last_step start)
: >"$work/runs/start/stop"
begin start
stopped
holds grep -q "stopped on request after step $step of .* (the file" "$work/runs/start/outcome"

# While a checkpoint is being written, and twice.
begin save
until_true saving save
kill -TERM $pid
stopped
begin twice
until_true grown twice 3
kill -TERM $pid
kill -TERM $pid 2>/dev/null || true
stopped

# A terminal that hangs up, unless nohup keeps that away; a reader of the output that goes away.
begin hangup env --default-signal=HUP # also where the tests were begun by nohup
until_true grown hangup 3
kill -HUP $pid
stopped
begin kept nohup
until_true grown kept 3
kill -HUP $pid
until_true grown kept $(($(records kept) + 3))
kill -TERM $pid
stopped
begin scripted env --default-signal=HUP "$root/launch/mpirun/local.sh" 2
until_true grown scripted 3
kill -HUP $pid
stopped
begin unread sh -c '{ "$@" 2>&1; echo $? >"$0"; } | head -n 1' "$work/unread"
ended 0
holds [ "$(cat "$work/unread")" = 75 ]
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/unread" --full

# Through the launch script, asked in the very first moment of mpirun: stopped, or not begun.
begin early "$root/launch/supervise" --run "$work/runs/early" "$root/launch/mpirun/local.sh" 2
until_true handled
kill -TERM $pid
ended 75

# mpirun when its ranks have ended, by ones that do not heed the signal: it does not end it, either. Not without pauses:
# on an idle machine mpirun may then do nothing for minutes but take signals.
. "$root/launch/ask.sh"
export work OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for _ in 1 2 3; do
    rm -f "$work/deaf"
    job=$(
        OMPI_MCA_orte_execute_quiet=1 begin_launcher mpirun --oversubscribe -n 1 sh -c 'trap "" USR1 && : >"$work/deaf" && sleep 0.05'
        until [ -e "$work/deaf" ]; do sleep 0.01; done
        while kill -USR1 $job 2>/dev/null; do sleep 0.001; done &
        wait $job && echo 0 || echo $?
    )
    holds [ "$job" = 0 ]
done

# limited STATUS TEXT COMMAND...: two ranks that come to the limit of a start where TEXT says; a slow machine comes to a short
# one elsewhere. mpirun wakes the stopped; when it has killed them it may crash, or wait for itself and be killed, too.
limited() {
    expected=$1 text=$2
    shift 2
    for limit in 3 12 60; do
        status=0
        LOCKSTEP_START_LIMIT_S=$limit ranks 2 "$@" >"$work/out" 2>"$work/err" || status=$?
        ! grep -q -e "$text" "$work/err" || break
    done
    says "$text"
    holds [ "$status" = "$expected" -o "$status" = 137 -o "$status" = 139 ]
}
# A rank that does not begin: the others do not wait for it for ever.
limited 3 '\[rank 0\] the start of MPI has taken more than [0-9]* s on host .*: rank 1 on host .* has not come; its process is stopped' \
    sh -c '[ "$OMPI_COMM_WORLD_RANK" = 0 ] || kill -STOP $$; exec "$@"' sh "$LOCKSTEP" doctor

# And one that does not come to the end.
mkdir "$work/plant"
: >"$work/plant/end-1"
limited 3 '\[rank 0\] the end of MPI has taken more than [0-9]* s on host .*: rank 1 on host .* has not come; its process is stopped' \
    env LD_PRELOAD="$TEST_PLANT" PLANT_DIR="$work/plant" "$LOCKSTEP" doctor
# Nor any, as when the last of them is stopped and all others have gone.
for rank in 0 1; do
    : >"$work/plant/end-$rank"
done
limited 137 'ignal 9' env LD_PRELOAD="$TEST_PLANT" PLANT_DIR="$work/plant" "$LOCKSTEP" doctor

# The file, on two ranks; it is gone when it has been obeyed.
begin file "$root/tests/mpirun.sh" 2
until_true grown file 3
: >"$work/runs/file/stop"
stopped
holds grep -q "the file 'stop' of the run directory" "$work/runs/file/outcome"
holds [ ! -e "$work/runs/file/stop" ]

# Killed when all is done, before it could say so on stdout: the run directory says it.
mkfifo "$work/full"
exec 3<>"$work/full"
dd if=/dev/zero of="$work/full" oflag=nonblock bs=4096 count=1024 2>/dev/null || true
"$LOCKSTEP" train $settings run.steps=4 run.name=end >"$work/full" 2>"$work/told" 3>&- &
pid=$!
until_true grep -qs '^0 rank 0 on .*: done' "$work/runs/end/outcome"
kill -KILL $pid
ended 137
holds [ -f "$work/runs/end/checkpoints/step-00000004/manifest.json" ]
exec 3>&-

# Slurm's time limit, told by a squeue that counts down.
mkdir "$work/bin"
cat >"$work/bin/squeue" <<'SQUEUE'
#!/bin/sh
echo asked >>"$LEFT.asked"
case "$*" in '-h -o %L -j 7' | '-h -o %L -j 9_4') cat "$LEFT" ;; esac
SQUEUE
chmod +x "$work/bin/squeue"
export LEFT="$work/left"
echo 1-00:00:10 >"$LEFT"
begin limit env PATH="$work/bin:$PATH" SLURM_JOB_ID=7
until_true grown limit 3
kill -TERM $pid
stopped
for left in 59 0:30 00:00:01; do
    echo $left >"$LEFT"
    rm -f "$LEFT.asked"
    begin limit env PATH="$work/bin:$PATH" SLURM_JOB_ID=7
    stopped
    holds grep -q "time limit is near" "$work/runs/limit/outcome"
    holds grep -q 'may run for .* more, and faults.stop_before_s is 60: the run stops after its first step' "$work/told"
    holds [ "$(wc -l <"$LEFT.asked")" = 1 ] # what it said 30 s ago or less counts
done
# As long before as is asked for; and of an array's task, whose job may have the number of the whole array.
usual=$settings
echo 1:30 >"$LEFT"
settings="$usual faults.stop_before_s=120"
begin limit env PATH="$work/bin:$PATH" SLURM_JOB_ID=7
stopped
holds grep -q "time limit is near" "$work/runs/limit/outcome"
settings="$usual faults.stop_before_s=30"
begin limit env PATH="$work/bin:$PATH" SLURM_JOB_ID=7
until_true grown limit $(($(records limit) + 3))
kill -TERM $pid
stopped
holds grep -q "(a signal)" "$work/runs/limit/outcome"
settings="$usual faults.stop_before_s=0"
echo 1 >"$LEFT"
begin limit env PATH="$work/bin:$PATH" SLURM_JOB_ID=7
until_true grown limit $(($(records limit) + 3))
kill -TERM $pid
stopped
holds grep -q "(a signal)" "$work/runs/limit/outcome"
settings=$usual
begin limit env PATH="$work/bin:$PATH" SLURM_JOB_ID=9 SLURM_ARRAY_JOB_ID=9 SLURM_ARRAY_TASK_ID=4
stopped
holds grep -q "time limit is near" "$work/runs/limit/outcome"
echo UNLIMITED >"$LEFT"
begin unlimited env PATH="$work/bin:$PATH" SLURM_JOB_ID=7
until_true grown unlimited 3
kill -USR1 $pid
stopped
holds grep -q "(a signal)" "$work/runs/unlimited/outcome"
passed
