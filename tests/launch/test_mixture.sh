#!/bin/sh
# A run on a mixture of data directories: resumed and spread over ranks it is the same run, other shares go on where each
# part was left, and evaluations tell the parts apart.
. "$(dirname "$0")/lib.sh"
make_corpus
"$LOCKSTEP" prep "$root/launch" --include '*.yaml' -o "$work/yaml" --val 0.2 >/dev/null 2>&1
"$LOCKSTEP" prep "$root/launch" --include '*.sh' -o "$work/shell" --val 0 >/dev/null 2>&1
mix="$data 0.5; $work/yaml 0.3; $work/shell 0.2"
tiny=$(echo $tiny | sed 's/data.dir=[^ ]*//')
tiny="$tiny numerics.compute=fp32 eval.every=3"

gives 0 "$LOCKSTEP" train $tiny data.dir="$mix" run.name=straight
says "50 % of the samples from $data, whose .* tokens are read .* times"
says "20 % of the samples from $work/shell"
prints "validation loss [0-9.]*: $data [0-9.]*, $work/yaml [0-9.]*$" # the third has no validation data
holds grep -q "\"val_losses\":{\"$data\":[0-9.]*,\"$work/yaml\":[0-9.]*}" "$work/runs/straight/train.jsonl"
holds [ "$(grep -c val_losses "$work/runs/straight/train.jsonl")" = 2 ]

# The same bytes when it is cut and resumed, and on two ranks with invariant sums.
gives 75 "$LOCKSTEP" train $tiny data.dir="$mix" run.name=cut --until 4
gives 0 "$LOCKSTEP" train $tiny data.dir="$mix" run.name=cut --resume
holds "$TEST_CKPT_EQUAL" "$work/runs/straight/checkpoints/step-00000006" "$work/runs/cut/checkpoints/step-00000006"
invariant="$tiny numerics.reduction=invariant"
gives 0 "$LOCKSTEP" train $invariant data.dir="$mix" run.name=one
gives 0 "$root/tests/mpirun.sh" 2 "$LOCKSTEP" train $invariant data.dir="$mix" run.name=two
holds "$TEST_CKPT_EQUAL" "$work/runs/one/checkpoints/step-00000006" "$work/runs/two/checkpoints/step-00000006"

# Other shares, with --change: each part goes on where it was left; so does one that is read alone, and comes back.
gives 2 "$LOCKSTEP" train $tiny run.name=cut --resume run.steps=8 data.dir="$data 1; $work/yaml 1"
says 'or add --change to go on with this data$'
gives 0 "$LOCKSTEP" train $tiny run.name=cut --resume --change run.steps=8 data.dir="$data 1; $work/yaml 1"
says "from step 7 on: training data: '$data' from its sample 25 on$"
says "from step 7 on: training data: '$work/yaml' from its sample 14 on$"
gives 0 "$LOCKSTEP" train $tiny run.name=cut --resume --change run.steps=9 data.dir="$data"
says "from step 9 on: training data: read on from sample 34, where the run left it$"
gives 75 "$LOCKSTEP" train $tiny run.name=cut --resume --change run.steps=12 data.dir="$mix" --until 10
says "from step 10 on: training data: '$data' from its sample 42 on$"
says "from step 10 on: training data: '$work/yaml' from its sample 21 on$"
says "from step 10 on: training data: '$work/shell' from its sample 9 on$"
cp -r "$work/runs/cut" "$work/runs/again"
gives 0 "$LOCKSTEP" train $tiny run.name=cut --resume run.steps=12 data.dir="$mix"
gives 75 "$LOCKSTEP" train $tiny run.name=again --resume run.steps=12 data.dir="$mix" --until 11
gives 0 "$LOCKSTEP" train $tiny run.name=again --resume run.steps=12 data.dir="$mix"
holds "$TEST_CKPT_EQUAL" "$work/runs/cut/checkpoints/step-00000012" "$work/runs/again/checkpoints/step-00000012"

# Evaluation of the parts, and of one alone.
gives 0 "$LOCKSTEP" eval "$work/runs/straight"
prints "targets of '$mix'"
prints "^ 62.5 % $data: loss [0-9.]*, perplexity [0-9.]*, [0-9.]* bits per byte$"
prints "^ 37.5 % $work/yaml: loss"
gives 0 "$LOCKSTEP" eval "$work/runs/straight" --data "$work/yaml" --json
alone=$(sed -n 's/.*"loss": \([0-9.]*\).*/\1/p' "$work/out")
gives 0 "$LOCKSTEP" eval "$work/runs/straight" --json
holds [ "$(sed -n 's/.*"loss": \([0-9.]*\).*/\1/p' "$work/out" | tail -n 1)" = "$alone" ]

gives 2 "$LOCKSTEP" train $tiny data.dir="$data 1; $work/yaml" run.name=bad
says "data.dir has the part '$work/yaml'; a directory and its weight above 0 are needed, as in 'web 0.7; code 0.3'$"
passed
