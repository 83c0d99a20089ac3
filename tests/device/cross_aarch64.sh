#!/bin/sh
# Cross-compiles base, the CPU device and reductions for aarch64, every kernel at each level, with
# warnings as errors; then runs tests under emulation, with plain loops in the place of oneDNN: the
# reductions, the kernels at the best level, shares of those of the micro-kernels of products and of
# attention. EMULATE=all runs all of them at every level and in full, which takes minutes.
set -eu
cc=${AARCH64_CC:-aarch64-linux-gnu-gcc}
command -v "$cc" >/dev/null || { echo "skipped: $cc is not installed"; exit 77; }

root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

flags="-std=gnu17 -O2 -fopenmp -D_GNU_SOURCE -I$root -Wall -Wextra -Wvla -Wshadow
-Wstrict-prototypes -Wmissing-prototypes -Werror"
compile() { # OBJECT SOURCE FLAGS...
    object=$work/$1.o source=$2
    shift 2
    # shellcheck disable=SC2086
    "$cc" $flags "$@" -c "$source" -o "$object"
}

for source in runtime/device/cpu/k_*.c runtime/device/cpu/ops_table.c; do
    name=$(basename "$source" .c)
    kernel="-fno-math-errno -fno-trapping-math"
    case $name in
    k_optim | k_adafactor) kernel="$kernel -ffp-contract=off" ;; # as in CMakeLists.txt
    esac
    # shellcheck disable=SC2086
    compile "$name.generic" "$source" -DLS_KERNEL_ISA=generic $kernel
    # shellcheck disable=SC2086
    compile "$name.sve" "$source" -DLS_KERNEL_ISA=sve -march=armv8.2-a+sve $kernel
    # shellcheck disable=SC2086
    compile "$name.sve_bf16" "$source" -DLS_KERNEL_ISA=sve_bf16 -march=armv8.2-a+sve+bf16 $kernel
done
for source in runtime/base/*.c runtime/device/cpu/*.c tests/reference/*.c tests/device/plain_dnnl.c \
    tests/device/kernel_*.c; do
    case $source in
    */k_*.c | */ops_table.c) continue ;; # above
    */gemm_dnnl.c | */hash.c) continue ;; # want libraries for the target
    esac
    compile "$(basename "$source" .c)" "$source"
done
for name in combine combine_fold combine_half; do
    compile "$name" "collectives/$name.c" -fno-trapping-math # as in collectives/CMakeLists.txt
done
echo "compiled for aarch64: generic, sve, sve_bf16"

command -v qemu-aarch64 >/dev/null || { echo "not run: qemu-aarch64 is not installed"; exit 0; }
kernel_levels=sve_bf16 attention_levels="sve sve_bf16" share=11
if [ "${EMULATE:-}" = all ]; then
    kernel_levels="generic sve sve_bf16" attention_levels="generic sve sve_bf16" share=1
fi
link() { # TEST FLAGS...
    case $1 in
    test_combine*) source=tests/collectives/$1.c ;;
    *) source=tests/device/$1.c ;;
    esac
    program=$work/$1
    shift
    # shellcheck disable=SC2086
    "$cc" $flags "$@" -static -Wl,--no-warnings "$source" "$work"/*.o -lm -o "$program"
}
emulate() { # TEST LEVEL
    LOCKSTEP_ISA=$2 LS_TEST_SHARE=$share qemu-aarch64 -cpu max "$work/$1"
    echo "passed under emulation: $1, $2"
}

for test in test_combine test_combine_half; do
    link $test
    emulate $test generic
    emulate $test sve_bf16
done
link test_gemm -DLS_TEST_TILES=ls_cpu_gemm_tiles_sve_bf16
emulate test_gemm sve_bf16
link test_kernels
for level in $kernel_levels; do
    emulate test_kernels "$level"
done
for test in test_attention test_attention_parts; do
    link $test
    for level in $attention_levels; do
        emulate $test "$level"
    done
done
