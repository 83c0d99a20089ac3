#!/bin/sh
# A run that goes on with other settings than it began with: what may change, that it is told, and where in the data it
# goes on.
. "$(dirname "$0")/lib.sh"
make_corpus
tiny="$tiny numerics.compute=fp32"
losses() { sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$work/runs/$1/train.jsonl"; }
rates() { sed -n 's/.*"lr":\([^,]*\),.*/\1/p' "$work/runs/$1/train.jsonl"; }
near() { # near FILE FILE: as many numbers, equal to rounding
    paste "$1" "$2" | awk 'NF != 2 { exit 1 } { d = ($1 - $2) / ($1 + 1e-30); if (d * d > 1e-10) exit 1 }'
}

# Nothing changes without being asked for, and nothing is lost by an attempt.
gives 75 "$LOCKSTEP" train $tiny run.name=a --until 3
gives 2 "$LOCKSTEP" train $tiny run.name=a --resume optim.lr=5e-4 schedule.kind=linear
says 'step-00000003 was trained otherwise:'
says '^optim.lr: 0.001 in the checkpoint, 0.0005 in this run$'
says '^schedule.kind: cosine in the checkpoint, linear in this run$'
says 'add --change to go on with the new ones from step 3$'
holds grep -q '^2 rank 0 on .*trained otherwise: optim.lr: .* from step 3$' "$work/runs/a/outcome" # one line
gives 2 "$LOCKSTEP" train $tiny run.name=a --resume --change model.layers=3
says '^model.layers: 2 in the checkpoint, 3 in this run$'
says 'run.name=OTHER run.init=.*step-00000003$'
gives 2 "$LOCKSTEP" train $tiny run.name=a --resume --change run.seed=2
says '^run.seed: 1 in the checkpoint, 2 in this run$'
gives 2 "$LOCKSTEP" train $tiny run.name=a --resume data.sequence=16
says '^data.sequence: 32 in the checkpoint, 16 in this run$'
gives 2 "$LOCKSTEP" train $tiny run.name=a --resume --change optim.name=lion
says '^optim.name: "adamw" in the checkpoint, "lion" in this run$'
gives 2 "$LOCKSTEP" train $tiny run.name=new --change
says 'change is for runs that are resumed'
holds [ ! -e "$work/runs/a/events.jsonl" ]

# Allowed to change, and as it was: the same bytes, and no word of a change.
gives 0 "$LOCKSTEP" train $tiny run.name=straight
gives 0 "$LOCKSTEP" train $tiny run.name=a --resume --change
fails grep -q 'from step' "$work/err"
holds [ ! -e "$work/runs/a/events.jsonl" ]
holds "$TEST_CKPT_EQUAL" "$work/runs/straight/checkpoints/step-00000006" "$work/runs/a/checkpoints/step-00000006"

# Another rate, schedule, decay and clipping: told, recorded, and the run's own from then on.
gives 75 "$LOCKSTEP" train $tiny run.name=rate --until 3
other="optim.lr=5e-4 schedule.kind=constant optim.weight_decay=0.2 optim.beta2=0.99 optim.clip_norm=0.5"
gives 75 "$LOCKSTEP" train $tiny run.name=rate --resume --change $other --until 4
says 'from step 4 on: optim.lr: 0.001 in the checkpoint, 0.0005 in this run$'
says 'from step 4 on: schedule.kind: cosine in the checkpoint, constant in this run$'
holds grep -q '^{"event":"change","time":[0-9.]*,"after_step":3,"changes":\["optim.lr: 0.001 in the checkpoint, 0.0005 in this run",' \
    "$work/runs/rate/events.jsonl"
gives 0 "$LOCKSTEP" train $tiny run.name=rate --resume $other
holds [ "$(rates rate | tail -n 3 | sort -u)" = 0.0005 ]
holds [ "$(wc -l <"$work/runs/rate/events.jsonl")" = 1 ]
# The same whether it is interrupted or not.
gives 75 "$LOCKSTEP" train $tiny run.name=rate2 --until 3
gives 0 "$LOCKSTEP" train $tiny run.name=rate2 --resume --change $other
holds "$TEST_CKPT_EQUAL" "$work/runs/rate/checkpoints/step-00000006" "$work/runs/rate2/checkpoints/step-00000006"

# Logits of the type that computes: other numbers than without.
half="$tiny numerics.compute=bf16"
gives 0 "$LOCKSTEP" train $half run.name=half
gives 75 "$LOCKSTEP" train $half run.name=logits --until 3
gives 2 "$LOCKSTEP" train $half run.name=logits --resume numerics.logits=compute
says '^numerics.logits: fp32 in the checkpoint, compute in this run$'
gives 0 "$LOCKSTEP" train $half run.name=logits --resume --change numerics.logits=compute
says 'from step 4 on: numerics.logits: fp32 in the checkpoint, compute in this run$'
losses half >"$work/expected"
losses logits >"$work/found"
holds [ "$(head -n 3 "$work/found")" = "$(head -n 3 "$work/expected")" ]
fails grep -qxF "$(sed -n 4p "$work/found")" "$work/expected"

# A schedule of its own for what follows, warm-up and all; not before the run is there.
gives 0 "$LOCKSTEP" train $tiny run.name=rate --resume --change $other run.steps=10 schedule.first_step=6 schedule.warmup_steps=4
rates rate | tail -n 4 | tr '\n' ' ' >"$work/rates"
holds [ "$(cat "$work/rates")" = '0.000125 0.00025 0.000375 0.0005 ' ]
gives 2 "$LOCKSTEP" train $tiny run.name=straight --resume --change run.steps=20 schedule.first_step=7
says 'schedule.first_step is 7, and the run goes on from step 6'
gives 2 "$LOCKSTEP" train $tiny run.name=early schedule.first_step=3
says 'schedule.first_step is 3, and the run goes on from step 0'
holds [ ! -e "$work/runs/early" ]

# Another batch goes on where the data was left. With a rate of 0 the loss of a batch is the mean of its sequences'.
still="$tiny optim.lr=0 batch.micro=1"
gives 0 "$LOCKSTEP" train $still run.name=fours batch.sequences=4 run.steps=8
gives 75 "$LOCKSTEP" train $still run.name=ramp batch.sequences=4 run.steps=8 --until 2
gives 75 ranks 2 "$LOCKSTEP" train $still run.name=ramp batch.sequences=8 run.steps=8 --resume --change --until 4
says 'from step 3 on: batch.sequences: 4 in the checkpoint, 8 in this run$'
gives 0 "$LOCKSTEP" train $still run.name=ramp batch.sequences=4 run.steps=6 --resume --change
losses fours | awk 'NR <= 2 || NR > 6 { print; next } NR % 2 { x = $1; next } { printf "%.17g\n", (x + $1) / 2 }' >"$work/expected"
losses ramp >"$work/found"
holds near "$work/expected" "$work/found"
# One that does not divide what was read goes on in the middle of what would have been a batch of its own.
gives 75 "$LOCKSTEP" train $still run.name=odd batch.sequences=4 run.steps=8 --until 1
gives 75 "$LOCKSTEP" train $still run.name=odd batch.sequences=6 run.steps=8 --resume --change --until 3
gives 0 "$LOCKSTEP" train $still run.name=odd batch.sequences=4 run.steps=4 --resume --change
losses odd | sed -n '1p;4p' >"$work/found"
losses fours | sed -n '1p;5p' >"$work/expected"
holds near "$work/expected" "$work/found"
losses odd | awk 'NR == 2 || NR == 3 { sum += $1 } END { printf "%.17g\n", sum / 2 }' >"$work/found"
losses fours | awk 'NR >= 2 && NR <= 4 { sum += $1 } END { printf "%.17g\n", sum / 3 }' >"$work/expected"
holds near "$work/expected" "$work/found"

# A length in tokens counts those of each step's batch.
gives 75 "$LOCKSTEP" train $still run.name=length batch.sequences=4 run.steps=0 run.tokens=1k --until 4
gives 0 "$LOCKSTEP" train $still run.name=length batch.sequences=8 run.steps=0 run.tokens=1k --resume --change
prints 'step 6 of 6, 1.02 k tokens'
gives 0 "$LOCKSTEP" train $still run.name=length batch.sequences=8 run.steps=0 run.tokens=500 --resume
says 'has gone beyond its [0-9]* steps, to step 6'

# Other data, from its beginning.
"$LOCKSTEP" prep "$work/text" -o "$work/other" --val 0.5 >/dev/null 2>&1
gives 2 "$LOCKSTEP" train $still run.name=fours run.steps=10 batch.sequences=4 data.dir="$work/other" --resume
says 'or add --change to go on with this data$'
gives 0 "$LOCKSTEP" train $still run.name=fours run.steps=10 batch.sequences=4 data.dir="$work/other" --resume --change
says 'from step 9 on: training data: fingerprint [0-9a-f]* in the checkpoint, [0-9a-f]* in this run$'
says 'from step 9 on: training data: read from its beginning, in samples of 32 tokens$'
gives 0 "$LOCKSTEP" train $still run.name=there run.steps=3 batch.sequences=4 data.dir="$work/other" run.init="$work/runs/fours"
losses fours | tail -n 2 >"$work/found"
losses there | head -n 2 >"$work/expected"
holds cmp "$work/expected" "$work/found"
gives 0 "$LOCKSTEP" train $still run.name=fours run.steps=11 batch.sequences=4 data.dir="$work/other" --resume
losses fours | tail -n 1 >"$work/found"
losses there | tail -n 1 >"$work/expected"
holds cmp "$work/expected" "$work/found"

# Back to the data before, where the run left it; and again to the other one.
gives 0 "$LOCKSTEP" train $still run.name=fours run.steps=12 batch.sequences=4 --resume --change
says 'from step 12 on: training data: read on from sample 32, where the run left it$'
gives 0 "$LOCKSTEP" train $still run.name=nines batch.sequences=4 run.steps=9
losses fours | tail -n 1 >"$work/found"
losses nines | tail -n 1 >"$work/expected"
holds cmp "$work/expected" "$work/found"
gives 0 "$LOCKSTEP" train $still run.name=fours run.steps=13 batch.sequences=4 data.dir="$work/other" --resume --change
says 'from step 13 on: training data: read on from sample 12, where the run left it$'

# Samples of another length: data in another order, which begins; the length of the run counts what each step took.
gives 75 "$LOCKSTEP" train $still run.name=warm batch.sequences=4 data.sequence=16 run.steps=0 run.tokens=512 --until 4
gives 2 "$LOCKSTEP" train "$work/runs/warm/config.yaml" --resume --change data.sequence=32
says 'batch.tokens is 64, but batch.sequences 4 of 32 tokens are 128; give batch.sequences=2 or batch.tokens=128: on the command line'
gives 0 "$LOCKSTEP" train "$work/runs/warm/config.yaml" --resume --change data.sequence=32 batch.sequences=4
says 'from step 5 on: data.sequence: 16 in the checkpoint, 32 in this run$'
says 'from step 5 on: training data: read from its beginning, in samples of 32 tokens$'
prints 'step 6 of 6, 512 tokens'
losses warm | tail -n 2 >"$work/found"
losses fours | head -n 2 >"$work/expected"
holds cmp "$work/expected" "$work/found"
gives 0 "$LOCKSTEP" train "$work/runs/warm/config.yaml" --resume --change data.sequence=16 run.steps=7 batch.tokens=64
says 'read on from sample 16, where the run left it$'

# Rotary positions may become more, and other; learned ones are weights.
gpt2="$tiny model.preset=gpt2-tiny run.name=learned"
gives 0 "$LOCKSTEP" train $gpt2 run.steps=2
gives 2 "$LOCKSTEP" train $gpt2 run.steps=3 --resume --change model.context=64
says "'pos_embed.weight'"
gives 0 "$LOCKSTEP" train $tiny run.name=rope model.family=llama3 model.ffn=64 run.steps=2
gives 0 "$LOCKSTEP" train $tiny run.name=rope model.family=llama3 model.ffn=64 run.steps=3 model.context=64 \
    model.rope_theta=1e6 data.sequence=64 --resume --change
says 'from step 3 on: model.context: 32 in the checkpoint, 64 in this run$'
says 'from step 3 on: model.rope_theta: 500000.0 in the checkpoint, 1000000.0 in this run$'

# A state that the new settings need and the checkpoint lacks.
gives 0 "$LOCKSTEP" train $tiny run.name=sgd optim.name=sgd optim.momentum=0 optim.nesterov=false run.steps=2
gives 2 "$LOCKSTEP" train $tiny run.name=sgd optim.name=sgd optim.nesterov=false run.steps=4 optim.momentum=0.9 --resume --change
says 'momentum_buffer'
passed
