#!/bin/sh
# test_compilers.sh clang|sanitizers: another build, by clang of everything, warnings as errors, its unit tests run.
# Debug information takes a fifth of a compiler's time; of it, sanitizers report lines.
. "$(dirname "$0")/lib.sh"
build=$root/build/$1
case $1 in
clang)
    command -v clang >/dev/null || { echo "skipped: clang is not installed"; exit 77; }
    target=all
    # The emulated device's kernels are C++ and g++'s in either build: those that are there.
    set -- -DCMAKE_C_COMPILER=clang -DCMAKE_C_FLAGS_RELEASE=-O3 "-DLS_EMULATED_KERNELS=${LOCKSTEP%/bin/lockstep}/tests/emulator"
    ;;
sanitizers)
    target=unit_tests
    set -- -DLS_SANITIZE=address,undefined -DCMAKE_C_FLAGS_RELEASE='-O1 -g1 -fno-omit-frame-pointer'
    export UBSAN_OPTIONS=print_stacktrace=1
    ;;
esac
gives 0 cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLS_WERROR=ON -DLS_CUDA=OFF "$@"
# It takes what processor time the tests beside it leave, which wait for most of theirs.
gives 0 nice cmake --build "$build" --target "$target"
gives 0 ctest --test-dir "$build" -L unit -j "$(env -u OMP_NUM_THREADS nproc)" --output-on-failure
prints '100% tests passed'
passed
