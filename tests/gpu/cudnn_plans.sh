#!/bin/sh
# cudnn_plans.sh PROGRAM: lets cuDNN plan lockstep's graphs of attention for A100, H100 and B200 on a machine without a GPU. cuDNN
# wants the driver's library for that, though only to load what it has compiled: a stand-in is made here, of the toolkit's stub
# (every call of it fails) with the few calls that then succeed. On a machine with a driver too: nothing is executed on a GPU.
# Takes up to a minute; runs with LOCKSTEP_TEST_ALL=1.
set -eu
[ "${LOCKSTEP_TEST_ALL:-}" ] || {
    echo "skipped: LOCKSTEP_TEST_ALL is not set"
    exit 77
}
[ -x "$1" ] || {
    echo "cudnn_plans.sh: there is no program '$1'; launch/setup.sh --tests builds it where cuDNN's headers are found" >&2
    exit 2
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
stub=
for place in "${CUDA_HOME:-/usr/local/cuda}" /usr; do
    for found in "$place"/lib*/stubs/libcuda.so "$place"/lib/*/stubs/libcuda.so; do
        [ -f "$found" ] && stub=$found
    done
done
[ "$stub" ] || {
    echo "skipped: no stubs/libcuda.so of the CUDA Toolkit; set CUDA_HOME"
    exit 77
}
cat >"$dir/libcuda.c" <<'CODE'
#define _GNU_SOURCE
#include <dlfcn.h>
static int thing;
int cuLibraryLoadData(void **library) { *library = &thing; return 0; }
int cuLibraryUnload(void) { return 0; }
int cuLibraryGetKernel(void **kernel) { *kernel = &thing; return 0; }
int cuKernelGetFunction(void **function) { *function = &thing; return 0; }
int cuKernelSetAttribute(void) { return 0; }
int cuKernelGetAttribute(int *value) { *value = 0; return 0; }
int cuFuncSetAttribute(void) { return 0; }
int cuLibraryGetGlobal(void **at, unsigned long *bytes) { *at = &thing; *bytes = 0; return 0; }
int cuGetProcAddress_v2(const char *name, void **at, int version, unsigned long flags, int *found) {
    static void *own;
    (void)version, (void)flags;
    own = own ? own : dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *at = dlsym(own, name);
    if (found) *found = *at ? 0 : 1;
    return *at ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **at, int version, unsigned long flags) {
    return cuGetProcAddress_v2(name, at, version, flags, 0);
}
CODE
sed -n 's/^int \(cu[A-Za-z0-9_]*\)(.*/\1/p' "$dir/libcuda.c" >"$dir/made"
nm -D --defined-only "$stub" | awk '$2 == "T" { print $3 }' | grep -vxFf "$dir/made" |
    sed 's/.*/int &(void); int &(void) { return 34; }/' >>"$dir/libcuda.c" # CUDA_ERROR_STUB_LIBRARY
${CC:-cc} -shared -fPIC -w "$dir/libcuda.c" -Wl,-soname,libcuda.so.1 -o "$dir/libcuda.so.1"
LD_LIBRARY_PATH="$dir:${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(dirname "$(dirname "$stub")")" "$1"
