#!/bin/sh
# pack.sh BUILD FILE.tar.xz: what tests/gpu.sh runs of a build (with CUDA), with Open MPI and the other shared libraries that it
# needs, for a GPU machine on which nothing can be built or installed. There, in a checkout of the same commit:
#
#   tar -xf FILE.tar.xz && . packed/env.sh && tests/gpu.sh
#
# The machine needs glibc as new as here, the driver, NCCL and cuBLASLt, as PyTorch's packages bring them. NVIDIA's libraries
# are packed with NVIDIA=1 only: they are large. env.sh looks for them beside the python3 of the PATH.
set -eu
[ $# -eq 2 ] || {
    echo "usage: pack.sh BUILD FILE.tar.xz" >&2
    exit 2
}
build=$1 file=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
to=$work/packed
mkdir -p "$to/lib" "$to/bin"
for program in bin/lockstep tests/device/test_kernels tests/gpu/test_cudnn tests/gpu/test_comm_nccl tests/gpu/test_train_gpu \
    tests/layouts/test_layouts benchmarks/gpu/bench_gpu; do
    [ -x "$build/$program" ] || {
        echo "pack.sh: no $build/$program: build all targets, with CUDA" >&2
        exit 1
    }
    mkdir -p "$to/build/$(dirname "$program")"
    strip -o "$to/build/$program" "$build/$program"
done
for program in mpirun orted prted; do
    found=$(command -v $program) || continue
    cp -L "$found" "$to/bin/"
done
# Open MPI and PMIx open their parts by themselves.
for what in openmpi3:mpi pmix:pmix; do
    plugins=$(find /usr/lib /usr/lib64 /usr/local/lib /opt -type d -name "${what%%:*}" -path '*lib*' 2>/dev/null |
        while read -r d; do ls "$d"/*.so >/dev/null 2>&1 && echo "$d"; done | head -n 1)
    [ "$plugins" ] && cp -rL "$plugins" "$to/${what#*:}"
done
for share in /usr/share/openmpi /usr/share/pmix; do
    [ -d $share ] && mkdir -p "$to/share" && cp -rL $share "$to/share/"
done
# All libraries but glibc's own and the driver's.
find "$to" -type f \( -perm -u+x -o -name '*.so*' \) -exec ldd {} + 2>/dev/null |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | while read -r library; do
    case ${library##*/} in
    ld-linux* | libc.so* | libm.so* | libpthread.so* | libdl.so* | librt.so* | libresolv.so* | libutil.so* | libcuda.so*) continue ;;
    libcurl*) ;;
    libnccl* | libcu* | libnv*) [ "${NVIDIA:-}" = 1 ] || continue ;;
    esac
    cp -L "$library" "$to/lib/"
done
strip --strip-unneeded "$to"/lib/*.so* "$to"/mpi/*.so "$to"/pmix/*.so 2>/dev/null || true
cat >"$to/env.sh" <<'ENV'
# To be sourced in the directory that holds `packed`.
packed=$PWD/packed
export GPU_SH_BUILD="$packed/build" PATH="$packed/bin:$PATH" PEER_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
for dir in /usr/local/cuda/lib64 $(python3 -c 'import glob, sysconfig
print(" ".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))' 2>/dev/null); do
    [ -d "$dir" ] && LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir"
done
export LD_LIBRARY_PATH="$packed/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export OPAL_PREFIX="$packed" OPAL_BINDIR="$packed/bin" OPAL_LIBDIR="$packed/lib" OPAL_PKGLIBDIR="$packed" \
    OPAL_PKGDATADIR="$packed/share/openmpi" OPAL_DATADIR="$packed/share" OPAL_SYSCONFDIR="$packed/etc"
export OMPI_MCA_mca_base_component_path="$packed/mpi" PMIX_MCA_mca_base_component_path="$packed/pmix" \
    PMIX_INSTALL_PREFIX="$packed"
ENV
# The programs have most of their bytes in common: far enough back for one to be found in the next.
export XZ_OPT="${XZ_OPT:---lzma2=preset=6,dict=192MiB}"
tar -C "$work" -cJf "$file" packed
ls -l "$file"
