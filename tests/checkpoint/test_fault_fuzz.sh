#!/bin/sh
# test_fault_fuzz.sh INCLUDES HDF5_LIBRARY: the readers of checkpoints, their owners and of Hugging Face models under libFuzzer with address and undefined
# behaviour sanitizers, from the corpus, for LOCKSTEP_FUZZ_SECONDS (default 60) each, side by side.
# Memory is limited: a manifest of a few KiB justifies no more. LOCKSTEP_FUZZ_CORPUS keeps what is found.
#
# Seeds: of `ckpt_make DIR 1 LEVEL 500`,  head -n -2 manifest.json  in corpus/manifest, and the same
# followed by a NUL and rank-00000.h5 in corpus/reader; made by test_fault_fuzz.sh --seeds CKPT_MAKE.
# corpus/safetensors has headers (without their length) and config.json files, corpus/owner a lock.json.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = --seeds ]; then
    for level in 0 1; do
        "$2" "$work/$level" 1 $level 500
        from=$work/$level/step-00000001
        head -n -2 "$from/manifest.json" >"$here/corpus/manifest/level-$level"
        { head -n -2 "$from/manifest.json"; printf '\0'; cat "$from/rank-00000.h5"; } \
            >"$here/corpus/reader/level-$level"
    done
    exit 0
fi

cc=${LOCKSTEP_FUZZ_CC:-clang}
includes=$(echo "$1" | tr : '\n' | sed 's/^/-I/')
flags="-g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fopenmp -std=gnu17
       -D_GNU_SOURCE -DLS_VERSION=\"fuzz\" -I$root $includes $(pkg-config --cflags jansson libzstd libisal)"
libraries="$(pkg-config --libs jansson libzstd libcrypto libxxhash libisal) $2 -lm"
echo 'int LLVMFuzzerTestOneInput(const char *d, long n); int LLVMFuzzerTestOneInput(const char *d, long n)
{ return d && n ? 0 : 0; }' >"$work/try.c"
# shellcheck disable=SC2086
if ! $cc $flags -o "$work/try" "$work/try.c" $libraries >"$work/log" 2>&1; then
    echo "skipped: '$cc' does not build for libFuzzer here: $(tail -n 1 "$work/log")"
    exit 77
fi

sources="$root/checkpoint/manifest_read.c $root/checkpoint/manifest_check.c $root/checkpoint/format.c $root/checkpoint/codec.c
         $root/checkpoint/chunk.c $root/checkpoint/fetch.c $root/checkpoint/planes.c $root/checkpoint/read.c $root/checkpoint/repair.c
         $root/checkpoint/parity.c $root/checkpoint/verify.c $root/checkpoint/h5.c
         $root/checkpoint/h5_driver.c $root/checkpoint/h5_output.c $root/checkpoint/h5_people.c $root/checkpoint/zstd_filter.c
         $root/checkpoint/manifest_write.c $root/checkpoint/owner.c $root/checkpoint/safetensors.c $root/checkpoint/hf_config.c $root/runtime/base/log.c $root/runtime/mesh/layout.c
         $root/runtime/base/arena.c $root/runtime/base/dtype.c $root/runtime/base/file.c
         $root/runtime/base/clock.c $root/runtime/base/cpu.c $root/runtime/base/process.c $root/runtime/base/hash.c $root/runtime/base/hash_leaves.c $root/runtime/base/status.c $root/runtime/base/text.c"
if [ "$(uname -m)" = x86_64 ]; then
    # shellcheck disable=SC2086
    $cc $flags -mavx2 -c -o "$work/planes_avx2.o" "$root/checkpoint/planes_avx2.c"
    sources="$sources $work/planes_avx2.o"
fi
seconds=${LOCKSTEP_FUZZ_SECONDS:-60}
for name in manifest reader safetensors owner; do
    # shellcheck disable=SC2086
    $cc $flags -o "$work/$name" "$here/fuzz_ckpt_$name.c" $sources $libraries &
done
wait
failed=
for name in manifest reader safetensors owner; do
    mkdir -p "${LOCKSTEP_FUZZ_CORPUS:-$work/corpus}/$name"
    OMP_NUM_THREADS=1 "$work/$name" -max_total_time="$seconds" -seed="${LOCKSTEP_FUZZ_SEED:-1}" \
        -rss_limit_mb=768 -malloc_limit_mb=256 -timeout=20 -max_len=70000 -print_final_stats=1 \
        -artifact_prefix="$work/$name-" "${LOCKSTEP_FUZZ_CORPUS:-$work/corpus}/$name" \
        "$here/corpus/$name" >"$work/$name.log" 2>&1 &
    eval "${name}_pid=$!"
done
for name in manifest reader safetensors owner; do
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
