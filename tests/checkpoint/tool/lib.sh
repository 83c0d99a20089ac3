# What the shell tests of `lockstep ckpt` share: sourced. Two small runs: $runs/gpt2, $runs/llama.
. "$(dirname "$0")/../../launch/lib.sh"
root=$(cd "$here/../../.." && pwd)

make_runs() {
    make_corpus
    runs=$work/runs
    make_families gpt2 llama
    gpt2=$runs/gpt2/checkpoints
    llama=$runs/llama/checkpoints
}

# The settings of a family's smallest model.
settings_of() {
    case $1 in
    gpt2) echo model.preset=gpt2-tiny ;;
    llama) echo model.preset=llama3-tiny ;;
    mistral) echo model.preset=llama3-tiny model.window=9 ;;
    mixtral) echo model.preset=llama3-tiny model.experts=4 model.window=7 ;;
    qwen2) echo model.preset=llama3-tiny model.qkv_bias=true model.tied=true ;;
    qwen3) echo model.preset=qwen3-tiny model.window=8 model.window_pattern=2 ;;
    qwen3_moe) echo model.preset=qwen3-tiny model.experts=4 model.window=9 ;;
    esac
}

# $runs/FAMILY of these.
make_families() {
    for family; do
        # shellcheck disable=SC2046,SC2086 # one word a setting
        "$LOCKSTEP" train $tiny $(settings_of "$family") run.name="$family" checkpoint.every=2 \
            >"$work/out" 2>"$work/err" || fail "training $family"
    done
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
