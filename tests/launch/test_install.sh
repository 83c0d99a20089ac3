#!/bin/sh
# cmake --install gives a tree that works from anywhere.
. "$(dirname "$0")/lib.sh"
build=$(cd "$(dirname "$LOCKSTEP")/.." && pwd)
gives 0 cmake --install "$build" --prefix "$work/prefix"
mv "$work/prefix" "$work/moved"
gives 0 "$work/moved/bin/lockstep" --version
prints 'lockstep'
holds [ -s "$work/moved/share/man/man1/lockstep.1" ]
holds [ -s "$work/moved/share/bash-completion/completions/lockstep" ]
holds [ -f "$work/moved/share/lockstep/recipes/quickstart.yaml" ]
holds [ -s "$work/moved/share/doc/lockstep/LICENSE" ]
LOCKSTEP=$work/moved/bin/lockstep
make_corpus
gives 0 "$LOCKSTEP" train $tiny run.name=a
if command -v h5dump >/dev/null; then
    plugin=$(find "$work/moved" -name 'libh5*zstd*.so' -exec dirname {} \;)
    file=$(find "$work/runs/a" -name 'rank-00000.h5')
    gives 0 env HDF5_PLUGIN_PATH="$plugin" h5dump -d "$(h5ls -r "$file" | awk '/Dataset/ {print $1; exit}')" "$file"
    prints '([0-9,]*): [-0-9]'
fi
passed
