#!/bin/sh
# test_compilers.sh clang|sanitizers: another build of everything, warnings as errors, its unit tests run.
. "$(dirname "$0")/lib.sh"
build=$root/build/$1
case $1 in
clang)
    command -v clang >/dev/null || { echo "skipped: clang is not installed"; exit 77; }
    set -- -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo
    ;;
sanitizers)
    set -- -DCMAKE_BUILD_TYPE=Debug -DLS_SANITIZE=address,undefined
    export UBSAN_OPTIONS=print_stacktrace=1
    ;;
esac
gives 0 cmake -S "$root" -B "$build" -G Ninja -DLS_WERROR=ON -DLS_CUDA=OFF "$@"
# It takes what processor time the tests beside it leave, which wait for most of theirs.
gives 0 nice cmake --build "$build"
gives 0 ctest --test-dir "$build" -L unit -j "$(env -u OMP_NUM_THREADS nproc)" --output-on-failure
prints '100% tests passed'
passed
