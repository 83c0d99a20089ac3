#!/bin/sh
# ckpt_tools.sh CKPT_MAKE PLUGIN_DIR: `lockstep ckpt` as users meet it, and the same values through
# h5dump and h5py with our HDF5 plugin.
. "$(dirname "$0")/../launch/lib.sh"
make=$1
plugins=$2
run=$work/run
ckpt=$run/checkpoints/step-00000009
skipped=

"$make" "$run/checkpoints" 7
"$make" "$run/checkpoints" 9

# ls: heading and table; a run, its checkpoints folder and a checkpoint mean the same.
gives 0 "$LOCKSTEP" ckpt ls "$run"
prints "step 9 .*9.00 k tokens .*tokens/s"
prints "12 tensors .* 1 writer .*zstd level 1 .*format 1.0"
prints "^layers.0.attn.qkv.bf16  *bfloat16  *131x77 "
prints '^tab\\x09name '
cp "$work/out" "$work/whole"
gives 0 "$LOCKSTEP" ckpt ls "$run/checkpoints/"
gives 0 "$LOCKSTEP" ckpt ls "$ckpt" 'layers.*'
holds [ "$(grep -c '^layers' "$work/out")" = 2 ]
holds [ "$(grep -c '^half' "$work/out")" = 0 ]
gives 1 "$LOCKSTEP" ckpt ls "$ckpt" 'nothing*'
says "none of 12 tensors"
gives 0 "$LOCKSTEP" ckpt ls "$ckpt" --json
prints '^{"schema":"lockstep.ckpt.ls/1".*"step":9,"tokens":9000,.*"tokens_per_second":98765.5'

# show
gives 0 "$LOCKSTEP" ckpt show "$ckpt" 'deep[2,1,-1,::3]'
prints '^deep  int32  \[3, 2, 5, 7\]'
prints '^\[[0-9]*, [0-9]*, [0-9]*\]$'
last=$(tail -n 1 "$work/out")
gives 0 "$LOCKSTEP" ckpt show "$ckpt" 'deep[2:,1:,4:,::-3]'
holds [ "[[[$(echo "$last" | tr -d '[],' | awk '{print "[" $3 ", " $2 ", " $1 "]"}')]]]" = \
    "$(tail -n 1 "$work/out")" ]
gives 0 "$LOCKSTEP" ckpt show "$ckpt" 'deep[...,0]' --json
prints '"shape":\[3,2,5\],"values":\[\[\['
gives 0 "$LOCKSTEP" ckpt show "$ckpt" 'deep[3:]' --json
prints '"shape":\[0,2,5,7\],"values":\[\]'
gives 0 "$LOCKSTEP" ckpt show "$ckpt" wide
prints ', \.\.\., '
gives 1 "$LOCKSTEP" ckpt show "$ckpt" missing
says "no tensor 'missing'"
for slices in '[3]' '[0,0,0,0,0]' '[0:1:0]' '[x]' '[0' '[...,...]' '[-4]' '[1 2]'; do
    gives 2 "$LOCKSTEP" ckpt show "$ckpt" "deep$slices"
done
gives 0 "$LOCKSTEP" ckpt show "$run" --counters
prints '^tokens_per_second  *98765.5$'
prints '^joules  *null$'
prints '^seconds.compute  *1.5$'
gives 0 "$LOCKSTEP" ckpt show "$run" --counters --json
prints '"schema":"lockstep.ckpt.counters/1"'
gives 0 "$LOCKSTEP" ckpt show "$run" --config
prints '^  seed: 42$'
gives 2 "$LOCKSTEP" ckpt show "$run" deep --config
gives 2 "$LOCKSTEP" ckpt show "$run"

# usage
gives 2 "$LOCKSTEP" ckpt
gives 2 "$LOCKSTEP" ckpt verfy "$run"
says "did you mean 'verify'"
gives 2 "$LOCKSTEP" ckpt ls "$work/nothing"
says "$work/nothing"
gives 2 "$LOCKSTEP" ckpt ls
gives 2 "$LOCKSTEP" ckpt verify "$run" --quick --full

# Other programs, with the plugin: the values of `ckpt show` for every element type.
export HDF5_PLUGIN_PATH="$plugins"
numbers() { # JSON or h5dump text: numbers only, one a line
    tr -d '[]{}' | tr ',' '\n' | tr -d ' ' | grep -v '^$'
}
if command -v h5dump >/dev/null; then
    for file in rank-00000.h5 index.h5; do
        for pair in a:a a/b:a:b half:half layers.0.attn.qkv.bf16:layers.0.attn.qkv.bf16 deep:deep \
            'count:64%@\:count~3A64~25~40~5C' .hidden:~2Ehidden; do
            name=${pair%%:*} dataset=${pair#*:}
            case $pair in count*) name='count:64%@\' dataset='count~3A64~25~40~5C' ;; esac
            "$LOCKSTEP" ckpt show "$ckpt" "$name" --json >"$work/out"
            sed 's/.*"values"://; s/}$//' "$work/out" | numbers >"$work/ours"
            h5dump -y -w 1 -m '%.9g' -d "/tensors/$dataset" "$ckpt/$file" >"$work/dump"
            sed -n '/^   DATA {/,/^   }/p' "$work/dump" | sed '1d;$d' | numbers >"$work/theirs"
            holds [ -s "$work/theirs" ]
            holds [ "$(wc -l <"$work/ours")" = "$(wc -l <"$work/theirs")" ]
            # ours is the shortest text that is read back as the same number of 8 or 11 bits
            case $pair in *bf16) apart=0.004 ;; half*) apart=0.0005 ;; *) apart=1e-7 ;; esac
            paste "$work/ours" "$work/theirs" | awk -v name="$name" -v apart=$apart '
                { d = $1 - $2; a = $2 < 0 ? -$2 : $2; if (d < 0) d = -d; if (d > apart * a) bad++ }
                $1 ~ /^[0-9]+$/ && $1 != $2 { bad++ }
                END { if (bad) { print name ": " bad " values differ"; exit 1 } }' ||
                fail "h5dump shows other values in $file"
        done
    done
    # h5repack takes the filter off, so that no plugin is needed any more, and puts it on again.
    "$make" "$work/small" 3 1 200000
    small=$work/small/step-00000003/rank-00000.h5
    values() { # values PLUGINS FILE: all that is below /tensors, as text
        HDF5_PLUGIN_PATH=$1 h5dump -y -w 1 -m '%.9g' -g /tensors "$2" | grep -v '^HDF5' >"$2.txt"
    }
    gives 0 h5repack -f NONE "$small" "$work/plain.h5"
    gives 0 h5repack -f SHUF -f UD=32015,0,1,5 "$work/plain.h5" "$work/packed.h5"
    gives 0 h5dump -pH -d '/tensors/layers.0.attn.qkv.weight' "$work/packed.h5"
    prints 'FILTER_ID 32015'
    values "$plugins" "$small"
    values "$work/nothing" "$work/plain.h5"
    values "$plugins" "$work/packed.h5"
    holds [ "$(grep -c '^ *-*[0-9]' "$small.txt")" -gt 30000 ]
    holds cmp "$small.txt" "$work/plain.h5.txt"
    holds cmp "$small.txt" "$work/packed.h5.txt"
    gives 0 h5diff "$small" "$work/packed.h5"
    h5dump -d /counters/tokens_per_second "$ckpt/rank-00000.h5" >"$work/out"
    prints '(0): 98765.5'
    prints '(0): "tokens/s"'
    holds [ "$(h5ls "$ckpt/index.h5/tensors" | wc -l)" = 12 ]
else
    skipped="$skipped h5dump"
fi

python=
for candidate in /usr/bin/python3 python3; do
    if "$candidate" -c 'import h5py, numpy' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -n "$python" ]; then
    gives 0 "$python" - "$ckpt" <<'PYTHON'
import hashlib, json, sys
import h5py, numpy
root = sys.argv[1]
data, index = h5py.File(root + "/rank-00000.h5", "r"), h5py.File(root + "/index.h5", "r")
for tensor in json.load(open(root + "/manifest.json"))["tensors"]:
    piece, = tensor["pieces"]
    assert data[piece["dataset"]].attrs["tensor"].decode() == tensor["name"], tensor
    values = index[piece["dataset"]][()]
    assert list(values.shape) == tensor["shape"], tensor
    dataset, digests = data[piece["dataset"]].id, b""
    for i in range(dataset.get_num_chunks()):
        mask, chunk = dataset.read_direct_chunk(dataset.get_chunk_info(i).chunk_offset)
        leaves = [hashlib.sha256(chunk[k:k + 32768]).digest() for k in range(0, len(chunk), 32768)]
        digests += hashlib.sha256(b"".join(leaves)).digest()
    assert hashlib.sha256(digests).hexdigest() == piece["sha256"], tensor["name"]
assert index["counters/tokens"][()] == 123456 and index["counters/joules"].shape is None
# and our reader's filter is the writer's too: what h5py writes through the plugin comes back
with h5py.File(root + "/../back.h5", "w") as f:
    f.create_dataset("x", data=numpy.arange(100000), chunks=(1000,), compression=32015,
                     compression_opts=(5,))
back = h5py.File(root + "/../back.h5", "r")["x"]
assert (back[()] == numpy.arange(100000)).all() and back.id.get_storage_size() < 400000
PYTHON
else
    skipped="$skipped h5py"
fi

# verify and latest
gives 0 "$LOCKSTEP" ckpt verify "$run"
holds [ "$(grep -c '^OK ' "$work/out")" = 2 ]
printf 'x' | dd of="$ckpt/rank-00000.h5" bs=1 seek=100000 conv=notrunc 2>/dev/null
gives 0 "$LOCKSTEP" ckpt verify "$ckpt" --quick
gives 1 "$LOCKSTEP" ckpt verify "$run" --full
prints '^FAIL .*step-00000009'
prints '^     .*rank-00000.h5.* chunk [0-9]* of ./tensors/.* at byte [0-9]*: '
prints '^OK .*step-00000007'
says '1 of 2 checkpoints'
gives 1 "$LOCKSTEP" ckpt verify "$ckpt" --json
prints '"schema":"lockstep.ckpt.verify/1","mode":"full".*"ok":false'
# A name that is no UTF-8 stands in JSON with its odd bytes escaped, in each answer that has a path.
odd=$work/$(printf 'a\377\303\251')
cp -r "$ckpt" "$odd"
escaped=$(printf '%b' 'a\\\\\\\\xff\303\251') # a backslash as JSON writes it, for grep
gives 1 "$LOCKSTEP" ckpt verify "$odd" --json
prints "\"path\":\"[^\"]*/$escaped\",\"ok\":false,\"faults\":\[\"[^\"]*/$escaped/rank-00000.h5"
for verb in latest ls; do
    gives 0 "$LOCKSTEP" ckpt $verb "$odd" --json
    prints "\"path\":\"[^\"]*/$escaped\""
done
gives 1 "$LOCKSTEP" ckpt stats "$ckpt"
says 'rank-00000.h5.*chunk'
gives 0 "$LOCKSTEP" ckpt latest "$run"
prints '/step-00000009$'
rm "$ckpt/rank-00000.h5"
gives 0 "$LOCKSTEP" ckpt latest "$run"
prints '/step-00000007$'
says 'warning: checkpoint .*step-00000009. is skipped'
gives 0 "$LOCKSTEP" ckpt latest "$run" --json
prints '"schema":"lockstep.ckpt.latest/1".*"step":7,"tokens":7000}$'
rm "$ckpt/manifest.json"
gives 1 "$LOCKSTEP" ckpt verify "$ckpt"
prints '^FAIL'
says 'no manifest.json'

[ -z "$skipped" ] || echo "skipped:$skipped not installed"
echo "$checks checks"
