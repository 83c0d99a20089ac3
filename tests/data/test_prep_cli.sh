#!/bin/sh
# lockstep prep as people call it: summary, JSON, standard input, refusals, and a stop on request.
. "$(dirname "$0")/../launch/lib.sh"
cd "$work"
mkdir text
printf 'int main(void);\n' >text/a.c
printf 'int b;\n' >text/b.h
printf 'a\0b' >text/c.bin

gives 0 "$LOCKSTEP" prep text -o data --val 0.5
prints '^2 documents (23 B) from 2 files, 1 skipped (binary)$'
prints '^train: .* tokens in 1 shard$'
prints '^val: .* tokens in 1 shard$'
prints 'Next: lockstep train CONFIG.yaml data.dir=data'
holds test -s data/train-00000.tok
gives 0 "$LOCKSTEP" prep text -o 'more data' --val 0.5
prints "^Next: .* data.dir='more data'$"
gives 0 "$LOCKSTEP" prep --json text -o data --force --include '*.c' --val 0 --shard-tokens 4096
prints '"documents": 1,'
prints '"targets": 17,'
prints '"shards": 1'
holds test ! -e data/val-00000.tok
gives 2 "$LOCKSTEP" prep text -o data
says "'data' exists; choose another directory, or replace it with --force"

# The loss of answers alone.
seq 200 | sed 's/.*/{"question": "why &? ", "answer": "so&"}/' >pairs.jsonl
gives 0 "$LOCKSTEP" prep pairs.jsonl --prompt question --field answer -o answers --val 0.1
prints '^200 documents (892 B of targets) from 1 file$'
prints '^train: 2.51 k tokens in 1 shard, 39.3 % of them targets$'
gives 0 "$LOCKSTEP" train model.preset=gpt2-tiny data.dir=answers data.sequence=32 batch.sequences=4 run.steps=2 run.name=pairs
says '2.51 k tokens of data, 39.3 % of them targets;'
prints '^validation loss [0-9.]*, [0-9.]* bits per byte$'
gives 0 "$LOCKSTEP" eval runs/pairs --data answers
prints '^1[0-9][0-9] targets of '
gives 2 "$LOCKSTEP" prep pairs.jsonl --loss-mask question -o none
says 'a loss mask is for documents that are tokens already'

# Chats: what the assistant says is learnt.
golden=$root/tests/data/golden
seq 100 | sed 's/.*/{"id": &, "messages": [{"role": "user", "content": "why &?"}, {"role": "assistant", "content": "so&"}]}/' >chats.jsonl
gives 0 "$LOCKSTEP" prep chats.jsonl --chat chatml --tokenizer "$golden/qwen2.json" -o chats --val 0.1
prints '^100 documents .* of targets) from 1 file$'
prints '^train: .*[0-9] % of them targets$'
holds grep -q '"chat": "chatml"' chats/data.json
gives 0 "$LOCKSTEP" train model.preset=llama3-tiny data.dir=chats data.sequence=32 batch.sequences=4 run.steps=2 run.name=chats
gives 2 "$LOCKSTEP" prep chats.jsonl --chat llama3 --tokenizer "$golden/qwen2.json" -o none
says 'the tokenizer has no token <|start_header_id|>'
gives 2 "$LOCKSTEP" prep chats.jsonl --chat chatml -o none
says "a chat is written with tokens of the tokenizer's own: give --tokenizer"
holds test ! -e none

# What cannot be parted as was asked is told, and what can be is not.
mkdir uneven
for i in 1 2 3; do
    head -c $((i * 5000)) /dev/zero | tr '\0' "$i" >uneven/$i.txt
done
gives 0 "$LOCKSTEP" prep uneven -o uneven-data --val 0.01
says '[1-5][0-9.]* % of the tokens are for validation, asked for are 1 %: each of the 3 documents goes whole'
printf a >small.txt
gives 0 "$LOCKSTEP" prep small.txt -o small-data
says '0 % of the tokens are for validation, asked for are 1 %: the only document is small; give more text$'
gives 0 "$LOCKSTEP" prep uneven -o uneven-data --val 0 --force
holds sh -c '! grep -q warning err'
seq 20000 | sed 's/.*/{"text": "document &"}/' >even.jsonl
gives 0 "$LOCKSTEP" prep even.jsonl -o even-data --val 0.1
holds sh -c '! grep -q warning err'

printf '{"body": "one"}\n{"body": "two"}\n' >lines
gives 0 "$LOCKSTEP" prep - -o from-stdin --field body <lines
prints '^2 documents (6 B)'
gives 2 "$LOCKSTEP" prep - -o other <lines
says "'standard input', line 1: no field 'text' (the first field is 'body'); choose with --field"

# Tokens of another tokenizer: as they are, two bytes each or four, the separator once after each document.
stored() { od -An -v -tu"$1" -j256 "$2" | xargs; }
printf '{"n": 3, "ids": [5, 6, 9]}\n\n{"ids": [7]}\n{"ids": []}\n{"ids": [9]}\n' >ids.jsonl
gives 0 "$LOCKSTEP" prep ids.jsonl --field ids --vocab 10 --separator 9 --val 0 -o ids
prints '^2 documents from 1 file$'
prints '^train: 5 tokens'
holds test "$(stored 2 ids/train-00000.tok)" = '5 6 9 7 9'
holds grep -q '"vocab": 10' ids/data.json
holds grep -q '"separator": 9' ids/data.json
printf '{"ids": [0, 69998, 2, 3, 4, 5, 6, 65536, 8, 9]}\n' >long.jsonl
gives 0 "$LOCKSTEP" prep - --field ids --vocab 70000 --separator 69999 --val 0.2 -o wide <long.jsonl
holds test "$(stored 4 wide/train-00000.tok)" = '0 69998 2 3 4 5 6 65536 69999'
holds test "$(stored 4 wide/val-00000.tok)" = '8 9 69999'
gives 0 "$LOCKSTEP" train model.preset=gpt2-tiny model.context=4 data.dir=wide run.name=wide run.steps=2 batch.sequences=2
holds grep -q 'vocab: 70000' runs/wide/config.yaml
for init in '' runs/pairs; do
    gives 2 "$LOCKSTEP" train model.preset=gpt2-tiny model.vocab=257 data.dir=wide run.init=$init run.name=none \
        batch.sequences=2 run.steps=1
    says "go up to 69999; $([ "$init" ] && echo "prepare the data with the tokenizer of run.init's model" || echo "prepare the data with this model's tokenizer, or, for a new run")"
done
gives 2 "$LOCKSTEP" prep ids.jsonl --field ids --vocab 10 -o other
says '.*--vocab is given without --separator'
gives 2 "$LOCKSTEP" prep ids.jsonl --field ids --vocab 9 --separator 8 -o other
says "'ids.jsonl', line 1: token 2 of field 'ids' is 9; at most 8 is expected"
gives 2 "$LOCKSTEP" prep ids.jsonl --field ids -o other
says "'ids.jsonl', line 1: field 'ids' is no string; --vocab and --separator take arrays"
gives 2 "$LOCKSTEP" prep even.jsonl --vocab 10 --separator 9 -o other
says "line 1: field 'text' is no array of tokens; leave out --vocab"
echo '{"ids": [1, 2.5]}' | gives 2 "$LOCKSTEP" prep - --field ids --vocab 10 --separator 9 -o other
says "item 1 of field 'ids' is no whole number"
gives 2 "$LOCKSTEP" prep text --vocab 10 --separator 9 -o other
says "is text; with --vocab the documents are arrays of tokens"

# Packed tokens: documents lie between separators, behind one (llm.c, with its header) or before one (nanoGPT, Megatron-LM).
pack() { # pack FORMAT NUMBER...: as Python's struct has it
    python3 -c 'import struct, sys; sys.stdout.buffer.write(struct.pack("<%d%s" % (len(sys.argv) - 2, sys.argv[1]), *map(int, sys.argv[2:])))' "$@"
}
header() { pack i "$@" && head -c 1012 /dev/zero; } # header MAGIC VERSION COUNT
{ header 20240520 1 9 && pack H 9 5 6 9 7 9 9 1 2; } >llmc.bin
gives 0 "$LOCKSTEP" prep llmc.bin --vocab 10 --separator 9 --val 0 -o packed
prints '^3 documents from 1 file$'
holds test "$(stored 2 packed/train-00000.tok)" = '5 6 9 7 9 1 2 9'
mkdir nano && pack H 5 6 9 7 9 9 1 2 9 >nano/train.bin
gives 0 "$LOCKSTEP" prep nano --vocab 10 --separator 9 --val 0 -o packed --force
holds test "$(stored 2 packed/train-00000.tok)" = '5 6 9 7 9 1 2 9'
{ header 20240801 7 5 && pack I 69999 5 69998 69999 3; } >llama.bin
gives 0 "$LOCKSTEP" prep llama.bin --vocab 70000 --separator 69999 --val 0 -o packed --force
holds test "$(stored 4 packed/train-00000.tok)" = '5 69998 69999 3 69999'
pack H 1 2 3 4 5 6 7 8 1 2 >single.bin
gives 0 "$LOCKSTEP" prep single.bin --vocab 10 --separator 9 --val 0.2 -o packed --force
holds test "$(stored 2 packed/train-00000.tok) / $(stored 2 packed/val-00000.tok)" = '1 2 3 4 5 6 7 8 9 / 1 2 9'
gives 2 "$LOCKSTEP" prep nano --vocab 9 --separator 8 -o other
says "'nano/train.bin': token 2 is 9; at most 8 is expected"
gives 2 "$LOCKSTEP" prep llama.bin --vocab 10 --separator 9 -o other
says "'llama.bin' has tokens of 4 bytes by its header, a --vocab of 10 has them of 2"
head -c 1032 llmc.bin >short.bin
gives 2 "$LOCKSTEP" prep short.bin --vocab 10 --separator 9 -o other
says "'short.bin' has 9 tokens by its header, and 4 behind it"
head -c 5 nano/train.bin >odd.bin
gives 2 "$LOCKSTEP" prep odd.bin --vocab 10 --separator 9 -o other
says "'odd.bin' has 5 bytes, which are no whole number of tokens of 2 bytes"
gives 2 "$LOCKSTEP" prep llmc.bin -o other
says "'llmc.bin' is skipped.*packed tokens, .* give --vocab and --separator"

# Documents packed into samples: each once and whole, whatever it is made of; the same bytes by any number of threads.
python3 - <<'PY'
import json, random, struct
r = random.Random(3)
with open("pieces.jsonl", "w") as out, open("pieces.bin", "wb") as packed:
    for i in range(900):
        ids = [r.randrange(1, 90) for _ in range(r.choice([1, 9, 30, 47, 48, 49, 60]) + r.randrange(9) + (i % 97 == 0) * 150)]
        text, half = " ".join(str(n) for n in ids)[:len(ids)], r.choice("ab")
        out.write(json.dumps({"text": text, "q": half * (i % 5), "ids": ids, "mask": [n % 3 & 1 for n in ids], "messages":
                              [{"role": "user", "content": half}, {"role": "assistant", "content": text}]}) + "\n")
        packed.write(struct.pack("<%dH" % (len(ids) + 1), *ids, 99))
PY
whole() { # whole TOKENS FILE OPTION...: the documents of prep with and without --pack
    tokens=$1 && shift
    gives 0 "$LOCKSTEP" prep "$@" -o plain --val 0.1 --force
    gives 0 env OMP_NUM_THREADS=3 "$LOCKSTEP" prep "$@" -o threads --val 0.1 --force --pack "$tokens"
    gives 0 env OMP_NUM_THREADS=1 "$LOCKSTEP" prep "$@" -o whole --val 0.1 --force --pack "$tokens" --shard-tokens 4096
    cp out told
    gives 0 python3 "$here/packed.py" plain whole
    holds test "$(cat threads/train-*.tok | tail -c +257 | cksum)" = \
        "$(for shard in whole/train-*.tok; do tail -c +257 "$shard"; done | cksum)"
}
ids='--field ids --vocab 100 --separator 99'
# shellcheck disable=SC2086 # one word an option
{
    whole 50 pieces.jsonl
    holds grep -q '^900 documents ([0-9.]* KiB) from 1 file, [1-9][0-9]* cut (longer than a sample)$' told
    holds grep -q '^train: .* tokens in [1-9][0-9]* shards, [0-9]*[.][0-9][0-9] % padding$' told
    holds grep -q '"pack": 50' whole/data.json
    whole 3 pieces.jsonl
    whole 400 pieces.jsonl
    whole 64 pieces.jsonl --prompt q
    holds grep -q '% of them targets, [0-9.]* % padding$' told
    whole 64 pieces.jsonl $ids
    whole 64 pieces.bin --vocab 100 --separator 99
    whole 64 pieces.jsonl $ids --loss-mask mask
    whole 64 pieces.jsonl --chat chatml --tokenizer "$golden/qwen2.json"
    whole 50 pieces.jsonl --tokenizer "$golden/gpt2.json" --begin 7
    holds grep -q '"begin": 7' whole/data.json
    whole 3 pieces.jsonl --tokenizer "$golden/gpt2.json" --begin 7
}
whole 20 text/a.c # a single document, whose end is for validation

# Packed for other lengths, documents that do not see each other have the same loss.
rows() { gives 0 "$LOCKSTEP" eval runs/whole --data "$1" --json && sed -n 's/.*"loss": \([0-9.]\{7\}\).*/\1/p; /"targets"/p' out; }
for tokens in 256 64; do
    gives 0 "$LOCKSTEP" prep even.jsonl --val 0.01 -o whole-$tokens --pack $tokens
    prints "Next: .* data.sequence=$tokens data.document_mask=true"
done
gives 0 "$LOCKSTEP" train model.preset=llama3-tiny data.dir=whole-256 data.sequence=256 model.context=256 batch.sequences=4 \
    run.steps=2 run.name=whole data.document_mask=true
rows whole-256 >expected
holds grep -q . expected
rows whole-64 >found
holds cmp expected found
gives 2 "$LOCKSTEP" train runs/whole/config.yaml --resume --change run.steps=4 data.sequence=128 batch.sequences=8
says "the documents of 'whole-256' are packed for samples of 256 tokens, and data.sequence is 128: set it to 256 or a multiple"
gives 2 "$LOCKSTEP" train runs/whole/config.yaml run.name=other data.dir='even-data 1; whole-64 2' data.sequence=96 batch.sequences=4 batch.tokens=384
says "'whole-64' are packed for samples of 64 .*prepare the data again with --pack 96"
gives 2 "$LOCKSTEP" prep even.jsonl -o other --pack 2
says 'whole number from 3 to 16777216'

# Lines that hold no document: the first one ends the work, or they are left out, counted, and the first ones named.
{ seq 3000 | sed 's/.*/{"text": "document &"}/'; } >sound.jsonl
awk '{ print } NR % 500 == 0 { print "{\"text\": \"cut off" } NR == 700 { print "{\"body\": 3}\n[1]\n{\"text\": 5}" }' sound.jsonl >partly.jsonl
gives 2 "$LOCKSTEP" prep partly.jsonl -o partly --val 0.1
says "'partly.jsonl', line 501: not valid JSON.*; --skip-bad leaves such lines out$"
gives 0 "$LOCKSTEP" prep sound.jsonl -o sound --val 0.1
gives 0 "$LOCKSTEP" prep partly.jsonl -o partly --val 0.1 --skip-bad
prints '^3000 documents .* from 1 file, 9 lines left out (no documents)$'
says "warning: left out: 'partly.jsonl', line 501: not valid JSON"
says "warning: left out: 'partly.jsonl', line 702: no field 'text' (the first field is 'body')"
holds [ "$(grep -c 'left out: ' err)" = 5 ]
says '9 lines held no document and are left out; there are 3000 documents'
holds grep -q '"bad_lines": 9' partly/data.json
for shard in train-00000.tok val-00000.tok; do
    holds cmp "sound/$shard" "partly/$shard"
done
gives 0 "$LOCKSTEP" prep --json partly.jsonl -o partly --skip-bad --force
prints '"bad_lines": 9,'
gives 0 "$LOCKSTEP" prep --json sound.jsonl -o sound --skip-bad --force
prints '"bad_lines": 0,'
fails grep -q warning err
gives 0 "$LOCKSTEP" prep - --field ids --vocab 10 --separator 9 --val 0 -o some --skip-bad <<'JSONL'
{"ids": [1, 2, 30]}
{"ids": [4, 5]}
JSONL
holds test "$(stored 2 some/train-00000.tok)" = '4 5 9'
gives 2 "$LOCKSTEP" prep partly.jsonl --field other -o none --skip-bad
says 'the corpus is empty: .*3009 lines that are no documents'
holds [ ! -e none ]

# What an earlier prep has made is left out of a folder, and named where nothing else is there.
mkdir -p home/notes && cp text/a.c home/ && printf '{"format": "mine"}' >home/notes/data.json
gives 0 "$LOCKSTEP" prep home -o home/first --val 0.5
gives 0 "$LOCKSTEP" prep home -o home/second --val 0.5
prints '^2 documents (34 B) from 2 files, 3 left out (made by prep)$'
holds grep -q '"prepared_files": 3' home/second/data.json
for shard in train-00000.tok val-00000.tok; do
    holds cmp "home/first/$shard" "home/second/$shard"
done
gives 2 "$LOCKSTEP" prep home/first -o other
says 'the corpus is empty: 0 text files without any text, 0 skipped as binary, 3 made by prep'
gives 0 "$LOCKSTEP" prep home/first/data.json -o asked # a file that is named is text

# Of text that is there in another form, it says how to give it.
gzip -kn even.jsonl
gives 2 "$LOCKSTEP" prep even.jsonl.gz -o other
says "'even.jsonl.gz' is skipped.*compressed by gzip; zcat FILE | lockstep prep -"

gives 2 "$LOCKSTEP" prep text
says 'no data directory is given (-o DIR)'
gives 2 "$LOCKSTEP" prep -o other
says 'no input is given'
gives 2 "$LOCKSTEP" prep text -o "$(printf 'out\377')"
says "is not UTF-8 text without line breaks, as data.dir of a run must be"
gives 2 "$LOCKSTEP" prep text -o other --val 2
says "a number from 0 to 0.99"
gives 2 "$LOCKSTEP" prep text -o other --shard-tokens 5
says 'whole number from 4096'
gives 2 "$LOCKSTEP" prep text -o other --outptu x
says 'did you mean --output'
holds test ! -e other

# A stop while it waits for input removes what was begun. Another prep for the same name is refused meanwhile, as on
# the ranks of an mpirun; one that was killed is in nobody's way.
mkfifo pipe
exec 9<>pipe
begin() { # begin NAME
    "$LOCKSTEP" prep pipe -o "$1" >begun-out 2>begun-err &
    pid=$!
    while [ ! -d ".$1.tmp-$pid" ] && kill -0 $pid 2>/dev/null; do :; done
}
begin killed
kill -KILL $pid
wait $pid || true
gives 0 "$LOCKSTEP" prep text -o killed
says "removed '\.killed\.tmp-$pid', which a prep that was killed had left"
holds [ ! -e ".killed.tmp-$pid" ]
begin stopped
gives 2 "$LOCKSTEP" prep text -o stopped
says "another prep, process $pid on host $(hostname), is writing 'stopped'; wait for it.* start it without mpirun"
gives 2 ranks 2 "$LOCKSTEP" prep text -o stopped --force
says "another prep, process $pid on host"
kill -TERM $pid
status=0
wait $pid || status=$?
exec 9>&-
holds test $status = 75
cp begun-err err
says 'stopped while \(reading\|listing the inputs\)' # whichever it was at
holds test ! -e stopped
holds sh -c '! ls -A | grep "^[.]"'
passed
