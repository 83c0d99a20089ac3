#!/bin/sh
# lockstep train, eval and sample on GPUs: the losses of the CPU, checkpoints that go from one to the other
# and back. Usage: train.sh PROGRAM emulated NVML | PROGRAM cuda; $LOCKSTEP trains on the CPU. NVML: the stand-in for
# the driver's library.
. "$(dirname "$0")/../launch/lib.sh"
program=$1 device=$2
[ "$device" = emulated ] || ranks() { # on real GPUs
    "$root/tests/gpu/ranks.sh" "$@"
}
make_corpus
small="model.family=gpt2 model.layers=2 model.channels=16 model.heads=2 model.ffn=32 model.context=16
    data.dir=$data run.dir=$work/runs run.steps=4 batch.sequences=4 batch.micro=1 numerics.compute=fp32
    numerics.bucket_mib=0.01 schedule.warmup_steps=0 optim.lr=3e-3 eval.batches=1 checkpoint.every=2
    metrics.every=1"
gpu="run.device=$device"

losses() { # losses RUN: of its steps, in order
    sed -n 's/.*"step": *\([0-9]*\),.*"loss": *\([0-9.]*\).*/\1 \2/p' "$work/runs/$1/train.jsonl"
}
# near A B [SHARE]: the losses of two runs, within 1e-4, or that share
near() {
    losses "$1" >"$work/a"
    losses "$2" >"$work/b"
    holds paste "$work/a" "$work/b"
    checks=$((checks + 1))
    paste "$work/a" "$work/b" | awk -v s="${3:-1e-4}" '
        { n++; d = $2 - $4; if ($1 != $3 || d > s * $4 || -d > s * $4) exit 1 }
        END { if (n < 2) exit 1 }' || fail "losses of $1 and $2: $(paste "$work/a" "$work/b" | tr '\n' ';')"
}

# shellcheck disable=SC2086 # words
{
gives 0 "$LOCKSTEP" train $small run.name=cpu run.device=cpu
# Two ranks that divide all state; stopped in the middle, and resumed from its checkpoint. All memory that their
# collectives work on, but for scalars, is registered with NCCL, or the stand-in reports it.
registered="env EMULATED_NCCL_REGISTERED=16 $program"
gives 75 ranks 2 $registered train $small run.name=gpu $gpu parallel.zero=3 --until 2
says "cuda: "
gives 0 ranks 2 $registered train $small run.name=gpu $gpu parallel.zero=2 --resume
says "resumed from .*step-00000002"
near gpu cpu
gives 0 ranks 2 $registered train $small run.name=copies $gpu parallel.zero=1 numerics.compute=bf16 run.steps=1 checkpoint.at_end=false

# Layers from recordings, the same bits; losses and gradients that are not finite never reach the weights.
gives 0 "$program" train $small run.name=plain $gpu
gives 0 "$program" train $small run.name=graphs $gpu run.graphs=true
losses plain >"$work/a"
losses graphs >"$work/b"
holds cmp "$work/a" "$work/b"
near plain cpu
# planned RUN: its memory of the GPU is what was planned
planned() {
    [ "$device" = emulated ] || return 0 # a driver rounds the little that such a model takes
    checks=$((checks + 1))
    sed -n 's/.*"\(device[a-z_]*bytes\)": *\([0-9]*\).*/\1 \2/p' "$work/runs/$1/ledger.json" |
        awk '{ m[$1] = $2 } END { r = m["device_bytes"] / m["device_planned_bytes"]; exit !(r > 0.97 && r < 1.03) }' ||
        fail "memory of the GPU: $(grep device "$work/runs/$1/ledger.json")"
}
planned plain
planned copies # of two ranks, beside NCCL's, which it tells
if [ "$device" = emulated ]; then
    for key in nccl foreign; do
        holds grep -qE "\"device_${key}_bytes\": *[1-9]" "$work/runs/copies/ledger.json"
    done
fi
# Documents alone, as on the CPU, and not as without; in bf16 by lockstep's own kernels, whatever else does attention.
seq 1 2000 | sed 's/.*/{"text": "document & of & words"}/' >"$work/short.jsonl"
gives 0 "$LOCKSTEP" prep "$work/short.jsonl" -o "$work/short" --val 0.1
short="data.dir=$work/short model.context=64"
masked="$short data.document_mask=true"
gives 0 "$LOCKSTEP" train $small run.name=masked-cpu run.device=cpu $masked
gives 0 "$LOCKSTEP" train $small run.name=open-cpu run.device=cpu $short
gives 0 "$program" train $small run.name=masked $gpu $masked run.graphs=true
near masked masked-cpu
losses open-cpu >"$work/a"
losses masked-cpu >"$work/b"
fails cmp -s "$work/a" "$work/b"
gives 0 "$program" train $small run.name=masked-bf16 $gpu $masked numerics.compute=bf16
near masked-bf16 masked-cpu 1e-2
holds grep -q '"attention":"own"' "$work/runs/masked-bf16/starts.jsonl"
planned masked-bf16
gives 2 "$program" train $small run.name=no $gpu $masked numerics.attention=cudnn
says "numerics.attention is cudnn and data.document_mask true"

# The loss of answers, a tenth of the tokens, whose rows alone reach the head.
seq 1 2000 | sed 's/.*/{"question": "which number comes behind & when one counts slowly? ", "text": "after &"}/' >"$work/pairs.jsonl"
gives 0 "$LOCKSTEP" prep "$work/pairs.jsonl" --prompt question -o "$work/answers" --val 0.1
answers="data.dir=$work/answers model.context=64 batch.micro=4"
gives 0 "$LOCKSTEP" train $small run.name=answers-cpu run.device=cpu $answers
gives 0 "$program" train $small run.name=answers $gpu $answers run.graphs=true
near answers answers-cpu
planned answers

# Attention by cuDNN, where there is one: on all ranks or on none, and records tell which.
gives 0 "$program" train $small run.name=own $gpu numerics.compute=bf16 numerics.attention=own
gives 0 "$program" train $small run.name=cudnn $gpu numerics.compute=bf16 run.graphs=true
near cudnn own 1e-3
planned cudnn
if [ "$device" = emulated ]; then
    says "attention by cuDNN 9.19.0"
    # planted HOW: rank 1's cuDNN is like that
    planted() {
        how=$1
        shift
        # shellcheck disable=SC2016 # expanded by the shell of each rank
        ranks 2 sh -c '[ "$OMPI_COMM_WORLD_RANK" != 1 ] || export LOCKSTEP_EMULATOR_CUDNN=$0; exec "$@"' "$how" \
            "$program" train $small $gpu numerics.compute=bf16 "$@"
    }
    gives 0 planted 91900 run.name=two-own numerics.attention=own
    losses two-own >"$work/a"
    gives 75 planted 91900 run.name=two --until 2
    says "attention by cuDNN 9.19.0"
    for how in absent 91000; do
        gives 0 planted $how run.name=two-$how
        says "attention by lockstep's own kernels on all ranks; rank . on host .*: .*cuDNN"
        losses two-$how >"$work/b"
        holds cmp "$work/a" "$work/b"
    done
    gives 75 planted 91900 run.name=two --resume --until 3
    holds [ -z "$(grep 'attention was by' "$work/err")" ]
    gives 0 planted absent run.name=two --resume
    says "attention was by cuDNN 9.19.0 up to the checkpoint and is by own from here on"
    holds [ "$(sed 's/.*"attention":"\([^"]*\)".*/\1/' "$work/runs/two/starts.jsonl" | tr '\n' ,)" = "cuDNN 9.19.0,cuDNN 9.19.0,own," ]
    gives 0 planted 91000 run.name=two-cudnn numerics.attention=cudnn run.steps=1
    says "attention is not rounded in the same way on all ranks"
    gives 3 planted absent run.name=no numerics.attention=cudnn
    says "no cuDNN that lockstep can use"
fi
gives 1 "$program" train $small run.name=wild $gpu optim.name=sgd optim.lr=1000 optim.clip_norm=0 run.steps=20 faults.max_skipped=0
says "had a loss or gradient that is not finite"

# The host waits for the GPU at the end of a step, for the losses and for the verdict, and never inside it; but without a capacity
# and with a product for each expert, for the sizes of these, once for each of the 2 layers of 4 micro-batches.
if [ "$device" = emulated ]; then
    dropless="model.family=llama3 model.experts=3 model.balance_loss=0.1"
    mixture="$dropless model.expert_capacity=1.5"
    for setting in optim.name=adamw data.document_mask=true "$answers" "optim.name=muon $mixture" "optim.name=adafactor $mixture run.graphs=true" "optim.name=sgd $dropless" \
        "optim.name=sgd $dropless run.graphs=true" "optim.name=sgd $dropless numerics.experts=apart"; do
        wanted=6
        [ "$setting" = "${setting%experts=apart}" ] || wanted=$((6 + 3 * 4 * 2))
        for steps in 2 5; do
            gives 0 env LOCKSTEP_EMULATOR_WAITS="$work/waits$steps" "$program" train $small run.name=waits$steps $gpu \
                run.steps=$steps checkpoint.every=0 checkpoint.at_end=false eval.every=0 $setting
        done
        checks=$((checks + 1))
        [ $(($(cat "$work/waits5") - $(cat "$work/waits2"))) -eq $wanted ] ||
            fail "3 steps of 4 micro-batches with $setting waited for the device $(cat "$work/waits2" "$work/waits5" | tr '\n' ' ')"
        rm -r "$work/runs/waits2" "$work/runs/waits5"
    done
fi

# A mixture that drops nothing: with a launch for all experts and with a product for each, as on the CPU.
mixture="model.family=llama3 model.experts=3 model.balance_loss=0.1"
gives 0 "$LOCKSTEP" train $small run.name=mixture-cpu run.device=cpu $mixture
for by in grouped apart; do
    gives 0 "$program" train $small run.name=mixture-$by $gpu $mixture numerics.experts=$by run.graphs=true
    near mixture-$by mixture-cpu
done

# Products in 8 bits, where the device has them.
gives 2 "$LOCKSTEP" train $small run.name=no run.device=cpu numerics.compute=fp8
says "needs a GPU of compute capability 8.9"
if [ "$device" = emulated ]; then
    gives 2 env LOCKSTEP_EMULATOR_SM=80 "$program" train $small run.name=no $gpu numerics.compute=fp8
    says "needs a GPU of compute capability 8.9"
fi
if [ "$device" = emulated ] || nvidia-smi --query-gpu=compute_cap --format=csv,noheader | awk 'NR == 1 { exit !($1 >= 8.9) }'; then
    gives 2 "$program" train $small run.name=no $gpu numerics.compute=fp8 model.ffn=40
    says "multiples of 16"
    gives 0 "$program" train $small run.name=fp8 $gpu numerics.compute=fp8
    near fp8 cpu 2e-2
else
    gives 2 "$program" train $small run.name=no $gpu numerics.compute=fp8
    says "needs a GPU of compute capability 8.9"
fi

# What the GPUs saved, the CPU goes on from, and what it saves, they do.
gives 75 ranks 2 "$program" train $small run.name=back $gpu --until 1
gives 75 "$LOCKSTEP" train $small run.name=back run.device=cpu --until 2 --resume
gives 0 "$program" train $small run.name=back $gpu --resume
near back cpu

# Stages that are both before and behind each other.
deep="$small run.steps=2 model.layers=4 checkpoint.every=0 checkpoint.at_end=false"
gives 0 "$LOCKSTEP" train $deep run.name=deep run.device=cpu
gives 0 ranks 2 "$program" train $deep run.name=stages $gpu parallel.pipeline=2 parallel.interleave=2
near stages deep
# One micro-batch: what a stage asks for early would be the answer to what it has not yet sent.
gives 0 "$LOCKSTEP" train $deep run.name=one run.device=cpu batch.sequences=1
gives 0 ranks 2 "$program" train $deep run.name=one-stages $gpu batch.sequences=1 parallel.pipeline=2
near one-stages one
gives 0 ranks 2 "$program" train $deep run.name=one-circle $gpu batch.sequences=1 parallel.pipeline=2 parallel.interleave=2
near one-circle one

# Weights of a checkpoint; loss, text.
gives 0 "$program" eval "$work/runs/gpu" --data "$data" --batches 1 --device "$device"
sed -n 's/^loss \([0-9.]*\).*/\1/p' "$work/out" >"$work/a"
gives 0 "$LOCKSTEP" eval "$work/runs/gpu" --data "$data" --batches 1 --device cpu
sed -n 's/^loss \([0-9.]*\).*/\1/p' "$work/out" >"$work/b"
checks=$((checks + 1))
paste "$work/a" "$work/b" | awk '{ d = $1 - $2; if (!($1 > 0) || d > 1e-4 || -d > 1e-4) exit 1 }' ||
    fail "eval: $(cat "$work/a" "$work/b")"
gives 0 "$program" sample "$work/runs/gpu" --prompt 'ab' --tokens 3 -t 0 --device "$device"
cp "$work/out" "$work/a"
gives 0 "$LOCKSTEP" sample "$work/runs/gpu" --prompt 'ab' --tokens 3 -t 0 --device cpu
holds cmp "$work/out" "$work/a"

# No transport but NCCL reaches a GPU's memory.
gives 2 "$program" train $small run.name=no $gpu parallel.transport=shm
says "GPUs talk by NCCL"
# The emulated GPU is a test device.
if [ "$device" = emulated ]; then
    gives 2 "$LOCKSTEP" train $small run.name=no $gpu
    says "this program has no emulated GPU"
    gives 2 "$program" train $small run.name=no run.device=cuda
    says "ask for it by its name"
    gives 75 "$program" train $small run.name=auto --until 1
    says "cpu: "

    # Two NVLink domains of two ranks each: NCCL over all, or in two levels.
    for rack in 0 1; do
        printf '%s\n' 'gpus 0 1' 'driver 0 570.86.15' 'name 0 NVIDIA GB200' 'bus_id 0 00000000:00:00.0' \
            'fabric_state 0 3' "fabric_cluster 0 00112233445566778899aabbccddee0$rack" 'fabric_clique 0 1' >"$work/rack-$rack"
    done
    # shellcheck disable=SC2016 # expanded by the shell of each rank
    in_racks='export EMULATED_NVML=$1-$((OMPI_COMM_WORLD_RANK / 2)); shift; exec "$@"'
    export LOCKSTEP_NVML="$3"
    wide="$small run.steps=2 model.channels=64 model.ffn=256 model.heads=4 numerics.bucket_mib=1 checkpoint.every=0 checkpoint.at_end=false"
    gives 0 "$LOCKSTEP" train $wide run.name=wide run.device=cpu
    for run in "auto parallel.tensor=4" "hier faults.check_collectives=true"; do
        gives 0 ranks 4 sh -c "$in_racks" racks "$work/rack" "$program" train $wide "run.name=racks-${run%% *}" $gpu \
            parallel.transport=$run
        says "1 host, 2 NVLink domains"
        case $run in auto*) says "tensor ranks 0 to 3 lie in several NVLink domains" ;; esac
        near "racks-${run%% *}" wide
    done
    gives 2 ranks 3 sh -c "$in_racks" racks "$work/rack" "$program" train $wide run.name=uneven $gpu batch.sequences=3 \
        parallel.transport=hier
    says "2 NVLink domains of 1 to 2 ranks"
    unset LOCKSTEP_NVML
fi
}
passed
