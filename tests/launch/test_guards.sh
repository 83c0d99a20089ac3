#!/bin/sh
# Numbers that go wrong, and ranks that fall behind: named, and kept away from checkpoints.
. "$(dirname "$0")/lib.sh"
make_corpus
# fp32 without instruction sets: its matrix products are those of the library that faults are planted in
export LOCKSTEP_ISA=generic
settings="$tiny numerics.compute=fp32 run.steps=40 eval.every=0 metrics.every=5 checkpoint.every=10 faults.compare_every=5"
plant() { # plant VARIABLE=VALUE RANKS COMMAND...: with the fault planted in rank 1
    fault=$1
    shift
    env LD_PRELOAD="$TEST_PLANT" PLANT_RANK=1 "$fault" "$root/tests/mpirun.sh" "$@"
}
! ldd "$LOCKSTEP" | grep -q libasan ||
    { echo "skipped: a fault cannot be preloaded into a program with AddressSanitizer"; exit 77; }

gives 0 ranks 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=clean
gives 0 ranks 2 "$LOCKSTEP" train $settings run.name=clean2
holds sh -c "! grep -q 'silent corruption' '$work/err'"

# A bit of a weight flips in rank 1 of three: its replicas outvote it, before the next save.
gives 3 plant PLANT_FLIP=150 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=flip
says 'silent corruption: after step [0-9]* rank 1 on host .* holds parameters or optimizer states that differ from those of its replicas, first in [a-z_.0-9]*;'
says 'rank 1 computes what they do: it did not repeat'
holds grep -q '^3 .*silent corruption' "$work/runs/flip/outcome"
# What had been saved before is sound: the run goes on from it and ends as the undisturbed one.
gives 0 ranks 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=flip --resume
says 'resumed from'
holds "$TEST_CKPT_EQUAL" "$work/runs/clean/checkpoints/step-00000040" "$work/runs/flip/checkpoints/step-00000040"

# A rank whose processor computes wrongly, each time.
gives 3 plant PLANT_FLIP=150 3 env PLANT_WRONG=1 "$LOCKSTEP" train $settings batch.sequences=12 run.name=wrong
says 'silent corruption: after step [0-9]* rank 1 on host .*rank 1 goes wrong again'

# Of two ranks nobody can say which is wrong; and with parameters divided among all, nobody can know.
gives 3 plant PLANT_FLIP=150 2 "$LOCKSTEP" train $settings run.name=two
says 'rank 0 on host .*, rank 1 on host .* hold parameters that should be equal and are not'
says 'cannot be told. Run again .*, they agree: it did not repeat'
gives 3 plant PLANT_FLIP=150 2 env PLANT_WRONG=1 "$LOCKSTEP" train $settings run.name=both
says 'they differ again'
gives 0 ranks 2 "$LOCKSTEP" train $settings run.name=off faults.compare_every=0 checkpoint.every=0

# A rank whose matrix products take longer.
gives 0 plant PLANT_SLOW=3000 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=slow numerics.compute=fp32 faults.straggler=1.4
says 'warning: \[rank 1\] this rank, on host .*, computes [0-9.]* times as long as the median'

# Weights driven to infinity: the parameter is named, and the run ends after a few steps in vain.
gives 1 "$LOCKSTEP" train $settings run.name=nan optim.name=sgd optim.lr=1000 optim.clip_norm=0 faults.max_skipped=3 schedule.warmup_steps=0
says 'not finite, \(the gradients are finite\|first in the gradient of [a-z0-9_.]*, kept by rank 0 on host\)'
gives 1 "$LOCKSTEP" train $settings run.name=nan2 optim.name=sgd optim.lr=1000 optim.clip_norm=0 faults.on_nonfinite=stop schedule.warmup_steps=0
says 'not finite, '
holds [ "$(wc -l <"$work/runs/nan2/train.jsonl")" -lt "$(wc -l <"$work/runs/nan/train.jsonl")" ]
gives 1 "$LOCKSTEP" train $settings run.name=nan3 optim.name=sgd optim.lr=1000 optim.clip_norm=0 faults.on_nonfinite=reload \
    checkpoint.every=1 faults.max_reloads=2 schedule.warmup_steps=0
says '2 reloads (faults.max_reloads) did not get past it\|there is no checkpoint before it'

# A communicator that one rank has no memory for, at the start: that rank ends the others, which wait for it.
gives 3 plant PLANT_DUP=2 2 "$LOCKSTEP" train $settings parallel.transport=mpi run.name=dup
says '\[rank 1\] MPI communicator failed'

# Losses out of line, of which a narrow limit makes many: their steps are left out, or the run goes back and leaves
# their data out; a run that is stopped and resumed in between, on other ranks, ends with the same bytes.
spikes="$settings run.steps=90 schedule.kind=constant numerics.reduction=invariant faults.loss_spike=1.2 faults.skip_batches=3 faults.max_reloads=1000
        faults.max_skipped=90 batch.sequences=8 optim.lr=1e-7"
for way in skip reload; do
    gives 0 "$LOCKSTEP" train $spikes run.name=$way faults.on_spike=$way
    says 'standard deviations above'
    until=50 # before, and after more losses than are compared have been seen
    [ $way = reload ] || until=75
    gives 75 ranks 2 "$LOCKSTEP" train $spikes run.name=$way.2 faults.on_spike=$way --until $until
    gives 0 "$LOCKSTEP" train $spikes run.name=$way.2 faults.on_spike=$way --resume
    holds "$TEST_CKPT_EQUAL" "$work/runs/$way/checkpoints/step-00000090" "$work/runs/$way.2/checkpoints/step-00000090"
    for run in $way $way.2; do # the last losses, oldest first
        python3 - "$work/runs/$run" "$work/losses.$run" <<'PYTHON'
import json, sys
kept = json.load(open(sys.argv[1] + "/checkpoints/step-00000090/manifest.json"))["run"]["losses"]
good = {r["step"]: r["loss"] for r in map(json.loads, open(sys.argv[1] + "/train.jsonl")) if not r["skipped"]}
last = [good[step] for step in sorted(good)][-len(kept):]
assert len(kept) > 40 and all(abs(a - b) < 1e-12 for a, b in zip(kept, last)), (kept, last)
json.dump(kept, open(sys.argv[2], "w"))
PYTHON
    done
    holds cmp "$work/losses.$way" "$work/losses.$way.2"
done
says 'back to step [0-9]*; the sequences [0-9]* to [0-9]* of the data are left out'
# The first time up to the bad step's, and faults.skip_batches more.
sed -n '1s/.*"event":"reload".*"bad_step":\([0-9]*\),"to_step":\([0-9]*\),"sequences_left_out":\[\([0-9]*\),\([0-9]*\)\].*/\1 \2 \3 \4/p' \
    "$work/runs/reload/events.jsonl" >"$work/left_out"
read -r bad to first end <"$work/left_out"
holds [ "$first" = $((to * 8)) ]
holds [ "$end" = $(((bad + 3) * 8)) ]
# What was made again counts once, and what was lost for it is told.
python3 - "$work/runs/reload" 8 32 <<'PYTHON'
import json, sys
run, batch, sequence = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
counters = json.load(open(run + "/ledger.json"))["counters"]
lost = sum(e["bad_step"] - e["to_step"] for e in map(json.loads, open(run + "/events.jsonl")))
assert lost > 0 and counters["lost_steps"] == lost, (lost, counters)
assert counters["steps"] == 90 and 0.9 * 90 * batch * sequence < counters["tokens"] <= 90 * batch * sequence, counters
assert counters["phase_seconds"]["lost"] > 0.0, counters
PYTHON
checks=$((checks + 1))
gives 1 "$LOCKSTEP" train $spikes run.name=stop faults.on_spike=stop
says 'standard deviations above'
# One rank reads manifests and looks at files for all: another one that could do neither goes on, begins and evaluates.
gives 75 ranks 2 "$LOCKSTEP" train $settings run.name=blind --until 20
gives 0 plant PLANT_BLIND=1 2 "$LOCKSTEP" train $settings run.name=blind --resume
says 'resumed from .*step-00000020'
gives 0 plant PLANT_BLIND=1 2 "$LOCKSTEP" train $settings run.name=init run.init="$work/runs/blind" run.steps=2
gives 0 plant PLANT_BLIND=1 2 "$LOCKSTEP" eval "$work/runs/blind" --batches 2
# A run whose checkpoint is not there any more is neither done nor stopped with one; the first rank looks for all.
gone() { env LD_PRELOAD="$TEST_PLANT" PLANT_GONE=1 "$@"; }
gives 3 gone PLANT_RANK=0 "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $settings run.name=gone
says "step 40 was saved, and '.*/step-00000040/manifest.json' is not there any more"
holds grep -q "^3 .*is not there any more" "$work/runs/gone/outcome"
gives 3 gone PLANT_RANK=0 "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $settings run.name=gone2 --until 20
says "step 20 was saved, and '.*/step-00000020/manifest.json' is not there any more"
gives 0 gone PLANT_RANK=1 "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $settings run.name=gone3
passed
