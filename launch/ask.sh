# Sourced by the scripts that start jobs: asking one to stop, which is safe from its first moment on.

# Does the process handle SIGUSR1 by now? Before that the signal would kill it.
handles_usr1() {
    caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null)
    case "${caught%??}" in
    *[2367abef]) return 0 ;;
    esac
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
