#!/bin/sh
# lockstep bench collective: rows for every operation and back end, no wrong elements, and refusals.
set -eu
here=$(dirname "$0")
out=$(mktemp)
trap 'rm -f "$out"' EXIT

on_two() {
    sh "$here/../mpirun.sh" 2 "$LOCKSTEP" bench collective "$@" >"$out" 2>&1
}
bench() {
    on_two -n 1 -w 0 "$@"
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
    bench --dtype "$dtype" --redop avg -b 1000 -e 1000 --json
    grep -q "\"bytes\": 1000," "$out" && grep -q "\"wrong\": 0" "$out" || { echo "$dtype:" && cat "$out" && exit 1; }
done
# Results that ranks write for each other, and that go past the caches; blocks are not whole lines.
for operation in all_reduce all_gather reduce_scatter; do
    bench -o "$operation" --backend shm --minbytes 4000024 -e 40000240 -f 10 --json
    ways=4 # ours and the library's, both ways; a gather into one result too
    [ "$operation" != all_gather ] || ways=6
    if [ "$(grep -c '"wrong": 0' "$out")" != $((2 * ways)) ]; then
        echo "$operation of 4 and 40 MB:" && cat "$out" && exit 1
    fi
done
bench --dtype bf16 --backend shm -b 20000006 -e 20000006 --json
[ "$(grep -c '"wrong": 0' "$out")" = 2 ] || { echo "bf16 past the caches:" && cat "$out" && exit 1; }
on_two -n 1 --overlap --minbytes 1000 -e 1000
grep -q '^ *1000 .*%' "$out" || { echo "overlap:" && cat "$out" && exit 1; }
folder=$(mktemp -d)
profile=$folder/here.yaml
trap 'rm -rf "$out" "$folder"' EXIT
on_two --profile "$profile" --json
for line in '"measures": "links"' '"hosts": 1' '"ranks_per_host": 2' '"operation": "broadcast"'; do
    grep -q "$line" "$out" || { echo "JSON without $line:" && cat "$out" && exit 1; }
done
for key in alpha_s beta_bytes_per_s; do # of each of six operations
    [ "$(grep -c "\"$key\": [0-9]" "$out")" = 6 ] || { echo "no six $key:" && cat "$out" && exit 1; }
done
for line in 'link_gb_s: {value: [0-9.e+]*, source: collectives' 'link_latency_us: {value' 'devices: {value: 2,'; do
    grep -q "$line" "$profile" || { echo "profile without $line:" && cat "$profile" && exit 1; }
done
# The planner reads the links together with what one machine does.
sh "$here/../mpirun.sh" 2 "$LOCKSTEP" bench machine --threads 1 --repeat 1 --profile "$profile" >"$out" 2>&1 ||
    { cat "$out" && exit 1; }
grep -q 'link_latency_us' "$profile" || { echo "links are gone:" && cat "$profile" && exit 1; }
on_two --profile "$profile" # again: a table, and the devices stay
for line in '^inside  shm    all_to_all  *[0-9.]*  *[0-9.]*$' "^wrote $profile"; do
    grep -q "$line" "$out" || { echo "no line $line:" && cat "$out" && exit 1; }
done
grep -q 'half_speed_k' "$profile" || { echo "devices are gone:" && cat "$profile" && exit 1; }
[ "$(grep -c '^  collectives:' "$profile")" = 1 ] || { echo "a source twice:" && cat "$profile" && exit 1; }
precision=$(grep -q fp32_tflops "$profile" && echo fp32 || echo bf16)
"$LOCKSTEP" plan -m gpt2-3m -c "$profile" -n 2 -p "$precision" --batch 8 --vocab 512 --json >"$out" 2>&1 || { cat "$out" && exit 1; }
grep -q '"step_seconds": [0-9]' "$out" || { echo "no plan:" && cat "$out" && exit 1; }
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
refuses --redop max -o all_gather
refuses --overlap -o reduce
refuses --backend carrier_pigeon
for option in '-b 8' '-e 1M' '-f 4' '-n 3' '--overlap' '-o reduce' '--private'; do # measured in its own way
    refuses --profile "$profile" $option
    grep -q 'means nothing beside --profile' "$out" || { cat "$out" && exit 1; }
done
refuses --overlap --private
grep -q 'private means nothing beside --overlap' "$out" || { cat "$out" && exit 1; }
status=0
bench --backend hier -e 8 || status=$? # on one host
[ "$status" = 2 ] && grep -q 'choose auto, mpi or shm' "$out" || { cat "$out" && exit 1; }
for way in "" --overlap; do # more than the memory of any host, and none taken
    status=0
    on_two -b 8 -e 1024G $way || status=$?
    [ "$status" = 3 ] && grep -q 'for the buffers of 2 ranks .* free; sizes up to [1-9][0-9]*M fit' "$out" || { cat "$out" && exit 1; }
done
refuses --profile "$profile" # the links of one rank
echo 'device: {colour: blue}' >"$profile" # before anything is measured
! on_two --profile "$profile" 2>/dev/null && grep -q 'colour' "$out" || { cat "$out" && exit 1; }
