#!/bin/sh
# quickstart.sh [section.key=value ...]: from a bare machine to a trained model in a few minutes.
#
# Installs what is missing, builds, prepares real text (the licence texts of its packages), trains
# a small byte-level transformer on 2 ranks, writes checkpoints, inspects one, resumes from it and
# prints a sample. Can be run again; works from any directory; everything it makes is in build/ and
# runs/quickstart* of the checkout. Arguments override launch/recipes/quickstart.yaml.
# Environment: RANKS (2; more want batch.sequences=, a multiple of 2 x RANKS), TEXT (a directory with other text).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
ranks=${RANKS:-2}
case $ranks in
'' | *[!0-9]* | 0)
    echo "quickstart: RANKS is '$ranks'; a whole number from 1 is needed" >&2
    exit 2
    ;;
esac
for word in "$@"; do
    case $word in
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
        exit 0
        ;;
    run.name=* | data.dir=*)
        echo "quickstart: '$word' is for lockstep train; the name of this run and its data are fixed" >&2
        exit 2
        ;;
    *.*=*) ;;
    *)
        echo "quickstart: '$word' is no setting; section.key=value is expected, such as run.steps=100" >&2
        exit 2
        ;;
    esac
done
if [ -n "${TEXT:-}" ] && ! TEXT=$(realpath -e -- "$TEXT"); then
    echo "quickstart: TEXT is to name a directory with text" >&2
    exit 2
fi
cd "$root"
lockstep=$root/build/release/bin/lockstep
runs=runs
for word in "$@"; do
    case $word in run.dir=*) runs=${word#run.dir=} ;; esac
done
data=$runs/quickstart-data
run=$runs/quickstart
say() { printf '\n== %s\n' "$*"; }

say "1/6 packages and build"
launch/setup.sh
"$lockstep" --version | head -2

say "2/6 text"
if [ -n "${TEXT:-}" ]; then
    "$lockstep" prep "$TEXT" --val 0.05 --force -o "$data"
elif [ -d /usr/share/doc ]; then
    # the licence texts of the installed packages, but for a few that outweigh all others together
    find /usr/share/doc -name copyright -type f -size -64k -print0 | sort -z |
        xargs -0 -x -s 1000000 "$lockstep" prep --val 0.05 --force -o "$data"
else
    echo "quickstart: there is no /usr/share/doc; name a directory with text: TEXT=DIR $0" >&2
    exit 2
fi

train() {
    launch/mpirun/local.sh "$ranks" "$lockstep" train launch/recipes/quickstart.yaml \
        run.name=quickstart data.dir="$data" "$@"
}

say "3/6 training on $ranks ranks, first half (Ctrl-C saves and stops)"
rm -rf "$run"
steps=$(sed -n 's/^ *steps: *\([0-9]*\).*/\1/p' launch/recipes/quickstart.yaml)
for word in "$@"; do
    case $word in run.steps=*) steps=${word#run.steps=} ;; esac
done
train --until $((steps / 2)) "$@" || {
    status=$?
    # 75: stopped on request with a checkpoint written, as asked for by --until
    [ "$status" = 75 ] && [ -n "$("$lockstep" ckpt latest "$run")" ] || exit "$status"
}

say "4/6 the checkpoint: what is inside, and is it sound?"
"$lockstep" ckpt ls "$run" '*tok_embed*'
"$lockstep" ckpt verify "$run" --full

say "5/6 resuming from it, to the end"
train --resume "$@"

say "6/6 a sample"
"$lockstep" sample "$run" --prompt 'Permission is hereby granted' --tokens 400 --temperature 0.7

cat <<EOF

== Done
  $run/config.yaml     every setting of the run, explained
  $run/train.jsonl     a record for each step: loss, rates, seconds by phase
  $run/checkpoints/    HDF5 files that h5ls and h5py read too (see README.md)
Try next:
  build/release/bin/lockstep sample $run --prompt 'The author ' --seed 2
  build/release/bin/lockstep eval $run
  build/release/bin/lockstep ckpt show $run 'layers.0.attn.qkv.weight[:4,:8]'
  build/release/bin/lockstep train --help
EOF
