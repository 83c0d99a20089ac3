#!/bin/sh
# lockstep plan: tables, JSON, comparisons, limits, messages.
. "$(dirname "$0")/../launch/lib.sh"
cd "$work"

gives 0 "$LOCKSTEP" plan --list
prints 'llama3-405b'
prints 'deepseek-v3 .*36.6 B for a token'
prints 'aws-p6e-gb200-x72  *GB200'

gives 0 "$LOCKSTEP" plan -m llama3-70b -c aws-p5 -n 512 --tokens 15T
prints 'layouts are possible'
prints '^\* .*tensor='
prints 'MFU'
prints 'on_demand, 2026-11-09'
prints 'save every'
prints 'host memory for saves in the background: 1.7 GB a device' # 12 bytes a parameter over 512

gives 0 "$LOCKSTEP" plan -m llama3-405b -c meta-h100 --layout tensor=8,pipeline=16,shard=128,interleave=8 --json
prints '"devices": 16384'
prints '"step_seconds"'
prints '"usd": null'

gives 0 "$LOCKSTEP" plan -m llama3-8b --compare aws-p5,aws-p6e-gb200-x72,oci-h100 -n 64
prints 'aws-p6e-gb200-x72  *64 '
prints 'oci-h100 .*does not know network.gbit_s'

gives 0 "$LOCKSTEP" plan -m llama3-8b -c dgx-h100 --sweep gpus=8..64 --svg s.svg --price 2
prints 'dgx-h100  *64 '
holds grep -q '</svg>' s.svg

# Small amounts show.
gives 0 "$LOCKSTEP" plan -m gpt2-124m -c dgx-h100 -n 64 --price 2
prints '^time: .* 0[.]0*[1-9][0-9]* days'
prints '^cost: [$][1-9].*, [$]0[.]00[0-9]*[1-9] a million tokens'

gives 0 "$LOCKSTEP" plan -m llama3-8b -c aws-p5en --deadline 30 --tokens 1T --json
prints '"days"'
gives 1 "$LOCKSTEP" plan -m llama3-405b -c dgx-h100 -n 8
says 'does not fit on 8 devices'
gives 1 "$LOCKSTEP" plan -m llama3-405b -c aws-p5 --budget 1000
says 'no number of devices'
says 'the least cost is [$][0-9]*, of [0-9]* devices'
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 --deadline 30 -n 8
says 'leave one out'
# Where more devices would be needed than the profile knows of, it says what is missing.
gives 1 "$LOCKSTEP" plan -m llama3-70b -c coreweave-gb300 --deadline 30 --tokens 1T
says "by 72 devices; with more: the profile of .coreweave-gb300. does not know network.gbit_s"
gives 0 "$LOCKSTEP" plan -m llama3-8b --compare aws-p5,aws-p6e-gb200-x72 --deadline 30 --tokens 1T
prints 'aws-p5  *[1-9][0-9]* '
prints 'aws-p6e-gb200-x72  *[1-9][0-9]* '
gives 2 "$LOCKSTEP" plan -m llama3-405 -c aws-p5 -n 8
says "did you mean 'llama3-405b'"
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p6e-gb200-x72 --budget 1000
says 'none is published'
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 8 --precision fp16
says 'fp32, bf16, fp8 or fp4'
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 8 --reduction half
says "reduction is 'half'; fast or bf16"
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 8 --tokens many
says '15.6T'
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5
says 'gpus is missing'
gives 2 "$LOCKSTEP" plan -m llama3-8b -n 8
says 'one of --cluster and --compare'
gives 1 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 --layout tensor=8,pipeline=33
says 'too few for 33'

gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 --layout tensor=1048576,pipeline=1048576,shard=16777216
says 'the axes make 1.*[0-9]\{19,\} devices; at most 1048576'
gives 2 "$LOCKSTEP" plan -m llama3-8b --compare aws-p5,aws-p55 -n 64
says "did you mean 'aws-p5'"
holds [ ! -s "$work/out" ] # no table for a wrong name
gives 2 "$LOCKSTEP" plan -m llama3-8b --compare , -n 64
says 'names of clusters are needed'
for other in '-n 8' '--budget 1000' '--emit sbatch'; do
    # shellcheck disable=SC2086
    gives 2 "$LOCKSTEP" plan -m llama3-8b -c dgx-h100 --sweep gpus=8..64 $other
    says 'leave out --gpus'
done
# Failures that leave no time to train.
gives 1 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 64 --mtbf 1 --json
says '64 devices would not get anywhere: one of them fails every 56.2 s'
gives 1 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 64 --mtbf 0

# A script that submits a plan: what sbatch is asked for, and a file of ours that exists.
gives 0 "$LOCKSTEP" plan -m llama3-70b -c aws-p6e-gb200-x72 -n 288 --reduction bf16 --emit sbatch
cp "$work/out" "$work/submit.sh"
mkdir "$work/bin"
printf '#!/bin/sh\nfor word; do echo "$word"; done\n' >"$work/bin/sbatch"
chmod +x "$work/bin/sbatch"
PATH=$work/bin:$PATH gives 0 sh "$work/submit.sh" big.yaml data.dir=/shared/data
prints '^--nodes=72$'
prints '^--ntasks-per-node=4$'
prints '^--gpus-per-node=4$'
prints '^numerics.compute=bf16$'
prints '^numerics.reduction=bf16$'
prints '^--segment=18$'
prints '^model.preset=llama3-70b$'
prints '^cost.cluster=aws-p6e-gb200-x72$'
holds [ -f "$(grep 'gb200.sbatch$' "$work/out")" ]
holds [ "$(grep -A 1 'gb200.sbatch$' "$work/out" | tail -n 1)" = big.yaml ]
# Its settings are those of a run: 288 ranks of the mesh.
settings=$(sed -n 's/^ *\([a-z_]*\.[a-z_]*=[^ ]*\).*/\1/p' "$work/submit.sh")
# shellcheck disable=SC2086
gives 0 "$LOCKSTEP" train $settings run.name=x --dry-run --ranks 288
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 12 --emit sbatch
says 'no whole nodes of 8; give --gpus 16'
gives 3 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 16 -p fp8 --emit sbatch
says 'cannot run llama3-8b in fp8'
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 16 --emit sbatch --json
says '--emit prints a script, and --json an object'
gives 1 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 16 --layout tensor=3
says 'no layout .* other sizes of axes'
gives 2 "$LOCKSTEP" plan -m llama3-8b -c aws-p5 -n 16 --emit pbs

# This machine: a profile out of small steps, a plan and a prediction with it.
gives 0 "$LOCKSTEP" bench machine --threads 1 --repeat 1 --profile local.yaml
prints 'wrote local.yaml'
holds grep -q 'fp32_tflops\|bf16_tflops' local.yaml
precision=$(grep -q fp32_tflops local.yaml && echo fp32 || echo bf16)
gives 0 "$LOCKSTEP" plan -m gpt2-3m -c local.yaml -n 1 -p "$precision" --batch 8 --vocab 512 --json
prints '"usd": null'
prints '"bytes_as_train_counts": true'
# A profile may lie anywhere, also where a shell would take its name apart; a script that submits has its whole path.
mkdir "it's here"
cp local.yaml "it's here/my cluster.yaml"
gives 0 "$LOCKSTEP" plan -m gpt2-3m -c "./it's here/my cluster.yaml" -n 1 -p "$precision" --batch 8 --vocab 512 --emit sbatch
cp "$work/out" "$work/submit.sh"
PATH=$work/bin:$PATH gives 0 sh "$work/submit.sh"
prints "^cost.cluster=$work/it's here/my cluster.yaml$"
prints '^--ntasks-per-node=1$'
prints "^numerics.compute=$precision$"
holds [ -f "$(grep 'cpu.sbatch$' "$work/out")" ]
gives 0 "$LOCKSTEP" plan -m gpt2-3m -c ../"${work##*/}"/local.yaml -n 1 -p "$precision" --batch 8 --vocab 512
grep -q ' 1 thread at once' local.yaml || fail "local.yaml counts in another way: $(grep threads local.yaml)"
# One that cannot be written is refused before anything is measured.
gives 3 "$LOCKSTEP" bench machine --threads 1 --repeat 1 --profile /proc/local.yaml
says "'/proc/local.yaml' cannot be written"
holds [ ! -s "$work/out" ]
make_corpus
gives 0 "$LOCKSTEP" train $tiny run.name=told run.steps=7 cost.cluster=./local.yaml run.threads=1
says 'a step was predicted to take .* and takes '
says 'optimizer .* and '
gives 2 "$LOCKSTEP" train $tiny run.name=b cost.cluster=absent.yaml
says 'absent.yaml'
passed
