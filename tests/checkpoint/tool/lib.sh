# What the shell tests of `lockstep ckpt` share: sourced. Two small runs: $runs/gpt2, $runs/llama.
. "$(dirname "$0")/../../launch/lib.sh"
root=$(cd "$here/../../.." && pwd)

make_runs() {
    make_corpus
    runs=$work/runs
    for family in gpt2 llama; do
        preset=$family-tiny
        [ $family = gpt2 ] || preset=llama3-tiny
        # shellcheck disable=SC2086 # one word a setting
        "$LOCKSTEP" train $tiny model.preset=$preset run.name=$family checkpoint.every=2 >"$work/out" \
            2>"$work/err" || fail "training $family"
    done
    gpt2=$runs/gpt2/checkpoints
    llama=$runs/llama/checkpoints
}

# And $runs/mixtral, for those who convert.
make_mixtral() {
    # shellcheck disable=SC2086 # one word a setting
    "$LOCKSTEP" train $tiny model.preset=llama3-tiny model.experts=4 run.name=mixtral checkpoint.every=2 \
        >"$work/out" 2>"$work/err" || fail "training mixtral"
}

# json EXPRESSION: of the object on stdout in $work/out; python3 reads it where there is one.
json() {
    python3 -c 'import json, sys; o = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' \
        "$work/out" "$1"
}
json_is() {
    command -v python3 >/dev/null || return 0
    checks=$((checks + 1))
    found=$(json "$1")
    [ "$found" = "$2" ] || fail "$1 is '$found', expected '$2'"
}
