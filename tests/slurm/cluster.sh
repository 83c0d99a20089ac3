#!/bin/sh
# cluster.sh start DIR [NODES] | node DIR N | stop DIR: a Slurm cluster of NODES nodes (2) on this machine, for
# tests: munged, slurmctld and a slurmd for each node n1, n2, ... on the loopback interface, all as
# root, with every file of theirs under DIR; `node` starts the slurmd of node N again. SLURM_CONF=DIR/slurm.conf is what clients need.
# Debian's packages slurmctld, slurmd, slurm-client and munge.
set -eu
action=$1
dir=$2
nodes=${3:-2}
cpus=4
# Ports of its own for each cluster, below those that the kernel gives out.
base=$((20000 + $$ % 10000))

configure() {
    host=$(hostname -s)
    cat >"$dir/slurm.conf" <<CONF
ClusterName=loop
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=20
SlurmdTimeout=10
MailProg=/bin/true
# The PMIx plugin keeps TmpFS/spmix_appdir_UID_JOB.STEP, which must differ between the nodes.
TmpFS=$dir/tmp/%n
GresTypes=gpu
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1))-$((base + nodes)) CPUs=$cpus RealMemory=4000 Gres=gpu:8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    echo "Name=gpu File=$dir/gpu[0-7]" >"$dir/gres.conf"
    for gpu in 0 1 2 3 4 5 6 7; do
        mknod "$dir/gpu$gpu" c 1 3 # null devices
    done
}

node() {
    mkdir -p "$dir/spool/n$1" "$dir/tmp/n$1"
    # A host name of its own: Open MPI takes ranks of one host name for neighbours in memory. And mounts of
    # its own, so that a test can take its file systems away; and memory in common, which goes with it.
    SLURM_CONF="$dir/slurm.conf" unshare -u -m sh -c \
        "mount --bind $dir/hosts /etc/hosts; mount -t tmpfs none /dev/shm; hostname n$1 && exec slurmd -N n$1"
}

start() {
    mkdir -p "$dir/munge" "$dir/state" "$dir/spool" "$dir/tmp"
    chmod 755 "$dir" "$dir/munge"
    head -c 1024 /dev/urandom >"$dir/munge/key"
    chmod 600 "$dir/munge/key"
    configure
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge/seed"
    export SLURM_CONF="$dir/slurm.conf"
    # The controller asks for the names of hosts that jobs are started from, and waits for an answer.
    cp /etc/hosts "$dir/hosts"
    echo "127.0.0.1 $(seq -s ' ' -f 'n%g' "$nodes")" >>"$dir/hosts"
    unshare -m sh -c "mount --bind $dir/hosts /etc/hosts; exec slurmctld -c -i"
    for number in $(seq "$nodes"); do
        node "$number"
    done
    tries=0
    until [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$nodes" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || {
            echo "cluster.sh: the nodes did not come up:" >&2
            sinfo -N -l >&2 || true
            tail -n 5 "$dir"/*.log >&2
            exit 1
        }
        sleep 0.1
    done
}

stop() {
    for file in "$dir"/slurmd-*.pid "$dir/slurmctld.pid" "$dir/munged.pid"; do
        [ ! -f "$file" ] || kill "$(cat "$file")" 2>/dev/null || true
    done
    # The step daemons of jobs that still ran outlive their slurmd.
    pkill -KILL -f "slurmstepd.*$dir" 2>/dev/null || true
    for file in "$dir"/slurmd-*.pid "$dir/slurmctld.pid" "$dir/munged.pid"; do
        while [ -f "$file" ] && pid=$(cat "$file") && kill -0 "$pid" 2>/dev/null; do
            sleep 0.1
        done
    done
}

case "$action" in
start | stop) "$action" ;;
node) node "$nodes" ;;
*)
    echo "cluster.sh: '$action' is none of start, node and stop" >&2
    exit 2
    ;;
esac
