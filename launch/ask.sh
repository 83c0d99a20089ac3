# Sourced by the scripts that start jobs: asking one to stop, which is safe from its first moment on; and why it was
# killed.

asker= reaper=

# begin_launcher COMMAND...: as $job in the background, in a session of its own, so that a terminal's Ctrl-C reaches
# this script only. mpirun and srun ignore SIGUSR1 then as long as they do not handle it: before that, and at their end, when they
# do not any more. Not so a script, which could never handle it.
begin_launcher() {
    (
        case "${1##*/}" in
        mpirun | mpiexec | srun) trap '' USR1 ;;
        esac
        exec setsid "$@"
    ) &
    job=$!
    reaper=
    case "${1##*/}" in
    mpirun | mpiexec)
        end_bereft "$job" </dev/null >/dev/null &
        reaper=$!
        ;;
    esac
}

# is_state PROCESS LETTER: as proc(5) tells.
is_state() {
    stat=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null
    case "${stat##*) }" in
    "$2 "*) return 0 ;;
    esac
    return 1
}
# Waits until mpirun waits for itself; fails when that has ended. A rank lost while it connects to PMIx can do this: mpirun
# destroys a message twice, and sleeps for ever on its lock. All its processes are dead, reaped or not. Without any, as an
# mpirun whose ranks are on other hosts, it must be a lock that it sleeps on: at work it polls. Six seconds of that count.
is_bereft() {
    trap 'kill $! 2>/dev/null; exit' TERM # the sleep
    seconds=0
    while [ "$seconds" -lt 6 ]; do
        sleep 2 &
        wait $!
        kill -0 "$1" 2>/dev/null || return
        seconds=$((seconds + 2)) children= place=
        { read -r children <"/proc/$1/task/$1/children"; } 2>/dev/null
        { read -r place <"/proc/$1/wchan"; } 2>/dev/null
        is_state "$1" S || seconds=0
        case "$children:$place" in
        :*futex*) ;;
        :*) seconds=0 ;;
        esac
        for child in $children; do
            is_state "$child" Z || seconds=0
        done
    done
}
end_bereft() {
    is_bereft "$1" && echo "mpirun does not end, though its processes have: killed" >&2 && kill -KILL "$1"
}

# Does the process handle SIGUSR1 by now, or wait for it (srun blocks it, and asks)? Before that the signal
# would kill it.
handles_usr1() {
    for mask in $(sed -n 's/^Sig\(Cgt\|Blk\):[[:space:]]*//p' "/proc/$1/status" 2>/dev/null); do
        case "${mask%??}" in
        *[2367abef]) return 0 ;;
        esac
    done
    return 1
}

# ask_to_stop PROCESS: SIGUSR1 as soon as it is handled, after 5 seconds in any case; and again every
# second while the process is there: a launcher that has not started its ranks yet forgets it.
ask_to_stop() {
    [ -z "$asker" ] || kill "$asker" 2>/dev/null
    (
        tries=50
        until handles_usr1 "$1" || [ "$tries" = 0 ] || ! kill -0 "$1"; do
            sleep 0.1
            tries=$((tries - 1))
        done
        kill -USR1 "$1"
        while sleep 1 && handles_usr1 "$1"; do
            kill -USR1 "$1"
        done
    ) </dev/null >/dev/null 2>&1 &
    asker=$!
}
# Waits for the process, through signals; leaves its status in $status.
wait_for() {
    while :; do
        wait "$1"
        status=$?
        kill -0 "$1" 2>/dev/null || break
    done
}
# When the process has ended.
end_asking() {
    # shellcheck disable=SC2086
    [ -z "$asker$reaper" ] || kill $asker $reaper 2>/dev/null
}

# How many processes of this one's memory cgroup the kernel has killed for lack of memory so far.
oom_kills() {
    while IFS=: read -r _ controllers path; do
        case "$controllers" in
        memory) sed -n 's/^oom_kill //p' "/sys/fs/cgroup/memory$path/memory.oom_control" ;;
        '') sed -n 's/^oom_kill //p' "/sys/fs/cgroup$path/memory.events" ;;
        esac
    done </proc/self/cgroup 2>/dev/null | awk '{ n += $1 } END { print n + 0 }'
}
# lack_of_memory BEFORE: what there is to say when it has killed one since; else nothing.
lack_of_memory() {
    [ "$(oom_kills)" -le "$1" ] ||
        echo "the kernel has killed a process of this job for lack of memory: lower batch.micro, use parallel.zero or recompute.mode, or raise the job's memory limit"
}
