#!/bin/sh
# The house rules that a machine can check.
. "$(dirname "$0")/lib.sh"
cd "$root"
sources=$(find runtime collectives optim checkpoint launch tests benchmarks -name '*.[ch]')
version=$(clang-format --version 2>/dev/null | sed -n 's/.*version \([0-9]*\).*/\1/p')
if [ "$version" = 14 ]; then
    # shellcheck disable=SC2086
    gives 0 clang-format --dry-run --Werror $sources
else # others break some lines elsewhere
    echo "skipped: formatting, because clang-format is ${version:-not installed}, not version 14" >&2
fi
extra=$(ls | grep -v -x -E 'CMakeLists.txt|CMakePresets.json|LICENSE|README.md|runtime|collectives|optim|checkpoint|launch|tests|benchmarks|build.*|runs' || true)
[ -z "$extra" ] || fail "top-level entries outside the layout: $extra"
for script in launch/quickstart.sh launch/setup.sh launch/supervise launch/mpirun/*.sh tests/run.sh .ci/run; do
    holds [ -x "$script" ]
done
for script in launch/supervise $(find launch tests benchmarks -name '*.sh' -o -name '*.sbatch'); do
    shell=sh
    head -n 1 "$script" | grep -q bash && shell=bash
    gives 0 $shell -n "$script"
done
passed
