#!/bin/sh
# fuzz.sh INCLUDES HDF5_LIBRARY: what reads bytes from outside, each tests/ROOM/fuzz_NAME.c under libFuzzer with
# address and undefined behaviour sanitizers, from the seeds in corpus/NAME beside it (recipes and profiles that are
# shipped, for configurations and clusters), for LOCKSTEP_FUZZ_SECONDS (default 60) each, side by side.
# Memory is limited: a manifest of a few KiB justifies no more. LOCKSTEP_FUZZ_CORPUS keeps what is found.
#
# Seeds of checkpoints: of `ckpt_make DIR 1 LEVEL 500`,  head -n -2 manifest.json  in ckpt_manifest, and the same
# followed by a NUL and rank-00000.h5 in ckpt_reader; made by fuzz.sh --seeds CKPT_MAKE.
# ckpt_safetensors has headers (without their length) and config.json files, ckpt_owner a lock.json, run_records
# ledger.json, starts.jsonl and train.jsonl of a run, parted by NULs.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = --seeds ]; then
    corpus=$root/tests/checkpoint/corpus
    for level in 0 1; do
        "$2" "$work/$level" 1 $level 500
        from=$work/$level/step-00000001
        head -n -2 "$from/manifest.json" >"$corpus/ckpt_manifest/level-$level"
        { head -n -2 "$from/manifest.json"; printf '\0'; cat "$from/rank-00000.h5"; } \
            >"$corpus/ckpt_reader/level-$level"
    done
    exit 0
fi

cc=${LOCKSTEP_FUZZ_CC:-clang}
includes=$(echo "$1" | tr : '\n' | sed 's/^/-I/')
flags="-g -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fopenmp -std=gnu17
       -D_GNU_SOURCE -DLS_VERSION=\"fuzz\" -I$root $includes
       $(pkg-config --cflags jansson libzstd libisal libpcre2-8 libutf8proc yaml-0.1)"
libraries="$(pkg-config --libs jansson libzstd libcrypto libxxhash libisal libpcre2-8 libutf8proc yaml-0.1) $2 -lm"
echo 'int LLVMFuzzerTestOneInput(const char *d, long n); int LLVMFuzzerTestOneInput(const char *d, long n)
{ return d && n ? 0 : 0; }' >"$work/try.c"
# shellcheck disable=SC2086
if ! $cc $flags -fsanitize=fuzzer -o "$work/try" "$work/try.c" $libraries >"$work/log" 2>&1; then
    echo "skipped: '$cc' does not build for libFuzzer here: $(tail -n 1 "$work/log")"
    exit 77
fi

# What reads, in one library of which each program takes its part.
cd "$root"
{
    find runtime/base runtime/config runtime/mesh runtime/data checkpoint -maxdepth 1 -name '*.c'
    printf '%s\n' runtime/counters/counters.c runtime/counters/history.c runtime/plan/cluster*.c collectives/flight*.c \
        collectives/diagnose.c launch/run_records.c tests/fuzz/numbers.c
    find tests -name 'fuzz_*.c'
} >"$work/sources"
export cc flags work
# shellcheck disable=SC2016 # expanded by that shell
xargs -P "$(nproc)" -I {} sh -c 'case {} in *_avx2.c) flags="$flags -mavx2" ;; esac
    $cc $flags -c -o "$work/$(echo {} | tr / _).o" {}' <"$work/sources"
ar rcs "$work/readers.a" $(find "$work" -name '*.o' ! -name '*_fuzz_*')

seconds=${LOCKSTEP_FUZZ_SECONDS:-60}
names=
for entry in $(find tests -name 'fuzz_*.c' | sort); do
    name=$(basename "$entry" .c)
    name=${name#fuzz_}
    names="$names $name"
    found=${LOCKSTEP_FUZZ_CORPUS:-$work/corpus}/$name
    seeds=$(dirname "$entry")/corpus/$name
    case $name in config) seeds=launch/recipes ;; cluster) seeds=launch/clusters ;; esac
    mkdir -p "$found"
    # shellcheck disable=SC2086
    $cc $flags -fsanitize=fuzzer -o "$work/$name" "$work/tests_fuzz_numbers.c.o" "$work/$(echo "$entry" | tr / _).o" "$work/readers.a" $libraries
    # shellcheck disable=SC2046 # no folder: no seeds
    OMP_NUM_THREADS=1 "$work/$name" -max_total_time="$seconds" -seed="${LOCKSTEP_FUZZ_SEED:-1}" \
        -rss_limit_mb=768 -malloc_limit_mb=256 -timeout=60 -max_len=70000 -print_final_stats=1 \
        -artifact_prefix="$work/$name-" "$found" $([ ! -d "$seeds" ] || echo "$seeds") >"$work/$name.log" 2>&1 &
    eval "${name}_pid=$!"
done
failed=
for name in $names; do
    eval "wait \$${name}_pid" || failed="$failed $name"
    grep -E 'number_of_executed_units|peak_rss' "$work/$name.log" | sed "s/^/$name: /"
done
for name in $failed; do
    tail -n 60 "$work/$name.log"
    for input in "$work/$name"-*; do
        [ ! -e "$input" ] || { echo "$name fails on this input (base64):"; base64 "$input"; }
    done
done
[ -z "$failed" ]
