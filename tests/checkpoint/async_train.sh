#!/bin/sh
# Training that saves in the background: the same checkpoints as ever, records of what a save cost,
# retention, parity, one writer for a host; and a lock that outlives its holder.
. "$(dirname "$0")/../launch/lib.sh"
equal=$1
holder=
first=
late=
# shellcheck disable=SC2086 # those that have begun
trap 'kill -9 $holder $first $late 2>/dev/null || true; rm -rf "$work"' EXIT
make_corpus
runs=$work/runs
ckpt() { echo "$runs/$1/checkpoints/step-0000000$2"; }

gives 0 "$LOCKSTEP" train $tiny run.name=plain checkpoint.every=2 checkpoint.async=false
says 'checkpoint .*step-00000006.* training waited'
gives 0 "$LOCKSTEP" train $tiny run.name=back checkpoint.every=2 checkpoint.busy=wait
says 'checkpoint .*step-00000002.* training waited'
for step in 2 4 6; do
    holds "$equal" "$(ckpt plain $step)" "$(ckpt back $step)"
done
holds sh -c "grep -q '\"save\":{\"step\":2,\"failed\":false,.*\"stall_ms\":.*\"ratio\":1' '$runs/back/train.jsonl'"
holds sh -c "! ls -A '$runs/back/checkpoints' | grep tmp"
holds [ ! -e "$runs/back/lock.json" ]
gives 0 "$LOCKSTEP" ckpt show "$runs/back" --counters
prints 'stall_seconds'

gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=two checkpoint.every=1 checkpoint.busy=wait \
    checkpoint.writers=node checkpoint.parity=1 checkpoint.keep_last=2 checkpoint.keep_every=3
holds [ "$(ls "$runs/two/checkpoints" | tr '\n' ' ')" = "step-00000003 step-00000005 step-00000006 " ]
holds [ -s "$(ckpt two 6)/node-00000.h5" ]
holds [ ! -e "$(ckpt two 6)/rank-00000.h5" ]
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=three checkpoint.every=3 checkpoint.parity=1
holds "$equal" "$(ckpt two 6)" "$(ckpt three 6)"

# A lost file is made again for resume, and by doctor.
rm "$(ckpt three 6)/rank-00001.h5"
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=three run.steps=7 --resume
says 'made again from parity'
says 'resumed from .*step-00000006'
gives 1 "$LOCKSTEP" ckpt verify "$runs/three"
says "1 of 3 checkpoints in .* failed; there are parity files: try 'lockstep ckpt doctor --repair'"
gives 0 "$LOCKSTEP" ckpt doctor "$runs/three" --repair --full
says 'made again: .*step-00000006/rank-00001.h5'
gives 0 "$LOCKSTEP" ckpt verify "$(ckpt three 6)"
gives 0 "$LOCKSTEP" ckpt reshard "$(ckpt three 6)" -o "$work/more" --ranks 3 --parity 2
rm "$work/more/step-00000006/rank-00000.h5" "$work/more/step-00000006/manifest.json"
holds "$equal" "$(ckpt three 6)" "$work/more/step-00000006"

# keep_best: the evaluated step with the lowest loss stays.
gives 0 "$LOCKSTEP" train $tiny run.name=best checkpoint.every=1 eval.every=2 checkpoint.busy=wait \
    checkpoint.keep_best=1 checkpoint.keep_last=1
gives 0 "$LOCKSTEP" ckpt prune "$runs/best" --keep-best 1 --dry-run
gives 0 "$LOCKSTEP" ckpt prune "$runs/best" --keep-best 1 --keep-last 1 --dry-run
cp "$work/out" "$work/asked"
gives 0 "$LOCKSTEP" ckpt prune "$runs/best" --dry-run # by the run's own settings
holds cmp "$work/out" "$work/asked"
holds [ "$(ls "$runs/best/checkpoints" | wc -l)" -le 2 ]

# A save that fails does not end the run; but where it is the last one, the run is not done.
gives 0 "$LOCKSTEP" train $tiny run.name=fails checkpoint.every=2 checkpoint.busy=wait run.steps=1 --resume
rm -r "$runs/fails/checkpoints"
echo x >"$runs/fails/checkpoints"
gives 3 "$LOCKSTEP" train $tiny run.name=fails checkpoint.every=2 checkpoint.busy=wait --resume
says 'trained to the end, step 6, but its checkpoint could not be saved'
says 'the checkpoint of step 2 was not saved'
says 'training goes on'
holds sh -c "grep -q '\"failed\":true' '$runs/fails/train.jsonl'"

# A checkpoint has the validation loss of its own step, or none.
gives 0 "$LOCKSTEP" train $tiny run.name=judged eval.every=2 checkpoint.every=1
for step in 2 4 6; do
    holds grep -q '"val_loss":[0-9]' "$(ckpt judged $step)/manifest.json"
done
for step in 1 3 5; do
    holds grep -q '"val_loss":null' "$(ckpt judged $step)/manifest.json"
done

# Two jobs, one directory: the second is refused while the first lives, and takes over when not.
# shellcheck disable=SC2086 # one word a setting
"$LOCKSTEP" train $tiny run.name=lock run.steps=1000000 checkpoint.every=1 >/dev/null 2>&1 &
holder=$!
tries=0
until [ -d "$(ckpt lock 1)" ] || [ $tries -gt 600 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
gives 2 "$LOCKSTEP" train $tiny run.name=lock --resume
says "process $holder on host .* works in this directory"
kill -9 $holder
wait $holder 2>/dev/null || true
holder=
gives 75 "$LOCKSTEP" train $tiny run.name=lock run.steps=1000000 --resume --until 1
says 'its lock is taken over'
holds sh -c "! ls -A '$runs/lock/checkpoints' | grep tmp"

# Nor does a second that began before the directory was there: what it says of its own end is not the run's.
until_true() {
    tries=0
    until "$@" || [ $tries -gt 600 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    holds "$@"
}
stands() { grep -qs '^State:.*T (stopped)' "/proc/$1/status"; }
: >"$work/data-0"
OMPI_COMM_WORLD_RANK=0 PLANT_DIR=$work LD_PRELOAD=$TEST_PLANT \
    "$LOCKSTEP" train $tiny run.name=late --resume >"$work/late.out" 2>&1 &
late=$!
until_true stands $late
"$LOCKSTEP" train $tiny run.name=late run.steps=1000000 >/dev/null 2>&1 &
first=$!
until_true [ -f "$runs/late/lock.json" ]
kill -CONT $late
refused=0
wait $late || refused=$?
holds [ $refused = 2 ]
holds grep -q "process $first on host .* works in this directory" "$work/late.out"
holds [ ! -e "$runs/late/outcome" ]
kill -TERM $first
stopped=0
wait $first || stopped=$?
holds [ $stopped = 75 ]
holds grep -q '^75 .*(a signal)' "$runs/late/outcome"
first=
late=
passed
