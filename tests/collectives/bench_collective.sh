#!/bin/sh
# lockstep bench collective: rows for every operation and back end, no wrong elements, and refusals.
set -eu
here=$(dirname "$0")
out=$(mktemp)
trap 'rm -f "$out"' EXIT

bench() {
    sh "$here/../mpirun.sh" 2 "$LOCKSTEP" bench collective -n 1 -w 0 "$@" >"$out" 2>&1
}
for backend in shm mpi; do
    for operation in all_reduce reduce_scatter all_gather all_to_all broadcast reduce send_recv; do
        bench -o "$operation" --backend "$backend" --minbytes 24 -e 1200 -f 50
        if [ "$(grep -c float32 "$out")" != 2 ]; then
            echo "$operation on $backend printed no two rows:" && cat "$out" && exit 1
        fi
    done
done
for dtype in bf16 fp16 int64; do
    bench --dtype "$dtype" --redop avg --minbytes 1000 -e 1000 --json
    grep -q '"wrong": 0' "$out" || { echo "$dtype:" && cat "$out" && exit 1; }
done
bench --overlap --minbytes 1000 -e 1000
grep -q '^ *1000 .*%' "$out" || { echo "overlap:" && cat "$out" && exit 1; }
profile=$(mktemp)
trap 'rm -f "$out" "$profile"' EXIT
bench --profile "$profile"
for line in 'link_gb_s: {value: [0-9.e+]*, source: measured' 'link_latency_us: {value' 'devices: {value: 2,' 'inside  shm    all_to_all'; do
    grep -q "$line" "$profile" || { echo "profile without $line:" && cat "$profile" && exit 1; }
done
refuses() {
    status=0
    "$LOCKSTEP" bench collective "$@" >"$out" 2>&1 || status=$?
    [ "$status" = 2 ] || { echo "$*: exit status $status, expected 2" && cat "$out" && exit 1; }
}
refuses -o all_redcue
refuses --minbytes 8X
refuses --minbytes 16 -e 8
refuses --dtype float7
refuses --redop product
refuses --backend carrier_pigeon
refuses --profile "$profile" # the links of one rank
