#!/bin/sh
# hosts.sh [-r RATE] [-l LINKS] [-o] HOSTS RANKS COMMAND...: mpirun over several hosts on one machine, RANKS ranks on
# each; with -o COMMAND itself, once, on the first host, with $HOSTS and $AGENT for run.sh's --hosts and
# --agent. A host is a network namespace with a name of its own (host0, host1, ...), its own /dev/shm and
# a link to a switch, which takes RATE (of tc, such as 1gbit; else what it can) each way; with -l several,
# each to a switch of its own and with an address in its network. The hosts of
# process N are the namespaces ls-N-0, ls-N-1, ...: `ip netns pids ls-N-1`.
#
# Exit status of mpirun; 77 and "skipped: why" where namespaces cannot be made. All is torn down at
# the end, also after a signal, and what a killed run has left by the next.
set -eu
rate= once= links=1
while :; do
    case "${1:-}" in
    -r) rate=$2 && shift 2 ;;
    -l) links=$2 && shift 2 ;;
    -o) once=yes && shift ;;
    *) break ;;
    esac
done
[ $# -ge 3 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
hosts=$1 ranks=$2
shift 2
id=ls-$$
work=

skip() {
    echo "skipped: $*"
    exit 77
}

# remove ID: the namespaces of a run, and what runs in them.
remove() {
    for ns in $(ip netns list 2>/dev/null | sed -n "s/^\($1-[0-9s]*\).*/\1/p"); do
        pids=$(ip netns pids "$ns" 2>/dev/null || true)
        # shellcheck disable=SC2086
        [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
        ip netns del "$ns" 2>/dev/null || true
    done
}
tear_down() {
    trap '' INT TERM HUP
    remove "$id"
    [ -z "$work" ] || rm -rf "$work"
}

command -v ip >/dev/null && command -v tc >/dev/null || skip "iproute2 is not installed"
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for stale in $(ip netns list 2>/dev/null | sed -n 's/^ls-\([0-9]*\)-s.*/\1/p'); do
    kill -0 "$stale" 2>/dev/null || remove "ls-$stale"
done
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
work=$(mktemp -d)

# large_packets NAMESPACE DEVICE: of 128 KiB, where the kernel has such (BIG TCP, Linux 6.3). The limit below wakes a
# processor for each packet, which an adapter would not. iproute2 can say it from 6.3 on, too.
large_packets() {
    ip netns exec "$1" python3 - "$2" <<'EOF'
import socket, struct, sys

GSO, GRO, GSO_IPV4, GRO_IPV4 = 41, 58, 63, 64  # IFLA_*_MAX_SIZE
RTM_NEWLINK, NLM_F_REQUEST = 16, 1
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
    for attribute in GSO, GRO, GSO_IPV4, GRO_IPV4:
        body = struct.pack("=BBHiIIHHI", 0, 0, 0, socket.if_nametoindex(sys.argv[1]), 0, 0, 8, attribute, 128 << 10)
        kernel.send(struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST, 0, 0) + body)
EOF
}
# connect HOST LINK: eth0 to port0 of switch0 for host 0, eth1 to port0-1 of switch1 for its second link.
connect() {
    ns=$id-$1 eth=eth$2 port=port$1
    [ "$2" = 0 ] || port=$port-$2
    ip link add "$eth" netns "$ns" type veth peer name "$port" netns "$id-s" || return
    ip -n "$id-s" link set "$port" master "switch$2" up || return
    ip -n "$ns" addr add "10.77.$2.$(($1 + 1))/24" dev "$eth" && ip -n "$ns" link set "$eth" up || return
    if [ -n "$rate" ]; then
        large_packets "$ns" "$eth" && large_packets "$id-s" "$port" || return
        limit="root tbf rate $rate burst 160kb latency 20ms"
        # shellcheck disable=SC2086
        tc -n "$ns" qdisc add dev "$eth" $limit || return
        # What one of two hosts receives is what the other was allowed to send; a limit takes processor time, which
        # no switch would take from the hosts.
        # shellcheck disable=SC2086
        [ "$hosts" -le 2 ] || tc -n "$id-s" qdisc add dev "$port" $limit || return
    fi
}
make_hosts() {
    ip netns add "$id-s" || return
    for link in $(seq 0 $((links - 1))); do
        ip -n "$id-s" link add "switch$link" type bridge && ip -n "$id-s" link set "switch$link" up || return
    done
    host=0
    while [ $host -lt "$hosts" ]; do
        ip netns add "$id-$host" && ip -n "$id-$host" link set lo up || return
        for link in $(seq 0 $((links - 1))); do
            connect "$host" "$link" || return
        done
        # The same everywhere; what else a machine may have chosen needs exact times of its packets.
        for control in cubic reno; do # a namespace may set those that the machine allows
            ip netns exec "$id-$host" sh -c "echo $control >/proc/sys/net/ipv4/tcp_congestion_control" 2>/dev/null && break
        done
        host=$((host + 1))
    done
    unshare --uts --mount true
}
why=$(make_hosts 2>&1) || skip "no network namespaces here: $why"

# on HOST COMMAND...: there, with the host's name and shared memory.
cat >"$work/on" <<EOF
#!/bin/sh
host=\$1
shift
exec ip netns exec $id-\$host unshare --uts --mount sh -c '
    hostname host\$0 && mount -t tmpfs tmpfs /dev/shm && exec "\$@"' "\$host" "\$@"
EOF
# What mpirun takes for ssh: ADDRESS WORDS..., which a shell reads. As over a network: a host that can be
# reached refuses a connection.
cat >"$work/agent" <<EOF
#!/bin/sh
bash -c ": >/dev/tcp/\$1/9" 2>&1 | grep -q refused || exit 255
host=\$((\${1##*.} - 1))
shift
exec $work/on \$host sh -c "\$*"
EOF
chmod +x "$work/on" "$work/agent"

where= host=0
while [ $host -lt "$hosts" ]; do
    where=$where${where:+,}10.77.0.$((host + 1)):$ranks
    host=$((host + 1))
done
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_execute_quiet=1
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
status=0
# In the background, so that signals are acted on while it runs.
if [ "$once" ]; then
    HOSTS=$where AGENT=$work/agent "$work/on" 0 "$@" &
    wait $! || status=$?
    exit $status
fi
export OMPI_MCA_plm=rsh OMPI_MCA_plm_rsh_agent="$work/agent" PRTE_MCA_plm=ssh PRTE_MCA_plm_ssh_agent="$work/agent"
# The first by its name: by an address Open MPI 5 counts one slot of it, whatever is said.
"$work/on" 0 mpirun --oversubscribe --bind-to none \
    --mca btl_base_warn_component_unused 0 -x OMP_NUM_THREADS -x ASAN_OPTIONS -H "host0:${where#*:}" -n $((hosts * ranks)) "$@" &
wait $! || status=$?
exit $status
