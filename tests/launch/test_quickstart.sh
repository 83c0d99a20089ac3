#!/bin/sh
# The newcomer's first command, whole, with few steps.
. "$(dirname "$0")/lib.sh"
unset OMP_NUM_THREADS
cd /
gives 2 env TEXT="$work/none" "$root/launch/quickstart.sh"
says 'TEXT is to name a directory'
gives 2 "$root/launch/quickstart.sh" run.name=mine
says "'run.name=mine' is for lockstep train"
gives 0 "$root/launch/quickstart.sh" run.steps=6 schedule.warmup_steps=2 eval.batches=1 run.dir="$work"
says 'step 6/6'
prints 'validation loss'
prints 'Permission is hereby granted'
prints '== Done'
gives 0 "$LOCKSTEP" ckpt verify "$work/quickstart" --full
# again, over what the first one left
gives 0 "$root/launch/quickstart.sh" run.steps=2 schedule.warmup_steps=0 eval.batches=1 run.dir="$work"
passed
