#!/bin/sh
# The command line itself: help, versions, messages, exit statuses, man page, completion.
. "$(dirname "$0")/lib.sh"

gives 0 "$LOCKSTEP" --help
prints 'train'
gives 0 "$LOCKSTEP" --version
for library in MPI oneDNN HDF5 zstd; do prints "$library  *.*[0-9]"; done
for verb in train prep ckpt sample eval plan cost bench doctor; do
    gives 0 "$LOCKSTEP" "$verb" --help
    prints "usage: lockstep $verb"
    gives 2 "$LOCKSTEP" "$verb" --no-such-option
    says 'unknown option'
done
gives 0 "$LOCKSTEP" train --help
prints 'optim.lr'
gives 2 "$LOCKSTEP"
says 'usage: lockstep VERB'
gives 2 "$LOCKSTEP" trian
says "did you mean 'train'"
gives 2 "$LOCKSTEP" train --resumee
says 'did you mean --resume'
for length in 62 63 64 65 300; do # about as long as the room for a name, and longer
    gives 2 "$LOCKSTEP" train "--$(printf "%${length}s" | tr ' ' x)"
    says "unknown option '--xxxx"
done
gives 2 "$LOCKSTEP" resume runs/a
says "unknown verb 'resume'; .*did you mean 'train --resume'?"
gives 2 "$LOCKSTEP" verify runs/a
says "did you mean 'ckpt verify'?"
gives 2 "$LOCKSTEP" train --config c.yaml
says "the configuration stands alone: lockstep train CONFIG.yaml"
gives 2 "$LOCKSTEP" train --n_layer=12
says "unknown option '--n_layer=12'; settings are given as model.layers=VALUE"
gives 2 "$LOCKSTEP" train --learning-rate 3e-4
says 'settings are given as optim.lr=VALUE'
gives 2 "$LOCKSTEP" sample
says 'usage: lockstep sample'
gives 2 "$LOCKSTEP" sample --tokens=many x
says "'many'"
gives 2 "$LOCKSTEP" train --until
says 'needs a value'
gives 2 "$LOCKSTEP" train
says 'model.layers is not given'
gives 2 "$LOCKSTEP" ckpt
says "'lockstep ckpt': one of ls|show"
gives 2 "$LOCKSTEP" cost x --csv --json
says 'exclude each other'

# Colour is for terminals that know it, and for readers that want it.
if command -v script >/dev/null; then
    terminal() { # terminal LINES VARIABLE=VALUE...: the coloured lines on it
        lines=$1
        shift
        holds [ "$(script -qec "env $* '$LOCKSTEP' trian" /dev/null | grep -c "$(printf '\033')")" = "$lines" ]
    }
    terminal 1 TERM=xterm
    terminal 0 TERM=xterm NO_COLOR=1
    terminal 0 TERM=dumb
fi

status=0
"$LOCKSTEP" --help >/dev/full 2>"$work/err" || status=$?
holds [ "$status" = 3 ]
says 'standard output'

gives 2 env LOCKSTEP_ISA=mmx "$LOCKSTEP" bench gemm --model gpt2-tiny --batch 1 --seq 8
says 'LOCKSTEP_ISA'

# A thread that OpenMP has bound does not make the machine smaller.
"$LOCKSTEP" bench gemm --model gpt2-tiny --batch 1 --seq 8 2>/dev/null | grep '^cpu:' >"$work/free"
OMP_PROC_BIND=true "$LOCKSTEP" bench gemm --model gpt2-tiny --batch 1 --seq 8 2>/dev/null | grep '^cpu:' >"$work/bound"
holds cmp "$work/free" "$work/bound"

# The man page has no warnings; the completion completes verbs, options and keys.
"$LOCKSTEP" --man >"$work/lockstep.1"
if command -v man >/dev/null; then
    gives 0 env LC_ALL=C MANWIDTH=80 man --warnings -E UTF-8 -l "$work/lockstep.1"
    holds [ ! -s "$work/err" ]
    prints 'SYNOPSIS'
fi
"$LOCKSTEP" --completion >"$work/completion"
complete_with() {
    bash -c '. "$1"; COMP_WORDS=(lockstep "${@:2}"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _lockstep; echo "${COMPREPLY[@]}"' \
        complete "$work/completion" "$@"
}
holds [ "$(complete_with tra)" = train ]
holds [ "$(complete_with train --res)" = --resume ]
holds [ "$(complete_with train optim.l)" = optim.lr= ]
passed
