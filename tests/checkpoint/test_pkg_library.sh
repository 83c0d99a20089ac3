#!/bin/sh
# test_pkg_library.sh CKPT_MAKE: the checkpoint library by itself: cmake --install into a prefix, the
# example built with pkg-config alone, away from the source tree.
. "$(dirname "$0")/../launch/lib.sh"
make=$1
command -v pkg-config >/dev/null || { echo "skipped: pkg-config is not installed"; exit 77; }
build=$(cd "$(dirname "$LOCKSTEP")/.." && pwd)
source=$(cd "$(dirname "$0")/../../checkpoint/example" && pwd)
gives 0 cmake --install "$build" --prefix "$work/prefix"
mv "$work/prefix" "$work/moved" # the tree can be anywhere
pc=$(find "$work/moved" -name lockstep-ckpt.pc)
holds [ -n "$pc" ]
export PKG_CONFIG_PATH="${pc%/*}"
cp "$source/ckpt_list.c" "$work/"
cd "$work"
# shellcheck disable=SC2046
gives 0 "${CC:-cc}" -std=gnu17 -Wall -Wextra -Werror ckpt_list.c \
    $(pkg-config --cflags --libs lockstep-ckpt) -o ckpt_list
# Every public header by itself.
for header in $(cd "$work/moved/include/lockstep" && find . -name '*.h'); do
    echo "#include <$header>" >one.c
    # shellcheck disable=SC2046
    gives 0 "${CC:-cc}" -std=gnu17 -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags lockstep-ckpt) one.c
done
# Global names are those of the headers: no internal one, and nothing of MPI is asked for.
library=$(find "$work/moved" -name liblockstep-ckpt.a)
nm --defined-only -g "$library" | awk 'NF == 3 {print $3}' | sort >names
holds [ "$(grep -c '^ls_ckpt_' names)" -gt 30 ]
holds [ "$(grep -cvE "^(ls_|\.gomp_critical_user_ls_)" names)" = 0 ]
holds [ "$(grep -cE '^ls_ckpt_(h5_|decode|encode|manifest_|grid_)' names)" = 0 ]
holds [ "$(nm -u "$library" | grep -cE ' (MPI_|dnnl_)')" = 0 ]
for name in $(sed -n 's/^[a-z].*[ *]\(ls_ckpt_[a-z_]*\)(.*/\1/p' "$work/moved/include/lockstep/checkpoint/ckpt.h"); do
    grep -qx "$name" names || fail "$name is declared but not in the library"
done

"$make" "$work/run" 3
gives 0 ./ckpt_list "$work/run"
prints 'step-00000003: step 3, 12 tensors'
prints '^layers.0.attn.qkv.weight  *float32  *\[257, 129\] in 1 piece$'
"$LOCKSTEP" ckpt show "$work/run" 'layers.0.attn.qkv.weight[0,:4]' | tail -n 1 | tr -d '[] ' | tr , '\n' >expected
gives 0 ./ckpt_list "$work/run" layers.0.attn.qkv.weight
holds [ "$(paste out expected | awk '{ d = $1 - $2; if (d < 1e-6 && d > -1e-6 && $1 != 0) n++ } END { print n }')" = 4 ]
gives 2 ./ckpt_list "$work/run" half
says 'float16'
gives 2 ./ckpt_list "$work/nothing"
says 'nothing'
passed
