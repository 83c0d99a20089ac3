#!/bin/sh
# Cross-compiles base and the CPU device for aarch64, every kernel at each level, with warnings as
# errors; then runs tests under emulation, with plain loops in the place of oneDNN: of the
# micro-kernels of products and a share of attention at the best level, of the kernels at both of
# SVE's. EMULATE=all runs all of them at every level and in full, which takes minutes.
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
done
tile=runtime/device/cpu/k_gemm_tile.c
# shellcheck disable=SC2086
compile k_gemm_tile.sve_bf16 $tile -DLS_KERNEL_ISA=sve_bf16 -march=armv8.2-a+sve+bf16 $kernel
for source in runtime/base/*.c runtime/device/cpu/*.c tests/reference/*.c tests/device/plain_dnnl.c \
    tests/device/kernel_*.c; do
    case $source in
    */k_*.c | */ops_table.c) continue ;; # above
    */gemm_dnnl.c | */hash.c) continue ;; # want libraries for the target
    esac
    compile "$(basename "$source" .c)" "$source"
done
echo "compiled for aarch64: generic, sve, sve_bf16"

command -v qemu-aarch64 >/dev/null || { echo "not run: qemu-aarch64 is not installed"; exit 0; }
tests=kernels levels=sve_bf16 share=11
if [ "${EMULATE:-}" = all ]; then
    tests="kernels attention" levels="generic sve sve_bf16" share=1
fi
# shellcheck disable=SC2086
"$cc" $flags -DLS_TEST_TILES=ls_cpu_gemm_tiles_sve_bf16 -static -Wl,--no-warnings \
    tests/device/test_gemm.c "$work"/*.o -lm -o "$work/test_gemm"
LS_TEST_SHARE=$share qemu-aarch64 -cpu max "$work/test_gemm"
echo "passed under emulation: micro-kernels, sve_bf16"
for test in $tests; do
    # shellcheck disable=SC2086
    "$cc" $flags -static -Wl,--no-warnings "tests/device/test_$test.c" "$work"/*.o -lm \
        -o "$work/test_$test"
    for isa in $levels; do
        LOCKSTEP_ISA=$isa qemu-aarch64 -cpu max "$work/test_$test"
        echo "passed under emulation: $test, $isa"
    done
done
