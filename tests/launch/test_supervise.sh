#!/bin/sh
# The supervisor: what it runs again and what it does not, and that a run that it restarts ends as an
# undisturbed one.
. "$(dirname "$0")/lib.sh"
supervise=$root/launch/supervise

# fails N STATUS: a job that ends with STATUS for its first N starts, then with 0.
cat >"$work/job" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
[ "$(wc -l <"$STARTS")" -gt "$1" ] || exit "$2"
JOB
chmod +x "$work/job"
export STARTS="$work/starts"
starts() { holds [ "$(wc -l <"$STARTS")" = "$1" ] && rm -f "$STARTS"; }

gives 0 "$supervise" "$work/job" 0 3
starts 1
gives 0 "$supervise" "$work/job" 1 137
says 'exit status 137'
says 'restart 1 of 5'
starts 2
for final in 1 2 75; do
    gives $final "$supervise" "$work/job" 1 $final
    starts 1
done
gives 3 "$supervise" --restarts 1 "$work/job" 9 3
says 'given up after 1 restarts'
starts 2
gives 2 "$supervise" --restarts many "$work/job" 0 0
says "'many'; a whole number is needed"
gives 2 "$supervise" "$work/none"
says "there is no program '$work/none'"
gives 2 "$supervise" --again 3 "$work/job"
says "unknown option '--again'"
gives 2 "$supervise"

# The run's own word counts more than the status that a launcher makes of it: a launcher's 143 hides a
# configuration that will fail again, its 1 a fault that may not.
cat >"$work/done" <<'JOB'
#!/bin/sh
rm -f "$1/outcome"
echo '0 rank 0 on n1: done' >"$1/outcome"
JOB
chmod +x "$work/done"
cat >"$work/masked" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
[ "$(wc -l <"$STARTS")" = 1 ] || exec "${0%/*}/done" "$1"
[ -z "$2" ] || echo "$2" >"$1/outcome"
exit "$3"
JOB
chmod +x "$work/masked"
mkdir "$work/run"
gives 1 "$supervise" --run "$work/run" "$work/masked" "$work/run" '1 rank 2 on n1: diverged' 143
starts 1
gives 0 "$supervise" --run "$work/run" "$work/masked" "$work/run" '3 rank 2 on n1: disk' 1
says 'rank 2 on n1: disk'
starts 2
gives 0 "$supervise" --run "$work/run" "$work/masked" "$work/run" '' 1
starts 2
# Nor is a launcher's 0 the run's.
gives 0 "$supervise" --run "$work/run" "$work/masked" "$work/run" '' 0
says "exit status 0, but no rank has told of the run's end"
starts 2
gives 3 "$supervise" --restarts 1 --run "$work/run" "$work/job" 0 0
starts 2
# But a plan is none.
gives 0 "$supervise" --run "$work/run" "$work/job" 0 0 --dry-run
starts 1

# A stop that the launcher made of a host's loss is a fault; one that the ranks have found reason for is not,
# whatever the launcher makes of it.
gives 0 "$supervise" --run "$work/run" "$work/masked" "$work/run" '75 rank 0 on n1: stopped on request (a signal)' 205
says 'the launcher ended with 205, nobody asked it to'
starts 2
gives 75 "$supervise" --run "$work/run" "$work/masked" "$work/run" '75 rank 0 on n1: stopped on request (the time limit)' 143
starts 1

# Another job works in the run's directory: its word stays where it is and is not taken for this one's, nor is a word left
# in its place while it has none. A job that came to own the directory (whose lock is its) leaves one by its supervisor.
echo '75 rank 0 on n1: of another job' >"$work/run/outcome"
echo 'of another job' >"$work/run/lock.json"
gives 2 "$supervise" --run "$work/run" "$work/job" 1 2
starts 1
holds grep -q 'of another job' "$work/run/outcome"
gives 3 "$supervise" --restarts 1 --run "$work/run" "$work/job" 1 137
starts 2
holds grep -q 'of another job' "$work/run/outcome"
rm "$work/run/outcome"
gives 3 "$supervise" --restarts 1 --run "$work/run" "$work/job" 1 137
starts 2
holds [ ! -e "$work/run/outcome" ]
cat >"$work/ends" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
[ "$(wc -l <"$STARTS")" = 1 ] || exec "${0%/*}/done" "$1"
echo '0 rank 0 on n1: done, of another job, meanwhile' >"$1/outcome"
exit 2
JOB
chmod +x "$work/ends"
gives 2 "$supervise" --run "$work/run" "$work/ends" "$work/run" # refused, while the other one came to its end
starts 1
rm "$work/run/outcome"
# What a job of another start says while this one has no word; and this one's own, whatever the launcher makes of it.
cat >"$work/says" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
[ "$(wc -l <"$STARTS")" = 1 ] || exec "${0%/*}/done" "$1"
printf '75 rank 0 on n1: stopped on request (the time limit)\nstart %s\n' "${2:-$LOCKSTEP_START_ID}" >"$1/outcome"
exit 137
JOB
chmod +x "$work/says"
gives 0 "$supervise" --run "$work/run" "$work/says" "$work/run" 0123456789abcdef
starts 2
rm "$work/run/outcome"
gives 75 "$supervise" --run "$work/run" "$work/says" "$work/run"
starts 1
rm "$work/run/outcome"
cat >"$work/owns" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
[ "$(wc -l <"$STARTS")" = 1 ] || exit 2
echo mine >"$1/lock" && mv "$1/lock" "$1/lock.json"
exit 137
JOB
chmod +x "$work/owns"
gives 2 "$supervise" --run "$work/run" "$work/owns" "$work/run"
starts 2
holds grep -q '^137 the ranks left no word; the launcher gave exit status 137' "$work/run/outcome"
rm "$work/run/lock.json" "$work/run/outcome"

# A launcher that does not end after the ranks' word of a fault is ended.
cat >"$work/hangs" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
[ "$(wc -l <"$STARTS")" = 1 ] || exec "${0%/*}/done" "$1"
trap '' TERM
echo '3 rank 0 on a: rank 1 on host b is silent; its host does not answer' >"$1/outcome"
while :; do sleep 0.1; done
JOB
chmod +x "$work/hangs"
gives 0 "$supervise" --run "$work/run" "$work/hangs" "$work/run"
says 'its host does not answer'
starts 2
holds [ ! -e "$work/run/excluded-hosts" ]

# A host that is to blame twice in a row is named for the starts that follow, one that computes wrongly again at once.
cat >"$work/blames" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
shift "$(wc -l <"$STARTS")"
[ $# -gt 0 ] || exec "${0%/*}/done" "$RUN"
echo "3 rank 0 on a: $1" >"$RUN/outcome"
exit 3
JOB
chmod +x "$work/blames"
export RUN="$work/run"
lost='rank 3 on host b never entered all-reduce #7'
gives 0 "$supervise" --run "$RUN" "$work/blames" - "$lost" 'rank 4 on host c is stopped' "$lost"
starts 4
pair='rank 0 on host a, rank 1 on host b hold parameters that should be equal and are not; which of them is wrong cannot be told'
gives 0 "$supervise" --run "$RUN" "$work/blames" - "$pair" "$pair"
starts 3
holds [ ! -e "$RUN/excluded-hosts" ]
gives 0 "$supervise" --run "$RUN" "$work/blames" - "$lost" "$lost" 'rank 4 on host c: rank 4 goes wrong again'
says 'host b is to blame, and named in'
starts 4
holds [ "$(xargs <"$RUN/excluded-hosts")" = 'b c' ]
gives 3 "$supervise" --restarts 1 --run "$work/other" "$work/job" 1 3
says "$work/other is not there: does --run name"
starts 2

# Wasted starts count from the last new checkpoint on.
cat >"$work/progress" <<'JOB'
#!/bin/sh
echo start >>"$STARTS"
n=$(wc -l <"$STARTS")
mkdir -p "$1/checkpoints/step-0000000$n"
: >"$1/checkpoints/step-0000000$n/manifest.json"
[ "$n" -ge 4 ] || exit 3
exec "${0%/*}/done" "$1"
JOB
chmod +x "$work/progress"
gives 0 "$supervise" --restarts 1 --run "$work/run" "$work/progress" "$work/run"
starts 4

# A real run: one rank is killed after a checkpoint, long before the end. And one that is asked to stop.
make_corpus
settings="$tiny run.steps=1000 checkpoint.every=100"
gives 0 ranks 2 "$LOCKSTEP" train $settings run.name=plain
newest() { [ -d "$work/runs/$1/checkpoints/step-00000100" ]; }
wait_newest() {
    tries=600
    until newest "$1"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "no checkpoint of $1"
        sleep 0.05
    done
}
"$supervise" --run "$work/runs/killed" "$root/launch/mpirun/local.sh" 2 \
    "$LOCKSTEP" train $settings run.name=killed --resume >"$work/out" 2>"$work/err" &
job=$!
wait_newest killed
kill -9 "$(pgrep -f "^$LOCKSTEP train.* run.dir=$work/runs .*run.name=killed" | tail -n 1)" 2>/dev/null || fail 'the run was over before it could be killed'
status=0
wait $job || status=$?
holds [ "$status" = 0 ]
says 'restart 1 of 5'
says 'resumed from'
holds "$TEST_CKPT_EQUAL" "$work/runs/plain/checkpoints/step-00001000" "$work/runs/killed/checkpoints/step-00001000"
holds grep -q '^0 rank 0 on .*: done' "$work/runs/killed/outcome"

"$supervise" --run "$work/runs/asked" "$root/launch/mpirun/local.sh" 2 \
    "$LOCKSTEP" train $settings run.steps=100000 run.name=asked --resume >"$work/out" 2>"$work/err" &
job=$!
wait_newest asked
kill -USR1 $job
status=0
while :; do
    wait $job || status=$?
    kill -0 $job 2>/dev/null || break
done
holds [ "$status" = 75 ]
says 'stopped on request'
holds grep -q '^75 ' "$work/runs/asked/outcome"
passed
