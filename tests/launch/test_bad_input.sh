#!/bin/sh
# Every bad input gets a clear error and loses nothing.
. "$(dirname "$0")/lib.sh"
make_corpus

# Input of prep.
gives 2 "$LOCKSTEP" prep "$work/absent" -o "$work/d"
says "$work/absent"
mkdir "$work/empty"
gives 2 "$LOCKSTEP" prep "$work/empty" -o "$work/d"
holds [ ! -e "$work/d" ]
gives 2 "$LOCKSTEP" prep "$work/text"
says 'no data directory'
gives 2 "$LOCKSTEP" prep "$work/text" -o "$data"
says 'force'
if [ "$(id -u)" != 0 ]; then
    touch "$work/secret" && chmod 000 "$work/secret"
    gives 2 "$LOCKSTEP" prep "$work/secret" -o "$work/d"
    says 'secret'
fi

# Configuration.
gives 2 "$LOCKSTEP" train $tiny optim.lrr=1
says 'optim.lr'
gives 2 "$LOCKSTEP" train $tiny optim.lr=fast
says 'fast'
gives 2 "$LOCKSTEP" train $tiny optim.beta1=2
says 'beta1'
printf 'model:\n  preset: llama3-tiny\n  layrs: 3\n' >"$work/bad.yaml"
gives 2 "$LOCKSTEP" train "$work/bad.yaml" data.dir="$data"
says 'bad.yaml:3'
says 'layers'
gives 2 "$LOCKSTEP" train "$work/absent.yaml"
says 'absent.yaml'
gives 2 "$LOCKSTEP" train "$work/lr=3e-4/absent.yaml" # a path, not a setting
says "lr=3e-4/absent.yaml' cannot be opened"
gives 2 "$LOCKSTEP" train data.dir=my data
says "override 'data': section.key=value is expected, .*(a value with spaces needs quotes)$"
gives 2 "$LOCKSTEP" prep "$work/text" --pack -o "$work/d"
says "option '--pack' needs a value, and '-o' is the next option$"
gives 2 "$LOCKSTEP" prep "$work/text" --tokenizer "$work/empty" -o "$work/d"
says "the folder '$work/empty' has no tokenizer.json; .*from_pretrained('$work/empty').save_pretrained("
gives 2 "$LOCKSTEP" train lr=3e-4
says "override 'lr=3e-4': section.key=value is expected"
# Axes whose product is more than a number holds.
gives 2 "$LOCKSTEP" train $tiny model.layers=256 parallel.pipeline=256 parallel.tensor=65536 parallel.context=65536 \
    data.sequence=131072 model.context=131072 parallel.replicate=16777216 parallel.zero=1
says 'leaves 1 of 1 ranks'
gives 2 "$LOCKSTEP" train $tiny model.vocab=100
says 'vocab'
gives 2 "$LOCKSTEP" train $tiny data.dir="$work/absent"
says "$work/absent"

# A batch that does not divide: the nearest that do are named.
gives 2 ranks 2 "$LOCKSTEP" train $tiny batch.sequences=10
says 'set batch.sequences to 8 or 12, or have a number of such ranks that divides 5$'
gives 2 ranks 3 "$LOCKSTEP" train $tiny batch.sequences=4
says 'set batch.sequences to 6, or'

gives 2 "$LOCKSTEP" train $tiny batch.micro=1 batch.sequences=1073741824
says 'gives each of 1 data ranks 1073741824 micro-batches of 1 in a step; at most 131072 are taken: lower batch.sequences'

# Shards: named, before step one, and no run directory is left.
damage() { # damage NAME COMMAND...: a copy of the data whose first shard is $shard
    cp -r "$data" "$work/$1"
    shard=$work/$1/train-00000.tok
}
damage short
truncate -s -7 "$shard"
gives 2 "$LOCKSTEP" train $tiny data.dir="$work/short" run.name=short
says 'train-00000.tok'
damage flipped
printf '\1' | dd of="$shard" bs=1 seek=700 conv=notrunc status=none
gives 1 "$LOCKSTEP" train $tiny data.dir="$work/flipped" run.name=flipped
says 'train-00000.tok'
damage newer
printf '\377' | dd of="$shard" bs=1 seek=8 conv=notrunc status=none
status=0
"$LOCKSTEP" train $tiny data.dir="$work/newer" run.name=newer >"$work/out" 2>"$work/err" || status=$?
holds [ "$status" != 0 ]
says 'train-00000.tok'
holds [ ! -e "$work/runs/short" ]
holds [ ! -e "$work/runs/flipped" ]

# A run directory that exists; a resume that does not fit.
gives 0 "$LOCKSTEP" train $tiny run.name=first
gives 2 "$LOCKSTEP" train $tiny run.name=first
says 'resume'
gives 2 "$LOCKSTEP" train $tiny run.name=first model.layers=3 --resume
says 'model.layers'
"$LOCKSTEP" prep "$work/text" -o "$work/other" --val 0.5 >/dev/null 2>&1
gives 2 "$LOCKSTEP" train $tiny run.name=first data.dir="$work/other" --resume
says 'fingerprint\|data.dir'
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/first" --full

# Ranks with different configurations, and with different programs.
two() { # two PROGRAM [SETTING]: of rank 1
    # shellcheck disable=SC2016
    "$root/tests/mpirun.sh" 2 sh -c 'program=$1 other=$2 setting=$3 && shift 3
        [ "$OMPI_COMM_WORLD_RANK" = 0 ] || { program=$other && set -- "$@" $setting; }
        exec "$program" "$@"' sh "$LOCKSTEP" "$1" "${2-}" train $tiny run.name=two
}
gives 2 two "$LOCKSTEP" optim.lr=2e-3
says 'rank 1'
says 'configuration'
cp "$LOCKSTEP" "$work/lockstep2"
echo >>"$work/lockstep2"
gives 2 two "$work/lockstep2"
says 'executable'
holds [ ! -e "$work/runs/two" ]

# A run for its configuration.
gives 2 "$LOCKSTEP" train "$work/runs/first" --resume
says "is a directory; to go on with its run: lockstep train '$work/runs/first/config.yaml' --resume"
gives 2 "$LOCKSTEP" train "$work/runs/first/checkpoints/step-00000006" --resume
says "to go on with its run: lockstep train '$work/runs/first/checkpoints/step-00000006/../../config.yaml' --resume"
gives 2 "$LOCKSTEP" train "$data"
says "is a directory; give a configuration, a YAML file$"

# What cannot be printed is not done.
status=0
"$LOCKSTEP" sample "$work/runs/first" --tokens 3 >/dev/full 2>"$work/err" || status=$?
holds [ "$status" = 3 ]
says 'cannot write to standard output'

# Not a directory to write to.
echo file >"$work/file"
gives 2 "$LOCKSTEP" train $tiny run.dir="$work/file" run.name=x
says "'$work/file' is no directory; choose another run.dir or run.name"
gives 2 "$LOCKSTEP" train $tiny run.dir="$work" run.name=file --resume
says "'$work/file' is no directory; choose another run.dir or run.name"

# The disk fills up during a save: training goes on, older checkpoints stay, nothing is left over. But a run
# without its last checkpoint is not done.
if mkdir "$work/full" && mount -t tmpfs -o size=2200k none "$work/full" 2>/dev/null; then
    trap 'umount "$work/full"; rm -rf "$work"' EXIT
    gives 3 "$LOCKSTEP" train $tiny run.dir="$work/full" run.name=x checkpoint.every=1 eval.every=0
    says 'are free for .* and a checkpoint takes up to'
    says 'was not saved'
    says 'No space left'
    says "trained to the end, step 6, but its checkpoint could not be saved; the newest one is $work/full/x/checkpoints/step-0000000"
    gives 0 "$LOCKSTEP" ckpt verify "$work/full/x" --full
    holds [ -z "$(find "$work/full" -name '.tmp*')" ]
    # Nor does it fill the log, whose disk that may be; and the reason of the end is told, not that its metrics were lost.
    rm -rf "$work/full/x"
    head -c 1900k /dev/zero >"$work/full/filler"
    gives 3 "$LOCKSTEP" train $tiny run.dir="$work/full" run.name=x run.steps=400 eval.every=0
    says 'train.jsonl.* No space left .*; records lost there so far: 1$'
    holds [ "$(grep -c 'records lost' "$work/err")" -le 4 ]
    holds [ "$(grep -c 'error: trained to the end, step 400' "$work/err")" = 1 ]
else
    echo "skipped: the full disk, because a tmpfs cannot be mounted here" >&2
fi

# A limit of the size of files, which kills by a signal unless that is ignored.
gives 3 sh -c 'ulimit -f 100 && exec "$@"' sh "$LOCKSTEP" train $tiny run.name=limited
says 'was not saved.*File too large'
holds [ "$(cat "$work/runs/limited/train.jsonl" | wc -l)" = 6 ]
gives 3 sh -c 'ulimit -f 10 && exec "$@"' sh "$LOCKSTEP" ckpt reshard "$work/runs/first" -o "$work/resharded"
says 'File too large'
holds [ ! -e "$work/resharded" ]
gives 3 sh -c 'yes | head -c 100000 | (ulimit -f 10 && exec "$@")' sh "$LOCKSTEP" prep - -o "$work/d"
says "'the copy of standard input beside $work/d' cannot be written: File too large"
# Streams that the caller has closed are not the next files that are opened.
closed() { # closed COMMAND...: told in files only, which are what they should be
    "$@" <&- >&- 2>&-
}
gives 3 closed "$LOCKSTEP" train $tiny run.name=shut
holds grep -q '^0 .*: done' "$work/runs/shut/outcome" # of the run; that nobody read its last lines is of the command
gives 0 "$LOCKSTEP" ckpt verify "$work/runs/shut" --deep
gives 3 closed "$LOCKSTEP" prep - -o "$work/d"
holds [ ! -e "$work/d" ]

# A checkpoint that is not one.
gives 2 "$LOCKSTEP" sample "$work/empty"
says "'$work/empty' is no checkpoint (it has no manifest.json) and holds none"
gives 2 "$LOCKSTEP" sample "$work/runs"
says "'$work/runs' is a folder of runs; give one of them, such as '$work/runs/first'"
gives 2 "$LOCKSTEP" ckpt ls "$work/runs"
says "'$work/runs' is a folder of runs"
gives 2 "$LOCKSTEP" eval "$work/runs/first" --data "$work/empty"
says "$work/empty"
mv "$data" "$data.away"
gives 2 "$LOCKSTEP" eval "$work/runs/first"
says "the run's own data (--data names another directory): data directory '$data' does not exist"
mv "$data.away" "$data"
gives 2 "$LOCKSTEP" train $tiny run.name=none run.init="$work/none"
says "run.init: '$work/none' is no checkpoint and no run"
# A run that was moved, or is seen from elsewhere, does not begin anew under its old name.
cp -r "$work/runs/first" "$work/moved run"
sed -i 's/^  dir: .*runs.*/  dir: runs/' "$work/moved run/config.yaml"
gives 2 "$LOCKSTEP" train "$work/moved run/config.yaml" --resume
says "'$work/moved run/config.yaml' is of a run .* 'runs/first', which does not exist here; .* add run.dir='$work' run.name='moved run'$"
gives 0 "$LOCKSTEP" train "$work/moved run/config.yaml" --resume run.dir="$work" run.name='moved run'
rm "$work/moved run/config.yaml"
gives 2 "$LOCKSTEP" train "$work/moved run/config.yaml" --resume
says "moved run/config.yaml' does not exist; .*: lockstep ckpt show '$work/moved run' --config >'$work/moved run/config.yaml'$"
gives 0 "$LOCKSTEP" ckpt show "$work/moved run" --config
cp "$work/out" "$work/moved run/config.yaml"
gives 0 "$LOCKSTEP" train "$work/moved run/config.yaml" --resume
gives 2 "$LOCKSTEP" train $tiny run.name=none model.channels=32 run.init="$work/runs/first"
says "run.init is of another model ('lockstep ckpt show $work/runs/first --config' tells its settings): tensor"
gives 2 "$LOCKSTEP" train $tiny run.name=none model.vocab=300 run.init="$work/runs/first"
says "run.init '$work/runs/first' has a vocabulary of 257, and this model one of 300; .* say model.vocab=257$"
echo '{"ids": [1, 299, 5]}' >"$work/wide.jsonl"
gives 0 "$LOCKSTEP" prep "$work/wide.jsonl" --field ids --vocab 300 --separator 0 --val 0 -o "$work/wide"
gives 2 "$LOCKSTEP" train $tiny data.dir="$work/wide" data.sequence=2 run.name=none run.init="$work/runs/first"
says "run.init '$work/runs/first' has a vocabulary of 257, but the tokens in '$work/wide' go up to 299; prepare the data"
gives 0 "$LOCKSTEP" train $tiny model.vocab=257 data.dir="$work/none" run.name=none --dry-run
says "warning: data.dir: data directory '$work/none' does not exist"
cp -r "$data" "$work/parts"
rm "$work/parts/train-00000.tok"
gives 2 "$LOCKSTEP" train $tiny run.name=none data.dir="$work/parts"
says "cannot open shard '$work/parts/train-00000.tok': .*; data.json names it: copy it again or prepare the data again"
ln -s train-00000.tok "$work/parts/train-00000.tok"
gives 3 "$LOCKSTEP" train $tiny data.dir="$work/parts" run.name=x
says "cannot open shard '$work/parts/train-00000.tok': Too many levels of symbolic links$"
rm "$work/parts/train-00000.tok"
passed
