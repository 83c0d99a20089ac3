#!/bin/sh
# train.sh LOCKSTEP DIR [STEPS]: tokens a second of lockstep train on one GPU: GPT-2 124M and 1558M, bf16,
# T=1024, on made-up bytes in DIR; the median of the steps' records without the first five.
set -eu
lockstep=$1 dir=$2 steps=${3:-30}
mkdir -p "$dir"
[ -d "$dir/data" ] || {
    head -c 40000000 /dev/urandom | base64 >"$dir/bytes.txt"
    "$lockstep" prep "$dir/bytes.txt" -o "$dir/data" >/dev/null 2>&1
}
for model in gpt2-124m:16 gpt2-1558m:8; do
    preset=${model%:*} micro=${model#*:}
    rm -rf "$dir/runs/$preset"
    "$lockstep" train model.preset="$preset" model.vocab=50257 data.dir="$dir/data" run.device=cuda run.dir="$dir/runs" \
        run.name="$preset" run.steps="$steps" batch.micro="$micro" batch.sequences="$((micro * 4))" checkpoint.every=0 \
        checkpoint.at_end=false >/dev/null
    sed -n 's/.*"tokens_per_second": *\([0-9.e+]*\),.*"flops_per_second": *\([0-9.e+]*\).*/\1 \2/p' \
        "$dir/runs/$preset/train.jsonl" | sed 1,5d | sort -g |
        awk -v name="$preset" '{ t[NR] = $1; f[NR] = $2 }
            END { printf "%-12s %10.0f tokens/s %8.1f TFLOP/s of the model\n", name, t[int((NR + 1) / 2)], f[int((NR + 1) / 2)] * 1e-12 }'
done
