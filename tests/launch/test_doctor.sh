#!/bin/sh
# `lockstep doctor` on one rank, on several, on a bad directory, and between hosts that do not fit.
. "$(dirname "$0")/lib.sh"
mkdir "$work/runs"
gives 0 "$LOCKSTEP" doctor --dir "$work/runs"
for check in processor memory 'shared memory' 'open files' stack disk speed libraries; do
    prints "^[A-Z]*  $check "
done
holds [ -z "$(ls -A "$work/runs")" ]
gives 0 ranks 3 "$LOCKSTEP" doctor --dir "$work/runs"
prints '^PASS  clock '
prints '^PASS  all-reduce .* over 3 ranks'
prints '^PASS  shared directory '
gives 0 env HDF5_PLUGIN_PATH=/nowhere "$LOCKSTEP" doctor --dir "$work/runs"
prints "^PASS  hdf5 plugin .*export HDF5_PLUGIN_PATH='$(cd "$(dirname "$LOCKSTEP")/../lib/hdf5/plugins" && pwd)'$"
holds [ "$(grep -c '  disk  ' "$work/out")" = 1 ]
holds [ -z "$(ls -A "$work/runs")" ]
# In brief: nothing of what is well, but a line of the host with what its ranks found, which is all.
gives 0 ranks 3 "$LOCKSTEP" doctor --dir "$work/runs" --brief
! grep -q '^PASS' "$work/out" || fail "a PASS line"
holds [ "$(grep -c "^$(hostname): [1-9][0-9]* passed, [0-9]* warned of, 0 failed$" "$work/out")" = 1 ]
holds [ "$(grep -c ' passed, ' "$work/out")" = 1 ]
(ulimit -n 256 && gives 0 "$LOCKSTEP" doctor --brief && prints '^WARN  open files .*256')
# The bandwidth beside that of a profile: of links far slower and far faster than any, and of those that are none of ours.
profile() { # profile GB_S
    cat >"$work/links.yaml" <<PROFILE
sources:
  measured: 'planted'
cluster:
  name: planted
device:
  kind: CPU
  memory_gb: {value: 8, source: measured, date: 2026-11-01}
  hbm_gb_s: {value: 20, source: measured, date: 2026-11-01}
  link_gb_s: {value: $1, source: measured, date: 2026-11-01}
node:
  devices: {value: 3, source: measured, date: 2026-11-01}
  domain_devices: {value: 3, source: measured, date: 2026-11-01}
PROFILE
}
profile 0.001
gives 0 ranks 3 "$LOCKSTEP" doctor --cluster "$work/links.yaml"
prints "^PASS  profile .* of the all-reduce bandwidth of 'planted', 0.00 GB/s"
profile 10000
gives 1 ranks 3 "$LOCKSTEP" doctor --cluster "$work/links.yaml"
prints "^FAIL  profile .*GB/s all-reduce bandwidth, 0.[0-9]*% of the 10000.00 GB/s of 'planted'"
gives 0 ranks 2 "$LOCKSTEP" doctor --cluster dgx-h100
prints "^WARN  profile .*'dgx-h100' is of GPUs"
gives 0 "$LOCKSTEP" doctor --cluster dgx-h100
prints '^WARN  profile .*one rank has no links'
gives 2 "$LOCKSTEP" doctor --cluster "$work/no.yaml"
gives 0 "$LOCKSTEP" doctor --json --dir "$work/runs"
prints '"schema": "lockstep-doctor"'
prints '"fit": true'
gives 0 ranks 2 "$LOCKSTEP" doctor --json --dir "$work/runs"
holds [ "$(grep -c '"check": "clock"' "$work/out")" = 1 ]
gives 1 "$LOCKSTEP" doctor --dir "$work/missing"
prints "^FAIL  disk .*cannot write 32 MiB in '$work/missing'"
says 'not fit to train'
gives 1 "$LOCKSTEP" doctor --json --dir /proc
prints '"fit": false'
(ulimit -s unlimited 2>/dev/null && gives 0 "$LOCKSTEP" doctor && prints '^WARN  stack .*ulimit -s 8192')
(ulimit -n 256 && gives 0 "$LOCKSTEP" doctor && prints '^WARN  open files .*256')
(cd "$work/runs" && gives 0 "$LOCKSTEP" doctor && prints '^WARN  disk .*not examined: .*--dir DIR')
gives 2 "$LOCKSTEP" doctor here
says "'here' is not an option"

# A rank whose clock is an hour behind.
if ! ldd "$LOCKSTEP" | grep -q libasan; then
    mkdir "$work/plant"
    : >"$work/plant/clock-1"
    gives 0 ranks 2 env LD_PRELOAD="$TEST_PLANT" PLANT_DIR="$work/plant" "$LOCKSTEP" doctor
    prints '^WARN  clock .*-3\(599\|600\)\.[0-9] s away from that of rank 0'
    # And one with another version of a library.
    gives 1 ranks 2 env LD_PRELOAD="$TEST_PLANT" PLANT_RANK=1 PLANT_ZSTD=1 "$LOCKSTEP" doctor
    prints '^FAIL  libraries .*not those of rank 0, which has not: zstd  *9.9.9; install'
fi

# GPUs, as the driver's library tells of them.
if [ -e "${TEST_NVML:-}" ]; then
    gpus() { # gpus STATUS LINES...
        expected=$1
        shift
        printf '%s\n' 'gpus 0 2' "$@" >"$work/gpus"
        gives "$expected" env LOCKSTEP_NVML="$TEST_NVML" EMULATED_NVML="$work/gpus" "$LOCKSTEP" doctor
    }
    healthy='name 0 NVIDIA H100'
    gpus 0 "$healthy"
    prints '^PASS  gpu .*2 x NVIDIA H100.*no errors'
    gpus 0 "$healthy" 'clock.1 0 345' 'max_clock.1 0 1980' 'power 0 72000' 'temperature.0 0 31' 'energy 0 12300000000'
    prints '^PASS  gpu .*no throttling; GPU 0: SM 345 of 1980 MHz, 72 W, 31 C, so far 12.3 MJ'
    gpus 1 'ecc_uncorrected 1 3'
    prints '^FAIL  gpu .*GPU 1 .*3 uncorrectable memory errors'
    gpus 0 'throttle 0 64'
    prints '^WARN  gpu .*GPU 0 .*thermal, by the hardware'
    gpus 1 'xid 1 79'
    prints '^FAIL  gpu .*GPU 1 .*Xid 79'
fi

# NVLink domains, from a stand-in for the driver.
if [ "${TEST_NVML:-}" ]; then
    export LOCKSTEP_NVML="$TEST_NVML" EMULATED_NVML="$work/gpus"
    printf '%s\n' 'gpus 0 1' 'driver 0 570.86.15' 'name 0 NVIDIA GB200' 'fabric_state 0 3' \
        'fabric_cluster 0 00112233445566778899aabbccddeeff' 'fabric_clique 0 7' >"$EMULATED_NVML"
    ranks 2 "$LOCKSTEP" doctor >"$work/out" 2>&1 || true # other checks may find faults of the stand-in
    prints '^PASS  NVLink domains .*1 for 2 ranks; that of rank 0 has 2 of them'
    prints '^PASS  gpu .*in NVLink domain 00112233..., clique 7, healthy'
    sed -i 's/fabric_state 0 3/fabric_state 0 2/' "$EMULATED_NVML"
    export NCCL_MNNVL_ENABLE=1
    gives 1 ranks 2 "$LOCKSTEP" doctor
    prints '^FAIL  NVLink domains .*asks for NVLink between hosts'
    unset NCCL_MNNVL_ENABLE LOCKSTEP_NVML EMULATED_NVML
fi

# Shared memory that has no room even for the ranks' messages, as in a container: Open MPI would hang there.
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
    gives 1 unshare -m sh -c 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"' sh "$root/launch/mpirun/local.sh" 2 "$LOCKSTEP" doctor
    prints '^FAIL  transport .*/dev/shm has no room for 2 x [0-9]* bytes'
    prints '^FAIL  shared memory .* are free in /dev/shm'
    prints '^PASS  all-reduce .*(mpi, 32 MiB)'
fi

# A rank that sees another directory under the same name, as on nodes without a shared file system.
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
    cat >"$work/rank" <<RANK
#!/bin/sh
[ "\$OMPI_COMM_WORLD_RANK" != 1 ] || mount -t tmpfs none "$work/runs"
exec "$LOCKSTEP" doctor --dir "$work/runs"
RANK
    chmod +x "$work/rank"
    gives 1 ranks 2 unshare -m "$work/rank"
    prints "^FAIL  shared directory .*is not the one that rank 0 sees"
else
    echo "skipped in part: a file system of a rank's own needs root"
fi
passed
