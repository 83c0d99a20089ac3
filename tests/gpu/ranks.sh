#!/bin/sh
# ranks.sh RANKS COMMAND...: mpirun on the GPUs of this machine, or those of CUDA_VISIBLE_DEVICES, with a host id of its own
# for each rank, set before NCCL's first call: ranks may share a GPU then, for correctness only, and talk over the
# loopback interface. From 2.30 on NCCL also has a variable that allows it.
count=$1
shift
GPUS=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi -L | sed -n 's/^GPU \([0-9]*\):.*/\1/p' | paste -sd, -)}
export GPUS NCCL_MNNVL_ENABLE=0 NCCL_SOCKET_IFNAME=lo NCCL_MULTI_RANK_GPU_ENABLE=1
# shellcheck disable=SC2016 # expanded by the shell of each rank
exec "$(dirname "$0")/../mpirun.sh" "$count" \
    sh -c 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK
           CUDA_VISIBLE_DEVICES=$(echo "$GPUS" | awk -F, -v r="$OMPI_COMM_WORLD_RANK" "{ print \$(r % NF + 1) }")
           export NCCL_HOSTID CUDA_VISIBLE_DEVICES
           exec "$@"' ranks "$@"
