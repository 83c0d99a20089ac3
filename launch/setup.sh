#!/bin/sh
# setup.sh [--tests]: installs what is missing (Debian packages), configures and builds
# build/release. --tests also installs what the tests use, and builds them and the benchmarks.
# Can be run again; works from any directory. Without apt it says what is missing.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

packages="build-essential cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libdnnl-dev
          libhdf5-dev libzstd-dev libyaml-dev libjansson-dev libssl-dev libxxhash-dev
          libisal-dev libpcre2-dev libutf8proc-dev"
test_packages="hdf5-tools python3-h5py python3-jsonschema clang libclang-rt-dev libomp-dev clang-format man-db gcc-aarch64-linux-gnu
               libc6-dev-arm64-cross qemu-user procps slurmctld slurmd slurm-client munge prometheus
               iproute2"
# x86 only; elsewhere checkpoints are hashed more slowly.
[ "$(uname -m)" != x86_64 ] || packages="$packages libipsec-mb-dev"
testing=
case "$*" in
'') [ -e "$root/build/release/CMakeCache.txt" ] || testing=OFF ;; # else as it was
--tests) packages="$packages $test_packages" testing=ON ;;
-h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
    exit 0
    ;;
*)
    echo "setup: '$*' is unknown; --tests is what there is" >&2
    exit 2
    ;;
esac

missing_packages() {
    for package in $packages; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
            printf '%s ' "$package"
    done
}

install_packages() {
    wanted=$(missing_packages)
    [ -n "$wanted" ] || return 0
    sudo=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: these packages are missing and need root to install: $wanted" >&2
            exit 3
        }
        sudo=sudo
    fi
    echo "setup: installing $wanted" >&2
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get update -q >&2
    # shellcheck disable=SC2086
    $sudo apt-get install -y -q --no-install-recommends $wanted >&2
}

# A system without apt: name the tools and libraries that are not there.
check_by_hand() {
    absent=
    for tool in cc cmake ninja pkg-config mpicc mpirun; do
        command -v "$tool" >/dev/null || absent="$absent $tool"
    done
    if command -v pkg-config >/dev/null; then
        for module in yaml-0.1 jansson libzstd libcrypto libxxhash libisal libpcre2-8 libutf8proc; do
            pkg-config --exists "$module" || absent="$absent $module"
        done
    fi
    for header in oneapi/dnnl/dnnl.h; do
        echo "#include <$header>" | cc -E - >/dev/null 2>&1 || absent="$absent $header(oneDNN)"
    done
    command -v h5cc >/dev/null || command -v h5pcc >/dev/null || absent="$absent h5cc(HDF5)"
    if [ -n "$absent" ]; then
        echo "setup: this system has no apt-get, and these are missing:$absent" >&2
        echo "setup: install them with the system's package manager, then run this again" >&2
        exit 3
    fi
}

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    install_packages
else
    check_by_hand
fi

cd "$root"
log=$(cmake --preset release -G Ninja ${testing:+-DBUILD_TESTING=$testing} ${LS_CMAKE_ARGS:-} 2>&1) || {
    printf '%s\n' "$log" >&2
    exit 3
}
cmake --build --preset release >&2
