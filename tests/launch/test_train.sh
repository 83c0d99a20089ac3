#!/bin/sh
# Training as users run it: a run directory, records, resume, layouts, stopping.
. "$(dirname "$0")/lib.sh"
make_corpus

# A run leaves what the documentation says.
gives 0 "$LOCKSTEP" train $tiny run.name=a checkpoint.every=3
prints 'validation loss'
prints 'checkpoint .*step-00000006'
holds [ -f "$work/runs/a/config.yaml" ]
holds [ "$(wc -l <"$work/runs/a/train.jsonl")" = 6 ]
holds [ -d "$work/runs/a/checkpoints/step-00000003" ]
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/a" --full
gives 0 "$LOCKSTEP" ckpt ls "$work/runs/a"
prints 'optim.exp_avg.layers.0'
gives 0 "$LOCKSTEP" ckpt latest "$work/runs/a"
prints 'step-00000006'

# The resolved configuration is itself a configuration of the same run.
gives 0 "$LOCKSTEP" train "$work/runs/a/config.yaml" run.name=a2
holds "$TEST_CKPT_EQUAL" "$work/runs/a/checkpoints/step-00000006" "$work/runs/a2/checkpoints/step-00000006"

# N steps straight, and N/2 + stop + N/2, give the same bytes; also on 2 ranks.
gives 75 "$LOCKSTEP" train $tiny run.name=b --until 3
says 'stopped on request'
gives 0 "$LOCKSTEP" train $tiny run.name=b --resume
says 'resumed from .*step-00000003'
holds "$TEST_CKPT_EQUAL" "$work/runs/a/checkpoints/step-00000006" "$work/runs/b/checkpoints/step-00000006"
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=c
gives 75 ranks 2 "$LOCKSTEP" train $tiny run.name=d --until 3
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=d --resume
holds "$TEST_CKPT_EQUAL" "$work/runs/c/checkpoints/step-00000006" "$work/runs/d/checkpoints/step-00000006"

# A finished run resumed has nothing to do, and says what it has; what a save that nobody knows left is removed by who has
# the run's lock.
mkdir "$work/runs/b/checkpoints/.tmp-00000009-dead"
gives 0 "$LOCKSTEP" train $tiny run.name=b --resume
prints 'step 6 of 6'
holds [ ! -e "$work/runs/b/checkpoints/.tmp-00000009-dead" ]
gives 0 "$LOCKSTEP" train $tiny run.name=b run.steps=4 --resume
says 'gone beyond its 4 steps, to step 6'

# What only reading finds: the newest checkpoint's values are damaged, and the one before it is taken. Of ranks that
# hold the same one reads a chunk, and tells of it.
damage() {
    file=$work/runs/d/checkpoints/$1/rank-00000.h5
    dd if=/dev/zero of="$file" bs=4096 count=1 seek=$(($(wc -c <"$file") / 8192)) conv=notrunc 2>/dev/null
}
damage step-00000006
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=d --resume
says 'the checkpoint of step 6 is skipped: rank 0: .*chunk'
says 'resumed from .*step-00000003'
holds "$TEST_CKPT_EQUAL" "$work/runs/c/checkpoints/step-00000006" "$work/runs/d/checkpoints/step-00000006"
damage step-00000006
damage step-00000003
gives 1 ranks 2 "$LOCKSTEP" train $tiny run.name=d --resume
says 'chunk'

# A run whose checkpoints are there, but all cut short, does not begin anew over them.
for step in 3 6; do
    truncate -s -7 "$work/runs/a2/checkpoints/step-0000000$step/rank-00000.h5"
done
gives 1 "$LOCKSTEP" train $tiny run.name=a2 --resume
says 'holds no valid checkpoint (2 directories.*: no run begins anew over checkpoints that are there'

# --resume on a run that does not exist begins it.
gives 0 "$LOCKSTEP" train $tiny run.name=fresh run.steps=1 --resume

# Counters continue over restarts.
gives 0 "$LOCKSTEP" ckpt show "$work/runs/b" --counters
prints 'restarts'

# Losses of 1, 2 and 4 ranks: equal to rounding, and bitwise with invariant reduction, for any split
# between stop and resume.
losses() { sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$work/runs/$1/train.jsonl"; }
for n in 1 2 4; do
    gives 0 ranks $n "$LOCKSTEP" train $tiny run.name=fast$n numerics.compute=fp32 # whose rounding is far below the bound
    gives 0 ranks $n "$LOCKSTEP" train $tiny run.name=inv$n numerics.reduction=invariant
done
for n in 2 4; do
    losses fast1 >"$work/one"
    losses fast$n >"$work/many"
    paste "$work/one" "$work/many" | awk '{d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > 1e-5) exit 1}' ||
        fail "losses of 1 and $n ranks differ: $(paste "$work/one" "$work/many")"
    losses inv1 >"$work/one"
    losses inv$n >"$work/many"
    holds cmp "$work/one" "$work/many"
    holds "$TEST_CKPT_EQUAL" "$work/runs/inv1/checkpoints/step-00000006" \
        "$work/runs/inv$n/checkpoints/step-00000006"
done
# So for ranks that share sequences, however the state is divided.
shared="numerics.reduction=invariant parallel.context=2"
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=shared $shared
for zero in 0 1 2 3; do
    gives 0 ranks 4 "$LOCKSTEP" train $tiny run.name=shared$zero $shared parallel.zero=$zero
    holds "$TEST_CKPT_EQUAL" "$work/runs/shared/checkpoints/step-00000006" \
        "$work/runs/shared$zero/checkpoints/step-00000006"
done
gives 75 ranks 4 "$LOCKSTEP" train $tiny run.name=mixed numerics.reduction=invariant --until 2
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=mixed numerics.reduction=invariant --resume
holds "$TEST_CKPT_EQUAL" "$work/runs/inv1/checkpoints/step-00000006" \
    "$work/runs/mixed/checkpoints/step-00000006"

# Evaluation gives the run's own number, on any number of ranks; bf16 and GPT-2 run too.
gives 0 "$LOCKSTEP" eval "$work/runs/a" --batches 2 --json
prints '"bits_per_byte"'
cp "$work/out" "$work/eval1"
gives 0 ranks 2 "$LOCKSTEP" eval "$work/runs/a" --batches 2 --json
holds cmp "$work/out" "$work/eval1"
gives 0 "$LOCKSTEP" train $tiny run.name=bf16 numerics.compute=bf16

# Of what type the numbers are that it computes with: the run's, or another one.
loss_in() { # loss_in TYPE OPTION...: of the bf16 run
    type=$1
    shift
    gives 0 "$LOCKSTEP" eval "$work/runs/bf16" --batches 2 --json "$@"
    prints "\"compute\": \"$type\""
    sed -n 's/.*"loss": \([0-9.]*\),/\1/p' "$work/out" >"$work/loss.$type"
}
loss_in bfloat16
loss_in float32 --compute fp32
fails cmp -s "$work/loss.bfloat16" "$work/loss.float32"
holds awk 'NR == 1 { x = $1 } NR == 2 { d = x - $1; exit !(d * d < 1e-3 * x * x) }' "$work/loss.bfloat16" "$work/loss.float32"
gives 2 "$LOCKSTEP" eval "$work/runs/bf16" --compute fp64
says "compute is 'fp64'; auto, fp32 or bf16"

# Logits of the type that computes, but for tokens that are drawn.
gives 0 "$LOCKSTEP" train $tiny run.name=logits numerics.compute=bf16 numerics.logits=compute
says ' parameters, bfloat16 with logits, '
holds grep -q '^ *logits: compute ' "$work/runs/logits/config.yaml"
gives 0 "$LOCKSTEP" eval "$work/runs/logits" --batches 2
gives 0 "$LOCKSTEP" sample "$work/runs/logits" --prompt a --tokens 4

# A loss that is no number is told as such, on all ranks, and is no success.
gives 0 "$LOCKSTEP" ckpt convert "$work/runs/a" --to safetensors -o "$work/hf"
python3 - "$work/hf/model.safetensors" <<'PYTHON'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(-4, 2)
    f.write(struct.pack("<f", float("nan")))
PYTHON
gives 0 "$LOCKSTEP" ckpt convert "$work/hf" --from safetensors --tokenizer bytes -o "$work/nan"
for n in 1 2; do
    gives 1 ranks $n "$LOCKSTEP" eval "$work/nan" --data "$data" --batches 2 --json
    says 'the loss is -*nan, not finite'
    prints '"loss": null'
done
gives 1 "$LOCKSTEP" eval "$work/nan" --data "$data" --batches 2
says 'the loss is -*nan, not finite'
gives 0 "$LOCKSTEP" train $tiny run.name=gpt model.preset=gpt2-tiny batch.micro=1
gives 0 "$LOCKSTEP" train $tiny run.name=tokens run.steps=0 run.tokens=1000
holds [ "$(wc -l <"$work/runs/tokens/train.jsonl")" = 4 ]

# Sampling: the prompt comes first, a seed gives the same text twice, stdin works.
gives 0 "$LOCKSTEP" sample "$work/runs/a" --prompt 'abc' --tokens 80 --seed 7
prints '^abc'
cp "$work/out" "$work/sample1"
gives 0 "$LOCKSTEP" sample "$work/runs/a" --prompt 'abc' --tokens 80 --seed 7
holds cmp "$work/out" "$work/sample1"
printf 'xyz' >"$work/prompt"
gives 0 "$LOCKSTEP" sample "$work/runs/a" --prompt - --tokens 5 --temperature 0 <"$work/prompt"
prints '^xyz'

# Tokens for those whose tokenizer is another program: the bytes of a text, in and out, are its ids.
bytes() { od -An -v -tu1 | xargs; }
gives 0 "$LOCKSTEP" sample "$work/runs/a" --prompt 'abc' --tokens 30 --seed 7 --top-p 0.9
head -c -1 "$work/out" | bytes >"$work/ids"
fails cmp -s "$work/out" "$work/sample1"
gives 0 "$LOCKSTEP" sample "$work/runs/a" --ids '256 97 98 99' --tokens 30 --seed 7 --top-p 0.9
holds [ "$(cat "$work/out")" = "256 $(cat "$work/ids")" ]
gives 0 ranks 2 "$LOCKSTEP" sample "$work/runs/a" --ids '256 97 98 99' --tokens 30 --seed 7 --top-p 0.9
holds [ "$(wc -w <"$work/out")" = 34 ]
printf '[256,\n 97, 98,99]\n' >"$work/prompt"
gives 0 "$LOCKSTEP" sample "$work/runs/a" --ids - --tokens 1 --temperature 0 <"$work/prompt"
prints '^256 97 98 99 [0-9]*$'
gives 0 "$LOCKSTEP" sample "$work/runs/a" --tokens 4 --top-k 1
head -c -1 "$work/out" | bytes >"$work/ids"
gives 0 "$LOCKSTEP" sample "$work/runs/a" --ids '' --tokens 4 --top-p 0 # from the beginning of a text
holds [ "$(cat "$work/out")" = "$(cat "$work/ids")" ]
for wrong in '97 x' '97 257' '-1' '1.5' '99999999999999999999'; do
    gives 2 "$LOCKSTEP" sample "$work/runs/a" --ids "$wrong"
    says "${wrong##* }' behind [01] others; whole numbers from 0 to 256, the model's vocabulary, are needed"
done
gives 2 "$LOCKSTEP" sample "$work/runs/a" --ids 1 --prompt a
says 'give one of them'
gives 2 "$LOCKSTEP" sample "$work/runs/a" --top-p 1.5
says "top-p is '1.5'"
gives 1 ranks 2 "$LOCKSTEP" sample "$work/nan" --prompt a
says 'the logit of token [0-9]* is -*nan: the weights are not sound'
# A model of tokens that are no bytes.
seq 60 | awk '{ printf "{\"ids\": ["; for (i = 0; i < 40; i++) printf "%s%d", i ? ", " : "", ($1 * 7 + i * 3) % 300; print "]}" }' >"$work/ids.jsonl"
gives 0 "$LOCKSTEP" prep "$work/ids.jsonl" --field ids --vocab 400 --separator 399 -o "$work/of-ids" --val 0.1
gives 0 "$LOCKSTEP" train $tiny data.dir="$work/of-ids" run.name=ids run.steps=2
gives 2 "$LOCKSTEP" sample "$work/runs/ids" --prompt abc
says "tokenizer is 'tokens', of which there is no file: give its tokenizer.json with --tokenizer FILE, or .sample. tokens with --ids"
gives 0 "$LOCKSTEP" sample "$work/runs/ids" --ids '399 300 5' --tokens 8
prints '^399 300 5\( [0-9]*\)*$'
# Weights of one tokenizer on the text of another: hardly meant.
gives 0 "$LOCKSTEP" eval "$work/runs/ids" --data "$data" --batches 1
says "have a vocabulary of 400 ('tokens'), and the tokens of '$data' ('bytes') are below 257: were they made by the tokenizer"
gives 0 "$LOCKSTEP" eval "$work/runs/ids" --batches 1
fails grep -q 'made by the tokenizer' "$work/err"

# A text longer than the context goes on with its newer half: what comes next is what comes behind that half alone, until
# the context is full again.
gives 0 "$LOCKSTEP" train $tiny run.name=wild model.init_std=1 optim.lr=0 run.steps=1
seq 3 7 240 | xargs >"$work/prompt"
gives 0 "$LOCKSTEP" sample "$work/runs/wild" --ids - --tokens 60 --temperature 0 <"$work/prompt"
cp "$work/out" "$work/long"
place=$(wc -w <"$work/prompt") # 35 tokens, of which a context of 32 takes the last 16
while [ $((place + 17)) -le "$(wc -w <"$work/long")" ]; do
    cut -d ' ' -f $((place - 15))-$place "$work/long" >"$work/half"
    gives 0 "$LOCKSTEP" sample "$work/runs/wild" --ids - --tokens 17 --temperature 0 <"$work/half"
    holds [ "$(cat "$work/out")" = "$(cut -d ' ' -f $((place - 15))-$((place + 17)) "$work/long")" ]
    place=$((place + 17))
done
holds [ "$(cut -d ' ' -f 36- "$work/long" | tr ' ' '\n' | sort -u | wc -l)" -gt 10 ]

# Settings without effect are told.
gives 0 "$LOCKSTEP" train $tiny run.name=unused run.steps=1 model.preset=gpt2-tiny model.rope_theta=10000 \
    model.expert_capacity=2 schedule.decay_steps=3 recompute.every=2
says 'model.rope_theta is set, and family gpt2 has learned positions: it has no effect'
says 'model.expert_capacity is 2, and model.experts is 0: it has no effect'
says 'schedule.decay_steps is 3, and schedule.kind is not wsd: it has no effect'
says 'recompute.every is 2, and recompute.mode is none: nothing is recomputed'
gives 0 "$LOCKSTEP" train $tiny run.name=unused2 run.steps=1 model.rope_theta=10000 recompute.mode=full recompute.every=3
says 'recompute.every is 3, and the model has 2 layers: the first one alone is recomputed'
fails grep -q 'no effect' "$work/err"

# Asked to stop: each signal finishes the step, saves and exits with 75; through the launch script too.
wait_for_step() { # wait_for_step RUN: until its first record is there
    until [ -s "$work/runs/$1/train.jsonl" ]; do
        kill -0 "$pid" 2>/dev/null || { cat "$work/err" >&2; fail "the run ended early"; }
    done
}
for signal in INT TERM USR1; do
    "$LOCKSTEP" train $tiny run.name=sig$signal run.steps=1000000 >"$work/out" 2>"$work/err" &
    pid=$!
    wait_for_step sig$signal
    # a background job of a shell ignores SIGINT until the program handles it, which it does by now
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    holds [ "$status" = 75 ]
    gives 0 "$LOCKSTEP" ckpt verify "$work/runs/sig$signal"
done
"$root/launch/mpirun/local.sh" 2 "$LOCKSTEP" train $tiny run.name=ctrlc run.steps=1000000 >"$work/out" 2>"$work/err" &
pid=$!
wait_for_step ctrlc
kill -TERM $pid
status=0
wait $pid || status=$?
holds [ "$status" = 75 ]
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/ctrlc"
passed
