#!/bin/sh
# train.sh LOCKSTEP DIR [STEPS [FILE [PRODUCT]]]: tokens a second of lockstep train on one GPU: GPT-2 124M and 1558M, bf16,
# T=1024, logits in bf16 too as the peers have them, on made-up bytes in DIR; medians of the steps without the first five. Beside
# them, where these are given, torch.compile'd PyTorch ($TORCH_PYTHON, the python of an environment that has it) and llm.c
# ($LLMC_DIR, a checkout with train_gpt2cu built).
# Each with lockstep's own attention and with what numerics.attention=auto takes, cuDNN's where it serves; the rest is of the faster
# of the two. $PEERS: which of "torch.compile llm.c" (both); with $TOKENS, lockstep's tokens a second from an earlier call, they
# alone are run, and the status is 77 where none is there. FILE receives the figures for tests/gpu/report.awk; PRODUCT: TFLOP/s of a
# matrix product, for the share of it. $MODELS is a list of preset:micro-batch:heads:layers:channels; $DEVICE the device (cuda);
# $MODEL_SETTINGS more settings of lockstep, $DATA_BYTES how many bytes are made up.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
lockstep=$1 dir=$2 steps=${3:-30} figures=${4:-/dev/null} product=${5:-}
peers=${PEERS-torch.compile llm.c} ran='' failed=''
mkdir -p "$dir"
: >"$figures"
[ -d "$dir/data" ] || {
    head -c "${DATA_BYTES:-40000000}" /dev/urandom | base64 >"$dir/bytes.txt"
    "$lockstep" prep "$dir/bytes.txt" -o "$dir/data" >/dev/null 2>&1
}

figure() { # figure NAME VALUE least|most LIMIT
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$figures"
}
median() { # of the lines but the first five: column 1, beside column 2 of the same line
    sed 1,5d | sort -g | awk '{ t[NR] = $1; f[NR] = $2 } END { if (NR) print t[int((NR + 1) / 2)], f[int((NR + 1) / 2)] }'
}
ratio() { # ratio A B: A/B, or nothing
    awk -v a="${1:-0}" -v b="${2:-0}" 'BEGIN { if (a > 0 && b > 0) printf "%.3f", a / b }'
}
# beside NAME VARIABLE WHERE COMMAND...: tokens a second of a peer, and lockstep's share of them; skipped where the variable's
# value WHERE is empty. $PEER_LIBRARY_PATH: its LD_LIBRARY_PATH, where lockstep's brings libraries of its own.
beside() {
    name=$1 variable=$2 where=$3
    shift 3
    theirs=
    case " $peers " in *" $name "*) ;; *) return ;; esac
    if [ -z "$where" ]; then
        printf '   %-22s skipped: %s is not set\n' "$name" "$variable"
    else
        ran=1
        theirs=$(LD_LIBRARY_PATH="${PEER_LIBRARY_PATH-${LD_LIBRARY_PATH:-}}" "$@" 2>"$dir/peer.err" | sed -n 's/^tokens_per_second //p') || theirs=
        [ "$theirs" ] || {
            echo "train.sh: $name gave no figure:" >&2
            tail -5 "$dir/peer.err" >&2
            failed=1
        }
        printf '   %-22s %10s tokens/s\n' "$name" "${theirs:--}"
    fi
    figure "$preset: tokens/s, times those of $name" "$(ratio "$tokens" "$theirs")" least 1.1
}

# run_lockstep: of $model's fields; leaves $tokens.
run_lockstep() {
    tokens=0
    for attention in ${ATTENTIONS:-own auto}; do
        run=$preset-$attention
        rm -rf "$dir/runs/$run"
        # shellcheck disable=SC2086 # words
        "$lockstep" train model.preset="$preset" data.dir="$dir/data" run.device="${DEVICE:-cuda}" run.dir="$dir/runs" \
            run.name="$run" run.steps="$steps" batch.micro="$micro" batch.sequences="$((micro * 4))" checkpoint.every=0 \
            checkpoint.at_end=false checkpoint.async=false eval.batches=1 metrics.every=1 numerics.attention="$attention" \
            numerics.logits=compute \
            ${MODEL_SETTINGS-model.vocab=50257} >/dev/null 2>"$dir/$run.err" || {
            tail -10 "$dir/$run.err" >&2
            [ "$attention" = own ] && return 1
            continue
        }
        # shellcheck disable=SC2046 # two words
        set -- $(sed -n 's/.*"tokens_per_second": *\([0-9.e+]*\),.*"flops_per_second": *\([0-9.e+]*\).*/\1 \2/p' \
            "$dir/runs/$run/train.jsonl" | median)
        off=$(sed -n 's/.*"\(device[a-z_]*bytes\)": *\([0-9]*\).*/\1 \2/p' "$dir/runs/$run/ledger.json" |
            awk '{ m[$1] = $2 } END { p = m["device_planned_bytes"]; if (p > 0) { d = m["device_bytes"] / p - 1; printf "%.2f", 100 * (d < 0 ? -d : d) } }')
        by=$(sed -n 's/.*"attention":"\([^"]*\)".*/\1/p' "$dir/runs/$run/starts.jsonl")
        printf '%-25s %10.0f tokens/s %8.1f TFLOP/s of the model, memory within %s %% of the plan, attention by %s\n' "$run" "${1:-0}" \
            "$(awk -v f="${2:-0}" 'BEGIN { print f * 1e-12 }')" "$off" "${by:-?}"
        [ "$(ratio "${1:-0}" "$tokens" | awk '{ print ($1 == "" || $1 > 1) }')" = 0 ] && continue
        tokens=${1:-0} tflops=$(awk -v f="${2:-0}" 'BEGIN { printf "%.1f", f * 1e-12 }') memory=$off
    done
    figure "$preset: device memory beside its plan, % off" "$memory" most 3
    [ -z "$product" ] || figure "$preset: model FLOP/s beside a product's, %" \
        "$(awk -v r="$(ratio "$tflops" "$product")" 'BEGIN { if (r > 0) printf "%.1f", 100 * r }')" least "$([ "$layers" = 48 ] && echo 60 || echo 0)"
    echo "# tokens $preset $(printf %.0f "$tokens")" >>"$figures"
}

for model in ${MODELS:-gpt2-124m:16:12:12:768 gpt2-1558m:8:25:48:1600}; do
    IFS=: read -r preset micro heads layers channels <<ROW
$model
ROW
    if [ "${TOKENS:-}" ]; then tokens=$TOKENS; else run_lockstep || exit 1; fi
    beside torch.compile TORCH_PYTHON "${TORCH_PYTHON:-}" "${TORCH_PYTHON:-}" "$here/torch_gpu.py" "$layers" "$heads" "$channels" \
        "$micro" 1024 4 "$steps" "${DEVICE:-cuda}"
    beside llm.c LLMC_DIR "${LLMC_DIR:-}" "$here/llmc.sh" "${LLMC_DIR:-}" "$dir" "d$layers" "$micro" "$((micro * 4096))" "$steps"
done
[ -z "$failed" ] || exit 1
[ -z "${TOKENS:-}" ] || [ "$ran" ] || exit 77
