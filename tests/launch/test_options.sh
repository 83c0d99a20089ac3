#!/bin/sh
# Options and settings that no other test gives: each changes what its help says, and nothing fails.
. "$(dirname "$0")/lib.sh"
make_corpus

# The planner's.
plan() { gives 0 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 16 --top 1 "$@"; }
best() { awk -v field="$1" '$1 == "*" { print $field }' "$work/out"; } # 2: seconds of a step, 4: GB a device
plan
step_s=$(best 2)
plan --save-stall 600
prints '(10m00s waiting, '
plan --save-commit 3000
prints ' waiting, safe 50m00s later)'
plan --mtbf 160
prints '^failures: one in 10h00m'
plan --price-kind capacity_block
prints 'a device-hour (capacity_block, '
plan --price 1.5
prints 'at \$1.50* a device-hour'
plan --memory 0.3
holds awk -v gb="$(best 4)" 'BEGIN { exit !(gb > 0 && gb <= 24) }'
plan --network-gbit 10
holds awk -v now="$(best 2)" -v before="$step_s" 'BEGIN { exit !(now > before) }'
step_s=$(best 2)
plan --network-gbit 10 --reduction bf16
prints ' bf16, gradients sent in bf16;'
holds awk -v now="$(best 2)" -v before="$step_s" 'BEGIN { exit !(now < before) }'
gives 1 "$LOCKSTEP" plan -m llama3-8b -c aws-p5en --tokens 1T --deadline 30 --max-power 0.01
says 'the least power is '

# Training's. The same run with and without.
gives 0 "$LOCKSTEP" train $tiny run.name=a
holds [ -e "$work/runs/a/metrics.prom" ]
holds grep -q '"mfu":null' "$work/runs/a/train.jsonl"
gives 0 "$LOCKSTEP" train $tiny run.name=b metrics.prometheus=false metrics.peak_tflops=1 faults.repeat_steps=false \
    cost.usd_per_device_hour=2 cost.price_date=2026-11-01
holds [ ! -e "$work/runs/b/metrics.prom" ]
holds grep -q '"mfu":0\.' "$work/runs/b/train.jsonl"
# What is computed again counts in HFU: by all a third of the layers' work, and selectively of attention's.
value() { tail -n 1 "$work/runs/$1/train.jsonl" | sed -n "s/.*\"$2\":\([-0-9.e+]*\).*/\1/p"; }
again() { awk -v mfu="$(value "$1" mfu)" -v hfu="$(value "$1" hfu)" 'BEGIN { print hfu / mfu - 1 }'; }
gives 0 "$LOCKSTEP" train $tiny run.name=full metrics.peak_tflops=1 recompute.mode=full
gives 0 "$LOCKSTEP" train $tiny run.name=part metrics.peak_tflops=1 recompute.mode=selective
a_token=$(awk -v f="$(value full flops_per_second)" -v t="$(value full tokens_per_second)" 'BEGIN { print f / t }')
head=$(awk '$1 == "vocab:" { v = $2 } $1 == "channels:" { c = $2 } END { print 6 * v * c }' "$work/runs/full/config.yaml")
holds awk -v b="$(again b)" -v part="$(again part)" -v full="$(again full)" -v head="$head" -v all="$a_token" 'BEGIN {
    wanted = (1 - head / all) / 3
    exit !(b == 0 && part > 0.001 && part < wanted / 4 && full > 0.999 * wanted && full < 1.001 * wanted) }'
gives 0 "$LOCKSTEP" cost "$work/runs/b"
prints 'device-hour (on-demand, 2026-11-01)'
gives 0 "$LOCKSTEP" train $tiny run.name=b --run-dir
holds [ "$(cat "$work/out")" = "$work/runs/b" ]

# The model's: with one token to choose from there is no chance; another split has other text.
for choice in '--top-k 1 --seed 5' '--top-k 1 --seed 6' '--temperature 0'; do
    # shellcheck disable=SC2086
    gives 0 "$LOCKSTEP" sample "$work/runs/a" --prompt 'The ' --tokens 12 $choice
    cp "$work/out" "$work/text-$(echo "$choice" | tr -d ' -')"
done
holds cmp "$work/text-topk1seed5" "$work/text-topk1seed6"
holds cmp "$work/text-topk1seed5" "$work/text-temperature0"
gives 0 "$LOCKSTEP" sample "$work/runs/a" --prompt 'The ' --tokens 12 --seed 5
! cmp -s "$work/out" "$work/text-topk1seed5" || fail 'a draw from all tokens is the likeliest text'
for split in train val; do
    gives 0 "$LOCKSTEP" eval "$work/runs/a" --split $split
    sed -n 's/ targets.*//p' "$work/out" >>"$work/targets"
done
holds [ "$(sort -u "$work/targets" | wc -l)" = 2 ]

# Checkpoints'.
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/a" --deep
prints '^OK .*  deep$'
gives 0 "$LOCKSTEP" ckpt convert "$work/runs/a" --to safetensors -o "$work/hf"
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf" --tokenizer other -o "$work/back"
holds grep -q '"tokenizer": *"other"' "$work/back/step-00000000/manifest.json"

# The benchmark's. What means nothing to one of them is refused.
for wrong in 'gemm --minbytes 8' 'gemm --overlap' 'step --profile x.yaml' 'machine --model gpt2-3m' 'machine --json' \
    'collective --seq 8' 'collective -b 8 --minbytes 8' 'collective --repeat 3'; do
    # shellcheck disable=SC2086
    gives 2 "$LOCKSTEP" bench $wrong
    says "means nothing to 'bench ${wrong%% *}'; it is for: [a-z]"
done
gives 2 "$LOCKSTEP" bench machine --dtype fp16
says "dtype is 'fp16'; auto, fp32 or bf16"
gives 0 ranks 2 "$LOCKSTEP" bench collective --private --operation all_gather --minbytes 1K --maxbytes 4K --stepfactor 4 --iters 2 --warmup 1
prints '^# all_gather, back end shm on 2 ranks, private buffers'
holds [ "$(awk '$1 == 1024 || $1 == 4096' "$work/out" | wc -l)" = 2 ]
passed
