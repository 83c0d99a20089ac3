#!/bin/sh
# Text by a tokenizer.json: from prep over training to samples and models for others, which have the file, too.
. "$(dirname "$0")/lib.sh"
cd "$work"
golden=$root/tests/data/golden
stored() { od -An -v -tu2 -j256 "$1" | tr -s ' ' '\n' | sed '/^$/d'; }

# The tokens that its own library gives, document for document, the separator behind each.
python3 - "$golden/llama3" <<'E' >expected
import json, sys
known = [x for x in json.load(open(sys.argv[1] + ".tokens.json")) if "tokens" in x and x["repeat"] == 1 and x["text"]]
separator = next(t["id"] for t in json.load(open(sys.argv[1] + ".json"))["added_tokens"]
                 if t["content"] in ("<|end_of_text|>", "<|endoftext|>"))
with open("text.jsonl", "w") as lines:
    for x in known:
        tokens = x["tokens"][:-1] if x["tokens"] and x["tokens"][-1] == separator else x["tokens"]
        lines.write(json.dumps({"text": x["text"]}) + "\n")
        if tokens:
            print(*tokens, separator, sep="\n")
E
gives 0 "$LOCKSTEP" prep text.jsonl --tokenizer "$golden/llama3.json" --val 0 -o data
stored data/train-00000.tok >found
holds cmp expected found
holds grep -q '"tokenizer": "bpe-[0-9a-f]*",' data/data.json
holds cmp data/tokenizer.json "$golden/llama3.json"
holds grep -q '"bytes": [1-9]' data/data.json
gives 0 "$LOCKSTEP" prep text.jsonl --tokenizer "$golden/llama2.json" --val 0 -o data --force
holds cmp data/tokenizer.json "$golden/llama2.json"

# A document is behind its tokenizer's <s>, once, and the model's texts begin so from there on; unless it is not wanted.
holds grep -q '"begin": 1,' data/data.json
holds [ "$(stored data/train-00000.tok | head -n 1)" = 1 ]
printf '{"text": "<s>one"}\n{"text": "one"}\n' >begun.jsonl
gives 0 "$LOCKSTEP" prep begun.jsonl --tokenizer "$golden/llama2.json" --val 0 -o begun-data
stored begun-data/train-00000.tok | tr '\n' ' ' >found
holds grep -q '^\(1 [^1].* 2 \)\1$' found
gives 0 "$LOCKSTEP" train model.preset=llama3-tiny data.dir=data run.name=begun run.steps=1 batch.sequences=2 model.context=16
gives 0 "$LOCKSTEP" ckpt convert runs/begun --to safetensors -o begun-hf
holds grep -q '"bos_token_id": 1,' begun-hf/config.json
holds grep -q '"eos_token_id": 2,' begun-hf/config.json
holds grep -q '"bos_token": "<s>"' begun-hf/tokenizer_config.json
holds grep -q '"eos_token": "</s>"' begun-hf/tokenizer_config.json
for begin in none 5; do
    gives 0 "$LOCKSTEP" prep text.jsonl --tokenizer "$golden/llama2.json" --begin $begin --val 0 -o data --force
    stored data/train-00000.tok | head -n 1 >>firsts
done
holds [ "$(sed -n 2p firsts)" = 5 ]
holds [ "$(sed -n 1p firsts)" != 1 ]
gives 0 "$LOCKSTEP" prep begun.jsonl --tokenizer "$golden/llama2.json" --begin 5 --val 0 -o begun-otherwise
gives 2 "$LOCKSTEP" train model.preset=llama3-tiny data.dir='begun-data 1; begun-otherwise 1' run.name=mixed run.steps=1 batch.sequences=2
says "before each document 'begun-data' has token 1 and 'begun-otherwise' 5 .*the same --begin$"
gives 2 "$LOCKSTEP" prep text.jsonl --begin 5 -o no
says '--begin is given without --tokenizer'
gives 2 "$LOCKSTEP" prep text.jsonl --tokenizer "$golden/llama2.json" --begin 99999 -o no
says "the token that begins a document is 99999; the tokens of '.*llama2.json' are below [0-9]*$"
gives 0 "$LOCKSTEP" prep text.jsonl --val 0 -o data --force
holds test ! -e data/tokenizer.json

# A file is one document, whatever the number of threads; what is for validation of it is its end.
cat "$root"/launch/*.c "$root"/runtime/*/*.c "$root"/collectives/*.c >long.txt
holds [ "$(wc -c <long.txt)" -gt 1500000 ]
for threads in 1 2 3; do
    gives 0 env OMP_NUM_THREADS=$threads "$LOCKSTEP" prep long.txt --tokenizer "$golden/gpt2.json" --val 0.1 -o long-$threads
    prints '^1 document'
done
holds cmp long-1/train-00000.tok long-2/train-00000.tok
holds cmp long-1/train-00000.tok long-3/train-00000.tok
holds cmp long-1/val-00000.tok long-3/val-00000.tok
python3 -c 'import json; print(json.dumps({"text": open("long.txt").read()}))' >long.jsonl
gives 0 "$LOCKSTEP" prep long.jsonl --tokenizer "$golden/gpt2.json" --val 0.1 -o lines
holds cmp long-1/train-00000.tok lines/train-00000.tok
holds [ "$(python3 -c 'import json; print(sum(s["bytes"] for s in json.load(open("lines/data.json"))["splits"].values()))')" = \
    "$(wc -c <long.txt)" ]
# Short files are shared out among the threads, between long ones and JSONL; the result is that of one thread, and of lines.
mkdir -p "many files"/more
cp "$root"/launch/*.[ch] "many files"
cp long.txt "many files/d long.txt"
printf '{"text": "a line"}\n{"text": "another<|endoftext|>"}\n' >"many files/e.jsonl"
: >"many files/f empty"
printf 'a\0b' >"many files/g.bin"
cp "$root"/checkpoint/*.c "many files/more"
printf '<|endoftext|>' >"many files/more/nothing"
{ cat long.txt; printf '<|endoftext|>'; } >"many files/more/x long.txt"
printf 'the end<|endoftext|>' >"many files/more/z.txt"
python3 - <<'E' >many.jsonl
import json, os, sys
def walk(folder):
    for entry in sorted(os.scandir(folder), key=lambda e: e.name.encode()):
        yield from walk(entry.path) if entry.is_dir() else [entry.path]
for path in walk("many files"):
    text = open(path).read()
    if path.endswith(".jsonl"):
        sys.stdout.write(text)
    elif text and "\0" not in text:
        print(json.dumps({"text": text}))
E
gives 0 "$LOCKSTEP" prep many.jsonl --tokenizer "$golden/gpt2.json" --val 0.1 -o many-lines
for threads in 1 3; do
    gives 0 env OMP_NUM_THREADS=$threads "$LOCKSTEP" prep "many files" --tokenizer "$golden/gpt2.json" --val 0.1 -o many-$threads
    holds cmp many-lines/train-00000.tok many-$threads/train-00000.tok
    holds cmp many-lines/val-00000.tok many-$threads/val-00000.tok
done
gives 0 env OMP_NUM_THREADS=3 OMP_DISPLAY_AFFINITY=true OMP_AFFINITY_FORMAT='one thread' \
    "$LOCKSTEP" prep "many files/more" --tokenizer "$golden/gpt2.json" --include '*.c' -o by-three
holds [ "$(grep -c 'one thread' err)" = 3 ]
mkdir twice
cp long-1/* twice
cp "$root/README.md" twice
gives 0 "$LOCKSTEP" prep twice -o of-twice
prints '^1 document .*, [45] left out (made by prep)$'

# A run keeps the file, and its samples are text.
small="model.preset=gpt2-tiny model.context=32 data.dir=lines batch.sequences=4 run.steps=3 eval.batches=2"
gives 0 "$LOCKSTEP" train $small run.name=a
prints 'bits per byte$'
holds cmp runs/a/checkpoints/tokenizer.json "$golden/gpt2.json"
gives 0 "$LOCKSTEP" sample runs/a --prompt 'static  int' --tokens 8 --temperature 0
prints '^static  int.'
cp out continued
gives 0 "$LOCKSTEP" eval runs/a --data lines
prints 'bits per byte$'
gives 0 "$root/tests/mpirun.sh" 2 "$LOCKSTEP" sample runs/a --prompt 'static  int' --tokens 8 --temperature 0
holds cmp continued out
gives 0 "$LOCKSTEP" sample runs/a --prompt '' --tokens 3
# So are questions.
echo '{"ctx": "static", "endings": ["int", "longer"], "label": 0}' >q.jsonl
gives 0 "$LOCKSTEP" eval runs/a --choices q.jsonl
prints '1 questions of .q.jsonl'
gives 0 sh -c 'printf "static  int" | "$LOCKSTEP" sample runs/a --prompt - --tokens 8 --temperature 0'
holds cmp continued out

# So do models for others, checkpoints made of them, and other shards of a checkpoint.
gives 0 "$LOCKSTEP" ckpt convert runs/a --to safetensors -o hf
holds cmp hf/tokenizer.json "$golden/gpt2.json"
gives 0 "$LOCKSTEP" ckpt convert --from safetensors hf -o theirs
gives 0 "$LOCKSTEP" sample theirs --prompt 'static  int' --tokens 8 --temperature 0
prints '^static  int.'
gives 0 "$LOCKSTEP" ckpt reshard runs/a --ranks 2 -o parts
gives 0 "$LOCKSTEP" sample parts --prompt 'static  int' --tokens 8 --temperature 0
holds cmp continued out
gives 0 "$LOCKSTEP" ckpt convert --from safetensors hf/model.safetensors -o one
holds cmp one/tokenizer.json "$golden/gpt2.json"
sed -i 's/"bos_token_id": [0-9]*/"bos_token_id": 7/' hf/config.json
gives 0 "$LOCKSTEP" ckpt convert --from safetensors hf -o begun
gives 0 "$LOCKSTEP" ckpt convert begun --to safetensors -o again
holds cmp hf/config.json again/config.json
gives 0 "$LOCKSTEP" sample begun --ids 7 --tokens 5 --temperature 0 # what a text begins with there
python3 - "$golden/gpt2.json" out <<'E' >expected
import json, sys
texts = {i: t for t, i in json.load(open(sys.argv[1]))["model"]["vocab"].items()}
plain = [*range(33, 127), *range(161, 173), *range(174, 256)] # GPT-2's characters for bytes
byte = dict(zip(map(chr, plain), plain)) | dict(zip(map(chr, range(256, 324)), sorted(set(range(256)) - set(plain))))
tokens = list(map(int, open(sys.argv[2]).read().split()))[1:]
sys.stdout.buffer.write(bytes(byte[c] for t in tokens for c in texts[t]) + b"\n")
E
gives 0 "$LOCKSTEP" sample begun --prompt '' --tokens 5 --temperature 0
holds cmp expected out
gives 0 "$LOCKSTEP" prep text.jsonl --tokenizer hf -o by-folder # a model's
holds cmp by-folder/tokenizer.json "$golden/gpt2.json"
printf '{"model": {"type": "Unigram", "vocab": []}}' >hf/tokenizer.json
gives 0 "$LOCKSTEP" ckpt convert --from safetensors hf -o other
says "warning: .*hf/tokenizer.json.*Unigram.*; the model's tokens must be made elsewhere$"
holds test ! -e other/tokenizer.json

# The file is gone, given, or another one.
rm runs/a/checkpoints/tokenizer.json
gives 2 "$LOCKSTEP" sample runs/a --prompt x
says "tokenizer is 'bpe-[0-9a-f]*', and its file 'runs/a/.*tokenizer.json' is gone; give it with --tokenizer tokenizer.json"
gives 0 "$LOCKSTEP" sample runs/a --prompt 'static  int' --tokens 8 --temperature 0 --tokenizer "$golden/gpt2.json"
holds cmp continued out
gives 2 "$LOCKSTEP" sample runs/a --prompt x --tokenizer "$golden/llama3.json"
says "llama3.json' is the tokenizer 'bpe-[0-9a-f]*'; that of the checkpoint is 'bpe-[0-9a-f]*'$"
gives 2 "$LOCKSTEP" sample runs/a --ids 5 --tokenizer "$golden/gpt2.json"
gives 0 "$LOCKSTEP" sample runs/a --ids 5 --tokens 2

# What cannot be: each says what to do, and leaves nothing.
gives 2 "$LOCKSTEP" prep long.txt --tokenizer "$golden/gpt2.json" --vocab 300 --separator 1 -o no
says '^lockstep: error: --tokenizer makes tokens of text, and --vocab says that documents are tokens already; give one of them$'
gives 2 "$LOCKSTEP" prep long.txt --tokenizer nowhere.json -o no
says "tokenizer 'nowhere.json' is neither a file nor a folder here; a tokenizer.json, or the folder"
gives 2 "$LOCKSTEP" prep long.txt --tokenizer hf/tokenizer.json -o no
says 'Unigram'
gives 2 "$LOCKSTEP" prep long.txt --tokenizer "$golden/gpt2.json" --separator 99999 -o no
says "the separator is 99999; the tokens of '.*gpt2.json' are below [0-9]*$"
holds test ! -e no
# A model of chats answers in its turn, and ends with it; what the system says decides.
for i in $(seq 60); do
    echo '{"messages": [{"role": "user", "content": "why '$i'?"}, {"role": "assistant", "content": "so be it"}]}'
    echo '{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why '$i'?"},' \
        '{"role": "assistant", "content": "no"}]}'
done >chats.jsonl
gives 0 "$LOCKSTEP" prep chats.jsonl --chat chatml --tokenizer "$golden/qwen2.json" -o chats --val 0
gives 0 "$LOCKSTEP" train model.preset=llama3-tiny model.context=128 data.dir=chats data.document_mask=true \
    batch.sequences=8 run.steps=200 optim.lr=4e-3 schedule.warmup_steps=10 run.name=chats run.threads=1
gives 0 "$LOCKSTEP" sample runs/chats --chat chatml --prompt 'why 7?' --temperature 0
holds [ "$(cat "$work/out")" = 'so be it' ]
gives 0 "$root/tests/mpirun.sh" 2 "$LOCKSTEP" sample runs/chats --chat chatml --prompt 'why 7?' --system 'be brief' \
    --temperature 0
holds [ "$(cat "$work/out")" = no ]
# The token that ends a turn ends texts, here and for others: it is what the model learns to say, not the separator.
end=$(python3 -c 'import json
print(*[t["id"] for t in json.load(open("chats/tokenizer.json"))["added_tokens"] if t["content"] == "<|im_end|>"])')
holds grep -q "\"turn_end\": $end," chats/data.json
gives 0 "$LOCKSTEP" sample runs/chats --prompt '<|im_start|>user
why 7?<|im_end|>
<|im_start|>assistant
' --temperature 0
holds [ "$(tail -n 1 "$work/out")" = 'so be it' ]
gives 0 "$LOCKSTEP" ckpt convert runs/chats --to safetensors -o chats-hf
holds [ "$(python3 -c 'import json; print(json.load(open("chats-hf/config.json"))["eos_token_id"])')" = "[0, $end]" ]
holds grep -q '"eos_token": "<|im_end|>"' chats-hf/tokenizer_config.json
gives 0 "$LOCKSTEP" ckpt convert --from safetensors chats-hf -o chats-back
gives 0 "$LOCKSTEP" ckpt convert chats-back --to safetensors -o chats-again
holds cmp chats-hf/config.json chats-again/config.json
gives 2 "$LOCKSTEP" sample runs/chats --chat llama3 --prompt why
says 'the tokenizer has no token <|start_header_id|>'
gives 2 "$LOCKSTEP" sample runs/chats --system why
says '.-chat says in which format'
gives 2 "$LOCKSTEP" sample runs/chats --chat chatml --ids 5
says '.-chat is for text'
# What form C makes longer: three bytes of text, six of tokens.
seq -f '%.0f' 400 | sed 's/.*/\xe0\xa5\x98/' | tr -d '\n' >longer
gives 0 sh -c '"$LOCKSTEP" sample runs/chats --prompt - --tokens 1 <longer'
passed
