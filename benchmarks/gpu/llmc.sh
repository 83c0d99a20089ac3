#!/bin/sh
# llmc.sh LLMC DIR DEPTH BATCH TOKENS STEPS: tokens a second of llm.c's train_gpt2cu on one GPU, from random weights of that depth
# (d12: 124M, d48: 1558M), T=1024, on made-up tokens in DIR. LLMC is a checkout in which `make train_gpt2cu` was run.
set -eu
llmc=$1 dir=$2 depth=$3 batch=$4 tokens=$5 steps=$6
[ -x "$llmc/train_gpt2cu" ] || {
    echo "llmc.sh: no $llmc/train_gpt2cu: run 'make train_gpt2cu USE_CUDNN=1' there" >&2
    exit 2
}
mkdir -p "$dir"
# Its shards: a header of 256 numbers (20240520, version 1, count), then 16-bit tokens.
[ -s "$dir/train.bin" ] || python3 - "$dir/train.bin" <<'PY'
import random, struct, sys
random.seed(1)
count = 4 << 20
with open(sys.argv[1], "wb") as out:
    out.write(struct.pack("<256i", 20240520, 1, count, *[0] * 253))
    out.write(struct.pack(f"<{count}H", *(random.randrange(50257) for _ in range(count))))
PY
"$llmc/train_gpt2cu" -i "$dir/train.bin" -j "$dir/train.bin" -e "$depth" -b "$batch" -t 1024 -d "$tokens" -x "$steps" -l 1e-4 \
    -v 0 -s 0 -n 0 >"$dir/llmc.log"
sed -n 's,^step.* \([0-9.]*\) tok/s.*,\1,p' "$dir/llmc.log" | sed 1,5d | sort -g |
    awk '{ t[NR] = $1 } END { if (NR == 0) exit 1; printf "tokens_per_second %.0f\n", t[int((NR + 1) / 2)] }'
