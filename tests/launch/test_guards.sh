#!/bin/sh
# Numbers that go wrong, and ranks that fall behind: named, and kept away from checkpoints.
. "$(dirname "$0")/lib.sh"
make_corpus
settings="$tiny run.steps=40 eval.every=0 metrics.every=5 checkpoint.every=10 faults.compare_every=5"
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
gives 3 plant PLANT_FLIP=60 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=flip
says 'silent corruption: after step [0-9]* rank 1 on host .* holds parameters that differ from those of its replicas, first in [a-z_.0-9]*;'
holds grep -q '^3 .*silent corruption' "$work/runs/flip/outcome"
# What had been saved before is sound: the run goes on from it and ends as the undisturbed one.
gives 0 ranks 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=flip --resume
says 'resumed from'
holds "$TEST_CKPT_EQUAL" "$work/runs/clean/checkpoints/step-00000040" "$work/runs/flip/checkpoints/step-00000040"

# Of two ranks nobody can say which is wrong; and with parameters divided among all, nobody can know.
gives 3 plant PLANT_FLIP=60 2 "$LOCKSTEP" train $settings run.name=two
says 'rank 0 on host .*, rank 1 on host .* hold parameters that should be equal and are not'
gives 0 ranks 2 "$LOCKSTEP" train $settings run.name=off faults.compare_every=0 checkpoint.every=0

# A rank whose matrix products take longer.
gives 0 plant PLANT_SLOW=3000 3 "$LOCKSTEP" train $settings batch.sequences=12 run.name=slow numerics.compute=fp32 faults.straggler=1.4
says 'warning: \[rank 1\] this rank, on host .*, computes [0-9.]* times as long as the median'

# Weights driven to infinity: the parameter is named, and the run ends after a few steps in vain.
gives 1 "$LOCKSTEP" train $settings run.name=nan optim.name=sgd optim.lr=1000 optim.clip_norm=0 faults.max_skipped=3 schedule.warmup_steps=0
says 'not finite, \(the gradients are finite\|first in the gradient of [a-z0-9_.]*, kept by rank 0 on host\)'
passed
