#!/bin/sh
# ckpt reshard, prune and doctor. $1: the directory of the HDF5 plugin.
. "$(dirname "$0")/lib.sh"
plugins=$1
make_runs

# reshard: other files, the same checkpoint.
gives 0 "$LOCKSTEP" ckpt reshard "$runs/gpt2" -o "$work/five" --ranks 5
prints 'step-00000006 .* 5 writers'
holds [ -s "$work/five/step-00000006/rank-00004.h5" ]
gives 0 "$LOCKSTEP" ckpt verify "$work/five"
gives 0 "$LOCKSTEP" ckpt diff "$runs/gpt2" "$work/five"
gives 0 "$LOCKSTEP" ckpt reshard "$work/five" -o "$work/one" --level 0 --json
json_is 'o["schema"], o["writers"], o["stored_bytes"] > o["raw_bytes"]' "('lockstep.ckpt.reshard/1', 1, True)"
gives 0 "$LOCKSTEP" ckpt diff "$work/one" "$runs/gpt2"
gives 2 "$LOCKSTEP" ckpt reshard "$runs/gpt2" -o "$work/five" --ranks 2
says 'exists'
gives 2 "$LOCKSTEP" ckpt reshard "$runs/gpt2"
says '--output'
gives 2 "$LOCKSTEP" ckpt reshard "$runs/gpt2" -o "$work/six" --ranks 0
holds [ ! -e "$work/six" ]
# A run goes on from it.
mkdir -p "$runs/moved/checkpoints"
mv "$work/five/step-00000006" "$runs/moved/checkpoints/"
# shellcheck disable=SC2086 # one word a setting
gives 0 "$LOCKSTEP" train $tiny model.preset=gpt2-tiny run.name=moved run.steps=8 --resume
holds [ -d "$runs/moved/checkpoints/step-00000008" ]

# doctor.
gives 0 env HDF5_PLUGIN_PATH="$plugins" "$LOCKSTEP" ckpt doctor "$runs/gpt2"
prints 'resume takes step-00000006'
holds sh -c "! grep -q 32015 '$work/out'"
gives 0 env HDF5_PLUGIN_PATH="$work" "$LOCKSTEP" ckpt doctor "$runs/gpt2"
prints 'no filter 32015'
mkdir "$gpt2/.tmp-00000007-dead"
echo half >"$gpt2/.tmp-00000007-dead/rank-00000.h5"
gives 0 "$LOCKSTEP" ckpt doctor "$gpt2"
prints "\.tmp-00000007-dead, 5 B, is what an unknown process has not finished"
printf x | dd of="$gpt2/step-00000004/rank-00000.h5" bs=1 seek=5000 conv=notrunc 2>/dev/null
gives 0 "$LOCKSTEP" ckpt doctor "$gpt2"
gives 1 "$LOCKSTEP" ckpt doctor "$gpt2" --full
prints '^BAD   step-00000004'
prints 'resume takes step-00000006'
printf x | dd of="$gpt2/step-00000006/rank-00000.h5" bs=1 seek=5000 conv=notrunc 2>/dev/null
gives 1 "$LOCKSTEP" ckpt doctor "$gpt2" --full
prints '^BAD   step-00000006'
prints 'resume takes step-00000002'
truncate -s 100 "$gpt2/step-00000006/rank-00000.h5"
gives 1 "$LOCKSTEP" ckpt doctor "$gpt2" --repair
holds [ -d "$gpt2/.tmp-00000007-dead" ] # whose save it is, only who holds the lock of the run can tell
gives 1 "$LOCKSTEP" ckpt doctor "$gpt2" --json
json_is 'o["schema"], o["resume"], o["damaged"]' "('lockstep.ckpt.doctor/1', 4, 1)"
json_is '[c["ok"] for c in o["checkpoints"]]' '[False, True, True]'
json_is 'o["unfinished"][0]["bytes"]' 5
says '1 of 3 checkpoints'
# What parity makes up for is told, and resume takes it all the same.
gives 0 "$LOCKSTEP" ckpt reshard "$llama" -o "$work/par" --ranks 3 --parity 1
rm "$work/par/step-00000006/rank-00001.h5"
gives 1 "$LOCKSTEP" ckpt doctor "$work/par"
prints '^BAD   step-00000006  1 of its files are lost .* --repair makes'
prints 'resume takes step-00000006'
printf x | dd of="$work/par/step-00000006/rank-00000.h5" bs=1 seek=5000 conv=notrunc 2>/dev/null
gives 1 "$LOCKSTEP" ckpt doctor "$work/par" # which reads no data
prints 'resume takes step-00000006'
gives 1 "$LOCKSTEP" ckpt doctor "$work/par" --full # two lost, and one parity file
prints '^BAD   step-00000006 .* 2 faults'
prints 'resume finds nothing'
rm -r "$work/par"
gives 0 "$LOCKSTEP" ckpt reshard "$llama" -o "$work/par" --ranks 3 --parity 1
printf x | dd of="$work/par/step-00000006/rank-00001.h5" bs=1 seek=5000 conv=notrunc 2>/dev/null
gives 1 "$LOCKSTEP" ckpt doctor "$work/par" --full
prints '^BAD   step-00000006 .*parity'
prints 'resume takes step-00000006'
gives 0 "$LOCKSTEP" ckpt doctor "$work/par" --repair
prints '^ok    step-00000006'
mkdir "$work/empty"
gives 1 "$LOCKSTEP" ckpt doctor "$work/empty"
says 'no checkpoint to resume from'
gives 2 "$LOCKSTEP" ckpt doctor "$work/nowhere"
gives 2 "$LOCKSTEP" ckpt doctor "$work/par/step-00000006" --repair
says "step-00000006' is a checkpoint; give the run or the folder that holds it"
# A checkpoint of an older step with a newer one's name would be resumed for ever.
cp -r "$work/par/step-00000006" "$work/par/step-00000007"
gives 1 "$LOCKSTEP" ckpt doctor "$work/par"
prints "^BAD   step-00000007  '.*' was renamed: it holds step 6"
prints 'resume takes step-00000006'
# One that cannot be entered, as another user's, is none that lacks its manifest.
ln -s step-00000008 "$work/par/step-00000008"
gives 3 "$LOCKSTEP" ckpt verify "$work/par"
prints "cannot list '.*step-00000008': "

# prune: the newest valid one (step 4: 6 is damaged) stays, whatever is asked.
gives 2 "$LOCKSTEP" ckpt prune "$gpt2"
says 'is set to keep all checkpoints (checkpoint.keep_...); give --keep-last N'
gives 2 "$LOCKSTEP" ckpt prune "$gpt2" --keep-last 0
gives 0 "$LOCKSTEP" ckpt prune "$runs/gpt2" --keep-last 1 --dry-run
prints '^left .*step-00000006  damaged'
prints '^kept .*step-00000004 .*newest'
prints '^would go  step-00000002'
holds [ -d "$gpt2/step-00000002" ]
gives 0 "$LOCKSTEP" ckpt prune "$runs/gpt2" --keep-every 1000
holds [ -d "$gpt2/step-00000004" ]
holds [ -d "$gpt2/step-00000006" ]
holds [ ! -e "$gpt2/step-00000002" ]
gives 0 "$LOCKSTEP" ckpt prune "$runs/llama" --keep-every 4 --json
json_is 'o["schema"], o["removed"], [c["why"] for c in o["checkpoints"]]' "('lockstep.ckpt.prune/1', 1, ['newest', 'every', 'remove'])"
holds [ ! -e "$llama/step-00000002" ]
gives 0 "$LOCKSTEP" ckpt prune "$runs/llama" --keep-last 2
prints '^0 checkpoints'
gives 0 "$LOCKSTEP" ckpt prune "$work/empty" --keep-last 2
passed
