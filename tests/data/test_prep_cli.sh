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
gives 0 "$LOCKSTEP" prep --json text -o data --force --include '*.c' --val 0 --shard-tokens 4096
prints '"documents": 1,'
prints '"shards": 1'
holds test ! -e data/val-00000.tok
gives 2 "$LOCKSTEP" prep text -o data
says "'data' exists; choose another directory, or replace it with --force"

# What cannot be parted as was asked is told, and what can be is not.
mkdir uneven
for i in 1 2 3; do
    head -c $((i * 5000)) /dev/zero | tr '\0' "$i" >uneven/$i.txt
done
gives 0 "$LOCKSTEP" prep uneven -o uneven-data --val 0.01
says '[1-5][0-9.]* % of the tokens are for validation, asked for are 1 %: .* and 3 of such sizes come no closer'
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

gives 2 "$LOCKSTEP" prep text
says 'no data directory is given (-o DIR)'
gives 2 "$LOCKSTEP" prep -o other
says 'no input is given'
gives 2 "$LOCKSTEP" prep text -o other --val 2
says "a number from 0 to 0.99"
gives 2 "$LOCKSTEP" prep text -o other --shard-tokens 5
says 'whole number from 4096'
gives 2 "$LOCKSTEP" prep text -o other --outptu x
says 'did you mean --output'
holds test ! -e other

# A stop while it waits for input removes what was begun.
mkfifo pipe
exec 9<>pipe
"$LOCKSTEP" prep pipe -o stopped >out 2>err &
pid=$!
while [ ! -d .stopped.tmp-$pid ] && kill -0 $pid 2>/dev/null; do :; done
kill -TERM $pid
status=0
wait $pid || status=$?
exec 9>&-
holds test $status = 75
says 'stopped while \(reading\|listing the inputs\)' # whichever it was at
holds test ! -e stopped
holds test ! -e .stopped.tmp-$pid
passed
