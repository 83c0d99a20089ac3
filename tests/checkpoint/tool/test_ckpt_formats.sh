#!/bin/sh
# ckpt convert: to Hugging Face and llm.c, back, and what sample and eval make of it.
. "$(dirname "$0")/lib.sh"
make_runs
make_families mixtral qwen2 qwen3_moe

for family in gpt2 llama mixtral qwen2 qwen3_moe; do
    hf=$work/hf-$family
    back=$work/back-$family
    gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$runs/$family" -o "$hf"
    prints '1 file'
    fails grep -q expert_capacity "$work/err"
    holds [ -s "$hf/config.json" ]
    gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$hf" -o "$back" batch.sequences=2 batch.micro=2
    prints 'step-00000000'
    gives 0 "$LOCKSTEP" ckpt verify "$back"
    gives 0 "$LOCKSTEP" ckpt diff "$runs/$family" "$back" '[!o]*' # all but optim.*

    # The same bytes again, from one file and from several.
    gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$back" -o "$hf-again"
    holds cmp "$hf/model.safetensors" "$hf-again/model.safetensors"
    holds cmp "$hf/config.json" "$hf-again/config.json"
    gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$back" -o "$hf-parts" --shard-size 0.05 --json
    json_is 'o["schema"], o["files"] > 2' "('lockstep.ckpt.convert/1', True)"
    holds [ -s "$hf-parts/model.safetensors.index.json" ]
    gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$hf-parts" -o "$back-parts" --ranks 3 --level 0
    gives 0 "$LOCKSTEP" ckpt diff "$back" "$back-parts"

    # The other verbs take it as one of their own.
    gives 0 "$LOCKSTEP" eval "$runs/$family" --data "$data" --micro 2
    cut -d, -f1 "$work/out" | tail -n 1 >"$work/loss"
    gives 0 "$LOCKSTEP" eval "$back" --data "$data"
    holds grep -q -F -f "$work/loss" "$work/out"
    gives 0 "$LOCKSTEP" sample "$runs/$family" --prompt ab --tokens 8
    cp "$work/out" "$work/said"
    gives 0 "$LOCKSTEP" sample "$back" --prompt ab --tokens 8
    holds cmp "$work/said" "$work/out"

    # Training begins with its weights (a rate of 0 changes none), on any ranks; optimizer and step anew.
    # shellcheck disable=SC2046,SC2086 # one word a setting
    gives 0 ranks 2 "$LOCKSTEP" train $tiny $(settings_of $family) run.name=tuned-$family \
        run.init="$back" optim.lr=0 run.steps=1
    says 'begun with the weights of .*step-00000000 (step 0)'
    gives 0 "$LOCKSTEP" ckpt diff "$back" "$runs/tuned-$family" '[!o]*'

    # bf16 is half as large, and near.
    gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$back" -o "$hf-bf16" --dtype bf16
    holds grep -q '"torch_dtype": "bfloat16"' "$hf-bf16/config.json"
    gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$hf-bf16" -o "$back-bf16"
    gives 1 "$LOCKSTEP" ckpt diff "$back" "$back-bf16"
    gives 0 "$LOCKSTEP" ckpt diff "$back" "$back-bf16" --rtol 0.00390625
done

# What theirs cannot say is told.
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-mixtral" -o "$work/capacity" model.expert_capacity=1.25
gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$work/capacity" -o "$work/hf-capacity"
says "model.expert_capacity is 1.25; transformers' mixtures have no such limit"

# Of others' models nothing tells the tokenizer.
sed 's/"tokenizer"/"other"/' "$work/hf-gpt2/config.json" >"$work/config.json"
mv "$work/config.json" "$work/hf-gpt2/config.json"
# What cannot be converted is wrong input, not a fault of the machine, which scripts would try again.
cp -r "$work/hf-gpt2" "$work/hf-other"
sed -i 's/"gpt2"/"phi3"/' "$work/hf-other/config.json"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-other" -o "$work/other"
says "\"model_type\" is 'phi3'; gpt2, llama, mistral, mixtral, qwen2, qwen3 and qwen3_moe are known"
# Mistral has a window, of 4096 tokens where none is given; without it it is Llama.
cp -r "$work/hf-llama" "$work/hf-mistral"
sed -i 's/"model_type": *"llama"/"model_type":"mistral"/' "$work/hf-mistral/config.json"
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-mistral" -o "$work/mistral"
gives 0 "$LOCKSTEP" ckpt show "$work/mistral" --config
prints 'window: 4096'
gives 0 "$LOCKSTEP" ckpt convert --to safetensors "$work/mistral" -o "$work/hf-window"
gives 0 grep -q '"sliding_window": *4096' "$work/hf-window/config.json"
sed -i 's/"model_type"/"sliding_window": null, "model_type"/' "$work/hf-mistral/config.json"
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-mistral" -o "$work/from-mistral"
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-llama" -o "$work/same-llama"
gives 0 "$LOCKSTEP" ckpt diff "$work/from-mistral" "$work/same-llama"
fails grep -q '^setting' "$work/out"
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-gpt2" -o "$work/unsaid"
gives 2 "$LOCKSTEP" sample "$work/unsaid" --prompt ab --tokens 8
says 'ckpt convert --from ... --tokenizer bytes'
gives 0 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-gpt2" -o "$work/said-so" --tokenizer bytes
gives 0 "$LOCKSTEP" sample "$work/said-so" --prompt ab --tokens 8

gives 0 "$LOCKSTEP" ckpt convert --to llmc "$runs/gpt2" -o "$work/gpt2.bin"
holds [ "$(od -An -t d4 -N 32 "$work/gpt2.bin" | tr -s ' \n' ' ')" = ' 20240326 3 32 257 2 2 32 384 ' ]

# Errors: what is wrong, and nothing is left behind.
# shellcheck disable=SC2086
gives 2 "$LOCKSTEP" train $tiny model.preset=gpt2-tiny run.name=wrong run.init="$work/back-llama"
says 'run.init is of another model .*checkpoint .*back-llama'
# shellcheck disable=SC2086
gives 2 "$LOCKSTEP" train $tiny run.name=wrong run.init="$work/nothing"
says "$work/nothing"
holds [ ! -e "$runs/wrong" ]
gives 2 "$LOCKSTEP" ckpt convert --to llmc "$runs/llama" -o "$work/llama.bin"
says 'holds GPT-2'
holds [ ! -e "$work/llama.bin" ]
gives 2 "$LOCKSTEP" ckpt convert --to safetensors "$runs/gpt2" -o "$work/hf-gpt2"
says 'exists'
gives 2 "$LOCKSTEP" ckpt convert --to gguf "$runs/gpt2" -o "$work/x"
says "'gguf'"
gives 2 "$LOCKSTEP" ckpt convert "$runs/gpt2" -o "$work/x"
says '--to or --from'
gives 2 "$LOCKSTEP" ckpt convert --to llmc "$runs/gpt2"
says '--output'
gives 2 "$LOCKSTEP" ckpt convert --to llmc "$runs/gpt2" -o "$work/x" --dtype fp8
says "'fp8'"
gives 2 "$LOCKSTEP" ckpt convert --to safetensors "$runs/gpt2" -o "$work/x" --ranks 2
says 'with --from only'
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/nowhere" -o "$work/x"
says "'$work/nowhere' does not exist; the folder of a model is needed, with config.json"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$runs" -o "$work/x"
says "'$runs/config.json' does not exist; the folder of a model is needed, with config.json"
mkdir "$work/loop"
ln -s config.json "$work/loop/config.json"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/loop" -o "$work/never"
says "'$work/loop/config.json' cannot be opened: Too many levels of symbolic links$"
mkdir "$work/pickled" && cp "$work/hf-gpt2/config.json" "$work/pickled"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/pickled" -o "$work/x"
says "has neither .*; of a model in another format, transformers' save_pretrained() writes them"
for use in "sample" "ckpt ls" "eval"; do
    gives 2 "$LOCKSTEP" $use "$work/hf-gpt2"
    says "'$work/hf-gpt2' is a model of transformers; make a checkpoint of it: lockstep ckpt convert --from safetensors $work/hf-gpt2"
done
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-gpt2" -o "$work/x" --dtype bf16
says 'with --to only'
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-gpt2" -o "$work/x" model.colour=3
says 'colour'
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/hf-gpt2" -o "$work/x" model.layers=3
says "transformer.h.2.ln_1.weight"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work" -o "$work/x"
says 'config.json'
cp -r "$work/hf-llama" "$work/broken"
truncate -s -1 "$work/broken/model.safetensors"
gives 1 "$LOCKSTEP" ckpt convert --from safetensors "$work/broken" -o "$work/x"
says 'behind the end of the file'
sed -i 's/"llama"/"mamba"/' "$work/broken/config.json"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/broken" -o "$work/x"
says "'mamba'"
printf '{' >"$work/broken/config.json"
gives 2 "$LOCKSTEP" ckpt convert --from safetensors "$work/broken" -o "$work/x"
says 'line 1'
# Parts of a checkpoint, and a checkpoint as the place of another one.
gives 2 "$LOCKSTEP" ckpt reshard "$runs/gpt2" -o "$runs/gpt2/checkpoints/step-00000006" --ranks 2
says "step-00000006' is a checkpoint; name the folder that is to hold the new one"
holds [ -z "$(ls -d "$runs"/gpt2/checkpoints/step-*/step-* 2>/dev/null)" ]
gives 2 "$LOCKSTEP" ckpt ls "$runs/gpt2/checkpoints/step-00000006/manifest.json"
says "manifest.json' is a file; a checkpoint is a directory"
cp -r "$runs/gpt2/checkpoints/step-00000006" "$work/partly"
rm "$work/partly/manifest.json"
gives 1 "$LOCKSTEP" ckpt ls "$work/partly"
says "'$work/partly' has a checkpoint's data but no manifest.json: a save that was not finished, or a copy"
mv "$work/partly/rank-00000.h5" "$work/partly/node-00000.h5" # as checkpoint.writers=node writes
for verb in 'ls' 'verify' 'ls --json'; do
    # shellcheck disable=SC2086 # words
    gives 1 "$LOCKSTEP" ckpt $verb "$work/partly"
    holds grep -q "'$work/partly' has a checkpoint's data but no manifest.json" "$work/out" "$work/err"
done
rm -r "$work/partly"
mkdir "$work/partly"
gives 2 "$LOCKSTEP" ckpt ls "$work/partly"
says "'$work/partly' is no checkpoint (it has no manifest.json) and holds none (no step-\*)"
rm -r "$work/partly"
holds [ -z "$(ls -d "$work"/x* 2>/dev/null)" ]
passed
