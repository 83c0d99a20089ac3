# Sourced by the scripts that start jobs: asking one to stop, which is safe from its first moment on.

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
asker=
ask_to_stop() {
    end_asking
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
# When the process has ended.
end_asking() {
    [ -z "$asker" ] || kill "$asker" 2>/dev/null
}
