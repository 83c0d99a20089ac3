#!/bin/sh
# A training run with a rank that is stopped from outside: named, recorded, ended with 3.
. "$(dirname "$0")/../../launch/lib.sh"
root=$(cd "$here/../../.." && pwd)
make_corpus

# An orderly run leaves no record, in memory or on disk, with checks too.
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=fine faults.check_collectives=true
holds [ -z "$(ls "$work/runs/fine" | grep flight || true)" ]

ranks 2 "$LOCKSTEP" train $tiny run.name=stopped run.steps=1000000 faults.min_deadline_s=3 \
    >"$work/out" 2>"$work/err" &
pid=$!
until [ "$(wc -l 2>/dev/null <"$work/runs/stopped/train.jsonl" || echo 0)" -ge 5 ]; do
    kill -0 "$pid" 2>/dev/null || fail "the run ended early"
done
# The rank whose process says so in its environment.
for stat in /proc/[0-9]*/environ; do
    if grep -qsz '^OMPI_COMM_WORLD_RANK=1$' "$stat" &&
        grep -qsz "^run.dir=$work/runs$" "${stat%environ}cmdline"; then
        victim=${stat#/proc/}
        victim=${victim%/environ}
    fi
done
victim_record=$(sed -n 's,.*/dev/shm/\(lockstep-[0-9a-f]*\)-1$,\1,p' "/proc/$victim/maps" | head -n 1)
holds [ -n "$victim_record" ]
kill -STOP "$victim"
status=0
wait $pid || status=$?
holds [ "$status" = 3 ]
says 'error: .*rank 1 on host .* \(never entered\|did not finish\) .*; its process is stopped'
for rank in 0 1; do
    holds grep -q '"operations"' "$work/runs/stopped/flight-$rank.json"
done
holds [ -z "$(find /dev/shm -name "$victim_record-*")" ]
passed
