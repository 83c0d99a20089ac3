#!/bin/sh
# eval --choices: the likeliest of a question's endings, beside those that a model's logits, fed token by token, give.
# $1: ckpt_logits.
. "$(dirname "$0")/lib.sh"
root=$(cd "$here/../.." && pwd)
make_corpus
# Characters of three bytes, which the model is to find likely byte by byte.
for i in 1 2 3 4 5 6 7 8; do
    for j in 1 2 3 4 5 6 7 8; do echo "part $i ────────────────────────────── $j"; done
done >"$work/lines.txt"
gives 0 "$LOCKSTEP" prep "$work/text" "$work/lines.txt" -o "$work/lines"
# shellcheck disable=SC2086 # one word a setting
gives 0 "$LOCKSTEP" train $tiny data.dir="$work/lines" run.name=asked optim.lr=3e-3 run.steps=60 eval.every=0
gives 0 python3 "$here/choices.py" make "$work/q.jsonl"
gives 0 python3 "$here/choices.py" answer "$work/q.jsonl" "$1" "$work/runs/asked/checkpoints"
cp "$work/out" "$work/expected"
gives 0 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl" --json
cp "$work/out" "$work/alone"
gives 0 python3 "$here/choices.py" compare "$work/expected" "$work/alone" 48
gives 0 ranks 3 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl" --json
holds cmp "$work/alone" "$work/out"
gives 0 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl" --batches 13 --json
cp "$work/out" "$work/some"
gives 0 python3 "$here/choices.py" compare "$work/expected" "$work/some" 13
gives 0 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl" --batches 5
prints '5 questions of'
prints 'acc [0-9.]* +- [0-9.]*, acc_norm [0-9.]* +- [0-9.]* (by chance 0.[0-9]*)'
gives 0 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl"
prints '[0-9] are longer than the model.s context and lost their beginning'

bad() { # bad LINE MESSAGE
    printf '{"ctx": "a", "endings": ["b", "c"], "label": 1}\n\n%s\n' "$1" >"$work/bad.jsonl"
    gives 2 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/bad.jsonl"
    says "bad.jsonl. line 3: $2"
}
bad '[1]' 'no JSON object: another value'
bad '{"ctx": ' 'no JSON object: '
bad '{"context": "a"}' '"ctx" is no text (--fields names'
bad '{"ctx": "a", "endings": ["b"], "label": 0}' '"endings" is no list of two or more endings'
bad '{"ctx": "a", "endings": ["b", ""], "label": 0}' 'an element of "endings" is no text'
bad '{"ctx": "a", "endings": ["b", "c"], "label": 2}' '"label" is no number from 0 to 1'
bad '{"ctx": "a", "endings": ["b", "c"], "label": "1x"}' '"label" is no number from 0 to 1'
printf '\n' >"$work/bad.jsonl"
gives 2 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/bad.jsonl"
says 'has no questions'
printf '{"ctx": "a", "endings": ["%0300d", "c"], "label": 1}\n' 0 >"$work/bad.jsonl"
gives 2 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/bad.jsonl"
says 'ending 0 of question 1 has 301 tokens; the model.s context is 32'
gives 2 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl" --fields a,b
says 'fields needs three names'
gives 2 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/q.jsonl" --data "$data"
says 'leave --data and --micro out'
gives 2 "$LOCKSTEP" eval "$work/runs/asked" --choices "$work/none.jsonl"
says 'none.jsonl'
passed
