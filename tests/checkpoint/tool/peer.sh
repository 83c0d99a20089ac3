#!/bin/sh
# Beside Hugging Face transformers and h5py, outside the normal run: LOCKSTEP_PEER_PYTHON names a
# Python that has torch, transformers, safetensors, h5py and hdf5plugin. $1: ckpt_logits.
if [ -z "${LOCKSTEP_PEER_PYTHON:-}" ]; then
    echo "skipped: LOCKSTEP_PEER_PYTHON names no Python with torch, transformers and h5py"
    exit 77
fi
. "$(dirname "$0")/lib.sh"
logits=$1
export HF_HUB_OFFLINE=1
make_runs
make_families mistral mixtral qwen2 qwen3 qwen3_moe

tokens=$(od -An -t u1 -N 32 "$root/README.md" | tr -s ' \n' ' ')
for family in gpt2 llama mistral mixtral qwen2 qwen3 qwen3_moe; do
    # Theirs reads ours.
    gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$runs/$family" -o "$work/hf-$family" --shard-size 0.1
    # shellcheck disable=SC2086 # one word a token
    gives 0 "$logits" "$runs/$family/checkpoints" $tokens
    cp "$work/out" "$work/ours-$family"
    # shellcheck disable=SC2086
    gives 0 "$LOCKSTEP_PEER_PYTHON" "$here/peer_hf.py" compare "$work/hf-$family" "$work/ours-$family" $tokens
    cat "$work/out"

    # Ours reads theirs: random weights that transformers has saved, whatever order and parts.
    gives 0 "$LOCKSTEP_PEER_PYTHON" "$here/peer_hf.py" make "$work/theirs-$family" $family
    gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/theirs-$family" -o "$work/from-$family" --ranks 2
    # shellcheck disable=SC2086
    gives 0 "$logits" "$work/from-$family" $tokens
    cp "$work/out" "$work/ours-$family"
    # shellcheck disable=SC2086
    gives 0 "$LOCKSTEP_PEER_PYTHON" "$here/peer_hf.py" compare "$work/theirs-$family" "$work/ours-$family" $tokens
    cat "$work/out"

    # h5py sees the numbers that ckpt show prints.
    gives 0 "$LOCKSTEP" ckpt reshard "$runs/$family" -o "$work/four-$family" --ranks 4
    gives 0 "$LOCKSTEP_PEER_PYTHON" "$here/peer_h5py.py" "$LOCKSTEP" "$work/four-$family/step-00000006"
    cat "$work/out"
done
passed
