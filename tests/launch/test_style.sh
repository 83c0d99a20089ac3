#!/bin/sh
# The house rules that a machine can check.
. "$(dirname "$0")/lib.sh"
cd "$root"
sources=$(find runtime collectives optim checkpoint launch tests benchmarks -name '*.[ch]')
if command -v clang-format >/dev/null; then
    # shellcheck disable=SC2086
    gives 0 clang-format --dry-run --Werror $sources
else
    echo "skipped: formatting, because clang-format is not installed" >&2
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
