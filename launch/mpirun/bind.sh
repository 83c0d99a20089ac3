#!/bin/sh
# bind.sh PROGRAM ARGS...: started as one rank on a GPU node, keeps it on the processors of its GPU's NUMA
# node and tells UCX and NCCL's users which network adapters are nearest; then runs the program.
#
# The GPU is the one that lockstep takes: of those that CUDA_VISIBLE_DEVICES leaves, that of the rank's number on
# its host, or the only one. nvidia-smi gives its PCI address, the rest is in /sys (LOCKSTEP_SYS names another
# root). What cannot be found out is left alone.
set -u
local_rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-0}}
sys=${LOCKSTEP_SYS:-/sys}
mine() { # of the lines on stdin
    awk -v n="$((local_rank + 1))" '{ line[NR] = $1 } END { print NR == 1 ? line[1] : line[n] }'
}
addresses() { nvidia-smi "$@" --query-gpu=pci.bus_id --format=csv,noheader 2>/dev/null | tr 'A-F' 'a-f'; }
if [ -n "${CUDA_VISIBLE_DEVICES-}" ]; then
    address=$(addresses -i "$(echo "$CUDA_VISIBLE_DEVICES" | tr , '\n' | mine)")
else
    address=$(addresses | mine)
fi
# Eight digits of domain there, four in /sys.
address=${address#0000}
device=$sys/bus/pci/devices/$address
[ -n "$address" ] && [ -e "$device" ] || exec "$@"

# How much of the path from the root of the PCI tree two devices share: adapters behind the same switch
# share most.
path=$(readlink -f "$device")
shared_parts() {
    echo "$path/ $(readlink -f "$1")/" | awk '{ n = split($1, a, "/"); split($2, b, "/"); for (i = 1; i <= n && a[i] == b[i]; i++); print i - 1 }'
}
node=$(cat "$device/numa_node" 2>/dev/null || echo -1)
best=0 near=
for adapter in "$sys"/class/infiniband/*; do
    [ -e "$adapter/device" ] || continue
    same=$(shared_parts "$adapter/device")
    [ "$(cat "$adapter/device/numa_node" 2>/dev/null || echo -1)" != "$node" ] || same=$((same + 100))
    if [ "$same" -gt "$best" ]; then
        best=$same near=
    fi
    [ "$same" -lt "$best" ] || near=$near${near:+,}${adapter##*/}
done
# NCCL looks at the PCI tree itself; UCX takes what it is told.
if [ -n "$near" ] && [ -z "${UCX_NET_DEVICES-}" ]; then
    UCX_NET_DEVICES=$(echo "$near" | sed 's/,/:1,/g'):1
    export UCX_NET_DEVICES
fi
processors=$(cat "$device/local_cpulist" 2>/dev/null)
if [ -n "$processors" ] && command -v taskset >/dev/null; then
    exec taskset -c "$processors" "$@"
fi
exec "$@"
