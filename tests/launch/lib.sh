# Shared by the shell tests: sourced, with $LOCKSTEP naming the binary.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
checks=0
told=
# Says why there was no last word, and ends what is still running, which would go on for ever.
end() {
    ended_with=$?
    case $ended_with:$told in
    0: | 77: | *:yes) ;;
    *) echo "FAILED: after $checks checks, with $ended_with of a command between them or of a signal" >&2 ;;
    esac
    jobs -p >"$work/jobs"
    while read -r job; do
        kill -9 "$job" 2>/dev/null || true
    done <"$work/jobs"
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT # a shell that dies of a signal runs no EXIT trap
trap 'exit 143' TERM HUP
export OMP_NUM_THREADS=1
[ -x "${LOCKSTEP:-}" ] || { echo "LOCKSTEP does not name the binary" >&2; exit 1; }

fail() {
    told=yes
    echo "FAILED: $*" >&2
    [ ! -s "$work/out" ] || sed 's/^/  stdout: /' "$work/out" >&2
    [ ! -s "$work/err" ] || tail -n 30 "$work/err" | sed 's/^/  stderr: /' >&2
    exit 1
}

# gives STATUS COMMAND...: runs it with stdout and stderr in $work/out and $work/err.
gives() {
    expected=$1
    shift
    status=0
    "$@" >"$work/out" 2>"$work/err" || status=$?
    checks=$((checks + 1))
    [ "$status" = "$expected" ] || fail "exit status $status, expected $expected: $*"
}

# says TEXT / prints TEXT: the last command wrote it to stderr / stdout (a basic regular expression).
says() {
    checks=$((checks + 1))
    grep -q -e "$1" "$work/err" || fail "stderr lacks '$1'"
}
prints() {
    checks=$((checks + 1))
    grep -q -e "$1" "$work/out" || fail "stdout lacks '$1'"
}
holds() {
    checks=$((checks + 1))
    "$@" || fail "not true: $*"
}

fails() {
    checks=$((checks + 1))
    ! "$@" || fail "true: $*"
}

ranks() { # ranks N COMMAND...
    "$root/tests/mpirun.sh" "$@"
}

# A small corpus and a tiny model for tests of the training run: $data, $tiny. Its ranks may be without a processor for
# seconds, beside other work, and are not taken for stopped.
make_corpus() {
    mkdir "$work/text"
    i=0
    while [ $i -lt 24 ]; do
        { echo "/* part $i */"; sed -n "$((i * 7 + 1)),$((i * 7 + 60))p" "$root/README.md" "$root/CMakeLists.txt"; } \
            >"$work/text/$i.txt"
        i=$((i + 1))
    done
    data=$work/data
    "$LOCKSTEP" prep "$work/text" -o "$data" --val 0.2 >/dev/null 2>&1
    tiny="model.preset=llama3-tiny model.context=32 data.dir=$data batch.sequences=8 batch.micro=2
          run.dir=$work/runs run.steps=6 schedule.warmup_steps=2 eval.batches=2 optim.lr=1e-3
          faults.min_deadline_s=20"
}

passed() {
    [ "$checks" -gt 0 ] || fail "no check was made"
    echo "$checks checks passed"
}
