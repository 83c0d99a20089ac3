#!/bin/sh
# run.sh [ctest arguments]: installs what is missing, builds with warnings as errors, runs every
# test and ends with ctest's summary. One area: tests/run.sh -R checkpoint
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
LS_CMAKE_ARGS="-DLS_WERROR=ON" "$root/launch/setup.sh" --tests
cd "$root/build/release"
export OMP_WAIT_POLICY=passive # tests run side by side: threads that wait leave the processor to others
# One more than there are processors: many tests wait for deadlines and launchers most of their time.
exec ctest -j "$(($(nproc) + 1))" --output-on-failure "$@"
