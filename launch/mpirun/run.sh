#!/bin/sh
# run.sh [OPTIONS] PROGRAM ARGS...: mpirun on this machine, on several hosts, or with a rank a GPU.
#
#   launch/mpirun/run.sh -n 2 lockstep train CONFIG.yaml --resume
#   launch/mpirun/run.sh --hostfile hosts lockstep train CONFIG.yaml --resume
#   launch/mpirun/run.sh --hostfile hosts --gpus 8 --cluster dgx-h100 lockstep train CONFIG.yaml --resume
#   launch/supervise --run runs/first launch/mpirun/run.sh --hostfile hosts --elastic lockstep train ...
#
#   -n RANKS          how many; default: all slots of the hosts, or one a GPU
#   --hostfile FILE   lines "HOST slots=N", as for mpirun
#   --hosts A:8,B:8   the same on the command line
#   --gpus N          one rank a GPU, N on each host; "all" counts those of this machine. A rank stays on
#                     the processors and uses the network adapters that are near its GPU (bind.sh)
#   --bind WHERE      none (default: lockstep shares a host's processors out), numa or core
#   --cluster NAME    set what its profile recommends (launch.environment), a name or file.yaml
#   --interface LIST  networks for MPI and NCCL, such as eth0 or 10.0.0.0/8; default: theirs
#   --agent COMMAND   reaches other hosts; default: ssh
#   --elastic         before each start leaves out hosts that do not answer and those that the file
#                     excluded-hosts of the run directory names, and gives what is left the best layout
#                     (lockstep train --fit): the same global batch in the same order
#   --answer SECONDS  for an answer then (10; an ssh that cannot connect gives up after 2)
#   --dry-run         print the command, run nothing
#
# - Works as root (containers) and with more ranks than processors.
# - Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP (a terminal that is closed; nohup keeps it away) become SIGUSR1 for the
#   ranks, so that they finish the step and save; mpirun alone would kill them a second later. A second Ctrl-C ends the job at once.
# - Variables that begin with LOCKSTEP_, OMP_, NCCL_, CUDA_, UCX_, FI_ or HDF5_ go to all hosts.
# - Nothing is left when it ends: no process of this machine's, no file of Open MPI's.
# The exit status is that of the program.
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../ask.sh"
ranks='' hostfile='' hosts='' gpus='' bind=none cluster='' interface='' agent=ssh elastic=no answer=10 dry=no
usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
    exit "$1"
}
refuse() {
    echo "run.sh: $*" >&2
    exit 2
}
whole() { # whole OPTION VALUE
    case "$2" in
    '' | *[!0-9]* | 0) refuse "$1 is '$2'; a whole number from 1 is needed" ;;
    esac
}
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help) usage 0 ;;
    --elastic) elastic=yes ;;
    --dry-run) dry=yes ;;
    -n | --hostfile | --hosts | --gpus | --bind | --cluster | --interface | --agent | --answer)
        [ $# -ge 2 ] || refuse "$1 needs a value; see run.sh --help"
        case "$1" in
        -n) ranks=$2 && whole -n "$2" ;;
        --hostfile) hostfile=$2 ;;
        --hosts) hosts=$2 ;;
        --gpus) gpus=$2 && [ "$2" = all ] || [ "$1" != --gpus ] || whole --gpus "$2" ;;
        --bind) bind=$2 ;;
        --cluster) cluster=$2 ;;
        --interface) interface=$2 ;;
        --agent) agent=$2 ;;
        --answer) answer=$2 && whole --answer "$2" ;;
        esac
        shift
        ;;
    --) shift && break ;;
    -*) refuse "unknown option '$1'; see run.sh --help" ;;
    *) break ;;
    esac
    shift
done
need() { # need COMMAND WHY
    command -v "$1" >/dev/null || refuse "there is no program '$1'$2"
}
[ $# -gt 0 ] || refuse "no program is given, such as: run.sh -n 2 lockstep train CONFIG.yaml; see run.sh --help"
case "$bind" in
none | numa | core) ;;
*) refuse "--bind is '$bind'; none, numa or core" ;;
esac
command -v mpirun >/dev/null || {
    echo "run.sh: mpirun is not installed; on Debian: apt-get install openmpi-bin" >&2
    exit 3
}
if [ "$gpus" = all ]; then
    gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || gpus=0
    [ "$gpus" != 0 ] || refuse "--gpus all: nvidia-smi shows no GPU here; give their number"
fi

# Lines "HOST SLOTS" in $list.
if [ -n "$hostfile" ]; then
    [ -r "$hostfile" ] || refuse "the file of hosts '$hostfile' cannot be read"
    list=$(sed 's/#.*//' "$hostfile" | awk 'NF { n = 1; for (i = 2; i <= NF; i++) if ($i ~ /^slots=/) n = substr($i, 7); print $1, n }')
else
    list=$(echo "$hosts" | tr , '\n' | awk -F: 'NF { print $1, ($2 ? $2 : 1) }')
fi
[ -z "$hostfile$hosts" ] || [ -n "$list" ] || refuse "no host in '$hostfile$hosts'; a line is: HOST slots=N"
wrong=$(echo "$list" | awk 'NF && $2 !~ /^[1-9][0-9]*$/ { print $1 " has \047" $2 "\047"; exit }')
[ -z "$wrong" ] || refuse "host $wrong slots in '$hostfile$hosts'; a whole number from 1 is needed"
wrong=$(echo "$list" | awk '$1 ~ /:/ { print $1; exit }')
[ -z "$wrong" ] || refuse "'$wrong' in '$hostfile' is no host's name; a line is: HOST slots=N"
[ -z "$gpus" ] || list=$(echo "${list:-localhost 0}" | awk -v n="$gpus" '{ print $1, n }')

# The lines on stdin of hosts that answer, which mpirun would wait for, or fail; all are asked at once.
answering() {
    found=$(mktemp) || exit 3
    probe=$agent
    [ "$agent" != ssh ] || probe='ssh -o BatchMode=yes -o ConnectTimeout=2'
    while read -r host slots; do
        {
            [ "$host" = localhost ] || [ "$host" = "$(hostname)" ] || timeout "$answer" $probe "$host" true
        } </dev/null >/dev/null 2>&1 && echo "$host" >>"$found" &
        lines="$lines$host $slots
"
    done
    wait
    echo "$lines" | while read -r host slots; do
        if [ -n "$host" ] && grep -qx -e "$host" "$found"; then
            echo "$host $slots"
        elif [ -n "$host" ]; then
            echo "run.sh: host $host is left out: it does not answer" >&2
        fi
    done
    rm -f "$found"
}
leave_out() { # of the lines on stdin
    excluded=$1/excluded-hosts lines=
    while read -r host slots; do
        if grep -qsx -e "$host" "$excluded"; then
            echo "run.sh: host $host is left out: $excluded names it" >&2
        else
            echo "$host $slots"
        fi
    done | answering
}
[ "$elastic" = no ] || need "$1" "; give its path, or install it"
if [ "$elastic" = yes ] && [ -n "$list" ]; then
    directory=$("$@" --run-dir) || exit
    list=$(echo "$list" | leave_out "$directory")
    [ -n "$list" ] || { echo "run.sh: no host is left" >&2 && exit 3; }
fi
slots=$(echo "$list" | awk '{ n += $2 } END { print n + 0 }')
[ -n "$ranks" ] || ranks=$slots
[ "$ranks" != 0 ] || refuse "how many ranks? Give -n RANKS, --hostfile, --hosts or --gpus"
if [ "$elastic" = yes ]; then
    [ "$slots" = 0 ] || [ "$ranks" -le "$slots" ] || ranks=$slots
    # The program's own answer: a number of ranks, and the settings that it needs for them.
    layout=$("$@" --fit --ranks "$ranks") || exit
    ranks=${layout%% *}
    [ "$layout" = "$ranks" ] || set -- "$@" ${layout#* }
fi

environment=
if [ -n "$cluster" ]; then
    profile=$cluster
    [ -f "$profile" ] || profile=$here/../clusters/$cluster.yaml
    [ -f "$profile" ] || refuse "no cluster profile '$cluster'; lockstep plan --list shows them"
    environment=$(sed -n "s/^ *environment: *['\"]\{0,1\}\([^'\"]*\)['\"]\{0,1\} *$/\1/p" "$profile")
fi
# An address range is MPI's notation; NCCL wants names.
case "$interface" in
'' | */*) ;;
*) environment="$environment NCCL_SOCKET_IFNAME=$interface" ;;
esac
[ -z "$gpus" ] || [ "$(ulimit -s)" != unlimited ] || ulimit -s 8192 # NVIDIA/nccl issue 2186

if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# mpirun's own words, before those of the program. What Open MPI 4 and 5 name differently goes by both names, in
# variables, which the other one does not mind.
export OMPI_MCA_orte_execute_quiet=1
variables=
give() { # give NAME VALUE: to mpirun, and to --dry-run
    export "$1=$2"
    variables="$variables $1"
}
options="--oversubscribe --mca btl_base_warn_component_unused 0"
case "$bind" in
numa) options="$options --map-by numa --bind-to numa" ;;
core) options="$options --map-by core --bind-to core" ;;
*) options="$options --bind-to none" ;;
esac
# This host by its name: by an address Open MPI 5 counts one slot of it, whatever is said.
addresses=" $(hostname -I 2>/dev/null)"
[ -z "$list" ] || options="$options --map-by slot -H $(echo "$list" | awk -v own="$addresses" -v name="$(hostname)" '
    { printf "%s%s:%s", (NR > 1 ? "," : ""), index(own, " " $1 " ") ? name : $1, $2 }')"
# A command with options of its own is no word of mpirun's line.
if [ "$agent" != ssh ]; then
    give OMPI_MCA_plm rsh && give OMPI_MCA_plm_rsh_agent "$agent"
    give PRTE_MCA_plm ssh && give PRTE_MCA_plm_ssh_agent "$agent"
fi
if [ -n "$interface" ]; then
    options="$options --mca btl_tcp_if_include $interface"
    give OMPI_MCA_oob_tcp_if_include "$interface" && give PRTE_MCA_prte_if_include "$interface"
fi
for pair in $environment; do # what is set already counts more
    name=${pair%%=*}
    eval "value=\${$name-}"
    give "$name" "${value:-${pair#*=}}"
done
for name in $(env | sed -n 's/^\(\(LOCKSTEP\|OMP\|NCCL\|CUDA\|UCX\|FI\|HDF5\)_[A-Za-z0-9_]*\)=.*/\1/p'); do
    options="$options -x $name"
done
[ -z "$gpus" ] || set -- "$here/bind.sh" "$@"
# Words as a shell would read them again.
quoted() {
    for word in "$@"; do
        case "$word" in
        '' | *[!A-Za-z0-9_./:=,+@%-]*) printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s ' "$word" ;;
        esac
    done
}
if [ "$dry" = yes ]; then
    for name in $variables; do printf '%s=%s\\\n' "$name" "$(quoted "$(printenv "$name")")"; done
    line=$(quoted "$@")
    printf '%s\n' "mpirun $options -n $ranks ${line% }"
    exit 0
fi

# What mpirun would end on, without a word when it is quiet.
remote=$(echo "$list" | awk -v here="$(hostname)" 'NF && $1 != "localhost" && $1 != here' | head -n 1)
if [ -z "$remote" ]; then
    need "$1" "; give its path, or install it"
else
    need "${agent%% *}" ", which reaches other hosts; install it, or give --agent"
fi
for network in $(echo "$interface" | tr , ' '); do
    case "$network" in
    */*) ! command -v ip >/dev/null || [ -n "$(ip -o address show to "$network" 2>/dev/null)" ] ;;
    *) [ -e "/sys/class/net/$network" ] ;;
    esac || refuse "--interface: this machine is not on '$network'; it has $(ls /sys/class/net | xargs)"
done

# mpirun hangs when it cannot have some open for each rank of this machine and for itself.
here_most=$(echo "$list" | awk -v n="$ranks" 'NF && $2 > most { most = $2 } END { print most ? most : n }')
files=$((64 + 5 * here_most))
if [ "$(ulimit -S -n)" != unlimited ] && [ "$(ulimit -S -n)" -lt "$files" ]; then
    ulimit -S -n "$files" 2>/dev/null ||
        refuse "$(ulimit -H -n) files may be open at once, and mpirun needs $files for $here_most ranks of a host: raise the hard limit (ulimit -n, or LimitNOFILE= of the service)"
fi

# Open MPI's files of this machine, in places of their own: a killed mpirun leaves them. TMPDIR may be one that other
# machines and users have too.
session="${TMPDIR:-/tmp}/lockstep-mpirun.$(hostname)" shared=/dev/shm/lockstep-mpirun.$(hostname)
for stale in "$session".* "$shared".*; do
    [ ! -O "$stale" ] || kill -0 "${stale##*.}" 2>/dev/null || rm -rf "$stale"
done
session=$session.$$ shared=$shared.$$
mkdir -m 700 "$session" "$shared" || {
    rm -rf "$session" "$shared"
    echo "run.sh: Open MPI's files have no place in ${TMPDIR:-/tmp} and /dev/shm: make them writable; TMPDIR names another directory than the first" >&2
    exit 3
}
if [ -z "$remote" ]; then # by variables: the name of a directory may have spaces
    export OMPI_MCA_orte_tmpdir_base="$session" OMPI_MCA_btl_vader_backing_directory="$shared"
    export PRTE_MCA_prte_tmpdir_base="$session" OMPI_MCA_btl_sm_backing_directory="$shared"
else # other hosts do not have them
    export TMPDIR="$session"
fi

# Ranks that outlive their mpirun: they lie in its session.
end_session() {
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        # shellcheck disable=SC2086
        set -- ${line##*) }
        [ "$4" != "$job" ] || kill -KILL "${line%% *}" 2>/dev/null
    done
}
asked=0
job=
stop() {
    asked=$((asked + 1))
    if [ "$asked" = 1 ]; then
        echo "run.sh: asking the ranks to save and stop; once more to end them at once" >&2
        [ -z "$job" ] || ask_to_stop "$job"
    elif [ -n "$job" ]; then
        # In vain while mpirun waits for a host that is gone.
        kill -TERM "$job" && (sleep 1 && kill -KILL "$job") 2>/dev/null &
    fi
}
trap stop INT TERM
trap 'asked=1; [ -z "$job" ] || ask_to_stop "$job"' USR1 HUP
killed=$(oom_kills)
# shellcheck disable=SC2086
begin_launcher mpirun $options -n "$ranks" "$@"
[ "$asked" = 0 ] || ask_to_stop "$job" # meanwhile
wait_for "$job"
end_asking
end_session
lack=
[ "$status" = 0 ] || lack=$(lack_of_memory "$killed")
[ -z "$lack" ] || echo "run.sh: $lack" >&2
case "$status" in # of the program, or of a signal; others are mpirun's
[0-3] | 75 | 1[2-5][0-9]) ;;
*) echo "run.sh: mpirun has ended with $status; its line (--dry-run) may tell more" >&2 ;;
esac
rm -rf "$session" "$shared"
exit "$status"
