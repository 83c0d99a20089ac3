#!/bin/sh
# Layouts from the command line: what a dry run says is what training takes, a checkpoint of one
# layout goes on in others, and what cannot work is refused.
. "$(dirname "$0")/../launch/lib.sh"
make_corpus
tiny="$tiny numerics.compute=fp32 model.layers=4 batch.micro=1 optim.eps=1e-3 metrics.every=1"
losses() { sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$work/runs/$1/train.jsonl"; }
close_to() { # close_to RUN RUN: equal losses, but for rounding
    losses "$1" >"$work/one"
    losses "$2" >"$work/many"
    holds [ "$(wc -l <"$work/one")" = "$(wc -l <"$work/many")" ]
    paste "$work/one" "$work/many" | awk '{d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > 1e-5) exit 1}' ||
        fail "losses of $1 and $2 differ: $(paste "$work/one" "$work/many")"
}

# A dry run needs neither the ranks nor the run's length, nor the data when the vocabulary is known, and leaves nothing.
gives 0 "$LOCKSTEP" train --dry-run --ranks 64 model.preset=llama3-8b model.vocab=128256 \
    batch.sequences=512 parallel.tensor=8 parallel.sequence_parallel=true parallel.pipeline=2 parallel.zero=3 \
    run.dir="$work/none"
prints 'mesh       64 ranks = pipeline 2 x replicate 1 x shard 4 x context 1 x tensor 8; zero 3'
prints '^32 .* embedding, layers 0-15$'
prints '^32 .* layers 16-31, head$'
prints 'ranks are idle for 0.8% of a step'
prints '^tensor  .* [1-9][0-9]*  activations$'
! grep -q '^predicted' "$work/out" || fail "a prediction without a cluster"
holds [ ! -e "$work/none" ]

# Ranks that differ in nothing are planned once: those of a large machine take no half minute.
gives 0 sh -c 'ulimit -t 15 && exec "$@"' sh "$LOCKSTEP" train --dry-run --ranks 16384 model.preset=llama3-405b \
    model.vocab=128256 batch.sequences=2048 parallel.tensor=8 parallel.pipeline=16 parallel.zero=1
prints '^1024 .* layers 118-125, head$'

# A slip in the batch is told before anybody plays it.
gives 2 "$LOCKSTEP" train --dry-run --ranks 2 model.preset=gpt2-tiny model.vocab=257 batch.sequences=1073741824
says 'a batch of 1073741824 sequences gives each of 2 data ranks [0-9]* micro-batches of [0-9]* in a step; at most 131072 are taken'

# With a cluster's profile it tells the step's time there, of the axes as they come out.
gives 0 "$LOCKSTEP" train --dry-run --ranks 8 model.preset=llama3-8b model.vocab=128256 batch.sequences=8 \
    model.context=8192 parallel.tensor=8 cost.cluster=aws-p5
prints "^predicted  [1-9][0-9.]* s a step by 'aws-p5', [0-9.]* m*s of it in communication that nothing hides$"
gives 2 "$LOCKSTEP" train --dry-run --ranks 8 $tiny cost.cluster=nowhere
says "unknown cluster 'nowhere'; .lockstep plan --list. shows"
gives 2 "$LOCKSTEP" plan -m llama -c aws-p5 -n 8
says "unknown model 'llama'; .lockstep plan --list. shows all; did you mean 'llama3-8b'?"

# What the ranks of a host have once is not gathered, and counted in equal parts; elsewhere it is.
gives 0 "$LOCKSTEP" train --dry-run --ranks 4 $tiny parallel.zero=3
prints 'parameters are there once for the 4 ranks .* others. [0-9.]* [KM]iB too'
prints '^4 .* - .* embedding' # gathered
prints '^shard  *-  *2  parameters$' # waits around the update
gives 0 "$LOCKSTEP" train --dry-run --ranks 4 $tiny parallel.zero=3 parallel.transport=mpi
! grep -q 'parameters are there once' "$work/out" || fail "parameters in common without shared memory"
prints '^shard  *[0-9.]* [KM]iB  *[0-9]*  parameters$'

# Its total is what the run says that it takes.
for layout in parallel.zero=1 'parallel.zero=3 numerics.compute=bf16' 'parallel.zero=3 parallel.transport=mpi' 'parallel.pipeline=2 parallel.tensor=2' \
    'parallel.pipeline=2 parallel.zero=2 parallel.interleave=2'; do
    # shellcheck disable=SC2086 # words
    gives 0 "$LOCKSTEP" train --dry-run --ranks 4 $tiny $layout
    planned=$(awk '/^[1-9]/ {print $0}' "$work/out" | sed -n '1s/.* \([0-9.]* [KM]iB\)  .*/\1/p')
    holds [ -n "$planned" ]
    rm -rf "$work/runs/dry"
    # shellcheck disable=SC2086
    gives 0 ranks 4 "$LOCKSTEP" train $tiny run.name=dry $layout
    says "$planned a rank"
done

# Zero 3 on 4 ranks holds at most a quarter of the replicated state, and two blocks.
state() { # state OPTIONS...: bytes of masters, gradients and optimizer, of a rank
    "$LOCKSTEP" train --dry-run $tiny model.layers=16 "$@" | awk '/^[1-9]/ {
        for (i = 2; i < 18; i += 2) { if ($i == "-") { i--; n++; continue }
            n++; unit = $(i + 1) == "MiB" ? 1048576 : $(i + 1) == "KiB" ? 1024 : 1
            if (n <= 5) sum += $i * unit }
        print int(sum); exit }'
}
whole=$(state --ranks 1 numerics.bucket_mib=0.1)
shard=$(state --ranks 4 parallel.zero=3 numerics.bucket_mib=0.1)
block=$((whole / 16))
holds [ "$shard" -gt $((whole / 8)) ]
holds [ "$shard" -le $((whole / 4 + 2 * block)) ]

# A checkpoint of any layout goes on in any other.
gives 0 "$LOCKSTEP" train $tiny run.name=one
gives 75 ranks 4 "$LOCKSTEP" train $tiny run.name=moved parallel.tensor=2 parallel.pipeline=2 --until 2
gives 75 ranks 4 "$LOCKSTEP" train $tiny run.name=moved parallel.context=2 parallel.zero=3 --until 3 --resume
gives 75 ranks 3 "$LOCKSTEP" train $tiny run.name=moved parallel.pipeline=3 --until 4 --resume
says 'resumed from .*step-00000003'
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=moved parallel.zero=2 --resume
close_to one moved
gives 0 "$LOCKSTEP" eval "$work/runs/moved" --batches 2
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/moved" --full

# So does one of experts that are split over data-parallel ranks.
mixed="$tiny model.family=llama3 model.layers=2 model.experts=6 model.expert_capacity=1.5 batch.sequences=4"
gives 0 "$LOCKSTEP" train $mixed run.name=experts
gives 75 ranks 4 "$LOCKSTEP" train $mixed run.name=spread parallel.expert=2 parallel.zero=3 --until 2
gives 75 ranks 4 "$LOCKSTEP" train $mixed run.name=spread parallel.expert=4 --until 3 --resume
gives 0 ranks 4 "$LOCKSTEP" train $mixed run.name=spread parallel.expert=2 parallel.tensor=2 --resume
close_to experts spread
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/spread" --full
gives 0 "$LOCKSTEP" train --dry-run $mixed batch.sequences=12 parallel.expert=3 parallel.context=2 \
    --ranks 12
prints 'experts    6 a layer over 3 ranks = expert 3 .* x tensor 1; 4 ranks have the same ones$'
prints '^expert  *[0-9.]* [KM]iB'
# What it reserves beyond an even choice of experts is not in the totals.
gives 0 "$LOCKSTEP" train --dry-run $tiny model.family=llama3 model.experts=8 parallel.expert=4 --ranks 4 \
    model.channels=256 model.context=1024 data.sequence=1024 batch.micro=4 batch.sequences=16
prints 'choose the experts evenly; up to [0-9.]* MiB more are reserved'

gives 0 "$LOCKSTEP" train --fit --ranks 6 $mixed batch.sequences=12 parallel.expert=4 parallel.zero=1
prints '^6 parallel.tensor=1 parallel.context=1 parallel.pipeline=1 parallel.shard=6 .* parallel.expert=2$'

# Ranks that share a model out continue a text as one rank does.
for run in moved spread; do
    gives 0 "$LOCKSTEP" sample "$work/runs/$run" --prompt 'The ' --tokens 40 --temperature 0
    prints '^The '
    cp "$work/out" "$work/alone"
    gives 0 ranks 2 "$LOCKSTEP" sample "$work/runs/$run" --prompt 'The ' --tokens 40 --temperature 0
    holds cmp "$work/out" "$work/alone"
    gives 0 ranks 4 "$LOCKSTEP" sample "$work/runs/$run" --prompt 'The ' --tokens 40 --temperature 0 --pipeline 2
    holds cmp "$work/out" "$work/alone"
done
gives 2 ranks 2 "$LOCKSTEP" sample "$work/runs/moved" --tensor 1
says 'tensor 1 x --pipeline 1 makes 1 ranks, and 2 run'
gives 2 ranks 5 "$LOCKSTEP" sample "$work/runs/moved"
says 'parallel.tensor is 5; a model of'
gives 2 "$LOCKSTEP" sample "$work/runs/moved" --pipeline 9
says 'the model has 4 layers'

# Refused, with the nearest that would work.
gives 2 "$LOCKSTEP" train --dry-run --ranks 8 $mixed batch.sequences=8 parallel.expert=3
says 'parallel.expert is 3; .* the 8 ranks .* use 2 or 4'
gives 2 "$LOCKSTEP" train --dry-run --ranks 8 $tiny batch.sequences=8 parallel.expert=2
says 'parallel.expert is 2; .* use 1$'
gives 2 "$LOCKSTEP" train --dry-run --ranks 8 $tiny parallel.tensor=3
says '8 ranks run, and parallel.tensor 3 takes a multiple of 3; start 6 or 9 ranks'
gives 2 "$LOCKSTEP" train --dry-run --ranks 5 $tiny
says 'set batch.sequences to 5 or 10, or have a number of such ranks that divides 8$'
gives 2 "$LOCKSTEP" train $tiny run.steps=0
says 'neither run.steps nor run.tokens is given'
gives 2 "$LOCKSTEP" train --ranks 8 $tiny
says 'ranks is for --dry-run'
passed
