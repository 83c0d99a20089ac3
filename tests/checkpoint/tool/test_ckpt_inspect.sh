#!/bin/sh
# ckpt ls, stats and diff on the checkpoints of two small runs.
. "$(dirname "$0")/lib.sh"
make_runs

# ls: order, tree, pieces.
gives 0 "$LOCKSTEP" ckpt ls "$runs/llama" --sort size
prints '^step 6 '
holds [ "$(sed -n 6p "$work/out" | cut -d' ' -f1)" = layers.0.mlp.up.weight ]
gives 0 "$LOCKSTEP" ckpt ls "$llama" 'layers.*' --sort name
holds [ "$(sed -n 6p "$work/out" | cut -d' ' -f1)" = layers.0.attn.proj.weight ]
gives 0 "$LOCKSTEP" ckpt ls "$llama" 'layers.0.*' --sort ratio --json
json_is 'o["schema"]' lockstep.ckpt.ls/1
json_is 'all(a["raw_bytes"] / a["stored_bytes"] >= b["raw_bytes"] / b["stored_bytes"] for a, b in zip(o["tensors"], o["tensors"][1:]))' True
gives 0 "$LOCKSTEP" ckpt ls "$llama" tok_embed.weight --pieces
prints 'rank-00000.h5  \[0:257, 0:64\]  1 chunk'
gives 0 "$LOCKSTEP" ckpt ls "$llama" tok_embed.weight --pieces --json
json_is 'o["tensors"][0]["piece_list"][0]["extent"]' '[257, 64]'
gives 0 "$LOCKSTEP" ckpt ls "$llama" --tree
prints '^    attn  '
prints '^      qkv.weight .*128x64'
gives 2 "$LOCKSTEP" ckpt ls "$llama" --sort colour
says "'colour'"
gives 2 "$LOCKSTEP" ckpt ls "$llama" --tree --json
says 'goes with neither'
gives 1 "$LOCKSTEP" ckpt ls "$llama" 'no*thing'
says 'none of 45 tensors'
gives 1 "$LOCKSTEP" ckpt ls "$llama" layers.0.atn.qkv.weight
says "matches 'layers.0.atn.qkv.weight'; did you mean 'layers.0.attn.qkv.weight'?"
gives 1 "$LOCKSTEP" ckpt show "$llama" 'layers.0.attn.qvk.weight[0,0]'
says "has no tensor 'layers.0.attn.qvk.weight', of those that .*; did you mean 'layers.0.attn.qkv.weight'?"
gives 1 "$LOCKSTEP" ckpt show "$llama" nothing
says "has no tensor 'nothing', of those that 'lockstep ckpt ls' lists$"
gives 2 "$LOCKSTEP" ckpt ls "$work/missing"
says 'missing'
gives 2 "$LOCKSTEP" ckpt ls "$llama" --dry-run
says 'has no --dry-run'

# stats.
gives 0 "$LOCKSTEP" ckpt stats "$llama" 'layers.0.*'
prints '^layers.0.attn_norm.weight  '
holds [ "$(wc -l <"$work/out")" = 7 ]
gives 0 "$LOCKSTEP" ckpt stats "$llama" tok_embed.weight --pieces
prints '16448 elements: 0 zeros, 0 NaN'
prints ' 50%: '
prints '|########################################'
prints 'rank-00000.h5  \[0:257, 0:64\]  min'
gives 0 "$LOCKSTEP" ckpt stats "$llama" 'layers.?.mlp_norm*' --histogram
holds [ "$(grep -c ' 99.9%: ' "$work/out")" = 2 ]
gives 0 "$LOCKSTEP" ckpt stats "$llama" --json
json_is 'o["schema"], len(o["tensors"])' "('lockstep.ckpt.stats/1', 45)"
json_is 'all(sum(t["histogram"]) == t["elements"] for t in o["tensors"])' True
gives 1 "$LOCKSTEP" ckpt stats "$llama" nothing

# diff: equal, changed, other models.
gives 0 "$LOCKSTEP" ckpt diff "$gpt2/step-00000006" "$runs/gpt2"
prints '^0 of 84 tensors differ'
gives 1 "$LOCKSTEP" ckpt diff "$gpt2/step-00000002" "$gpt2/step-00000006" 'layers.0.attn.*'
prints '^changed   layers.0.attn.qkv.weight  .* ulp; first \[0, 0\]'
prints '^4 of 4 tensors differ'
prints 'from step 2 to step 6 the run took'
prints '^  steps  *4, 0 skipped, 0 lost in 0 restarts$'
prints '^  tokens  *1.02 k$'
prints '^  wall time  *[0-9]'
prints '^  time in compute  *[0-9.]* [mun]*s ([0-9.]* %)$'
prints '^  cost  *unknown: no price was given'
prints '^  checkpoints  *2, 0 failed; training waited [0-9]'
holds test "$(grep -c as_of "$work/out")" = 0
gives 1 "$LOCKSTEP" ckpt diff "$gpt2/step-00000006" "$gpt2/step-00000004" --json
json_is 'o["schema"], o["stretch"]["from_step"], o["stretch"]["to_step"]' "('lockstep.ckpt.diff/1', 4, 6)"
json_is 'o["stretch"]["counters"]["steps"]' 2
json_is '"as_of" in o["stretch"]["counters"], o["stretch"]["counters"]["saves"]["done"]' '(False, 1)'
json_is 'o["compared"] == 84 and o["differing"] == len(o["tensors"]) > 0' True
# What it counted is what the two say; texts decide how many tokens are targets.
if command -v python3 >/dev/null; then
    counted() {
        gives 0 "$LOCKSTEP" ckpt show "$gpt2/$1" --counters --json
        json 'o["counters"]["tokens"]'
    }
    stretch=$(json 'o["stretch"]["counters"]["tokens"]')
    later=$(counted step-00000006)
    earlier=$(counted step-00000004)
    holds test "$stretch" -gt 480
    holds test "$stretch" -eq $((later - earlier))
fi
gives 0 "$LOCKSTEP" ckpt diff "$gpt2/step-00000004" "$gpt2/step-00000006" 'final_norm.weight' --rtol 1
# Other models: which and how is said before anything else, the layers' tensors in one line each.
gives 1 "$LOCKSTEP" ckpt diff "$gpt2" "$llama"
says 'are other models$'
holds test "$(sed -n 1p "$work/out")" = 'setting   model.family: gpt2 in A, llama3 in B'
prints '^setting   model.channels: 32 in A, 64 in B$'
prints '^removed   layers.\*.attn.qkv.bias  float32 96  (2 tensors)$'
prints '^added     head.weight  float32 257x64$'
prints '^[0-9]* of [0-9]* tensors differ, [0-9]* only in A, [0-9]* only in B, [0-9]* of other shapes'
fails grep -q 'the run took' "$work/out"
gives 1 "$LOCKSTEP" ckpt diff "$gpt2" "$llama" --json
json_is '"model.channels: 32 in A, 64 in B" in o["settings"]' True
json_is 'o["differing"] == len(o["tensors"])' True
json_is 'sorted({t["change"] for t in o["tensors"]})' "['added', 'removed', 'reshaped']"
json_is 'o["stretch"]' None
gives 1 "$LOCKSTEP" ckpt diff "$gpt2" "$llama" 'tok_embed*'
prints '^reshaped  tok_embed.weight  float32 257x32 -> float32 257x64'
gives 2 "$LOCKSTEP" ckpt diff "$gpt2" "$llama" nothing
gives 2 "$LOCKSTEP" ckpt diff "$gpt2"
says 'A B \[GLOB\]'
gives 2 "$LOCKSTEP" ckpt diff "$gpt2" "$gpt2" --rtol x
gives 2 "$LOCKSTEP" ckpt dif "$gpt2" "$gpt2"
says "did you mean 'diff'"
passed
