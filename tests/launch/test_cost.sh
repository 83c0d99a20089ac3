#!/bin/sh
# The ledger of a run over kills and restarts sums to its wall time; receipts and statements.
. "$(dirname "$0")/lib.sh"
make_corpus
# Of so many steps that a run is not over before it can be killed.
settings="$tiny run.steps=600 checkpoint.every=20 eval.every=0 cost.usd_per_device_hour=3600 run.account=lab run.project=one
          cost.watts_per_device=1000 metrics.mlperf=true"
field() { sed -n "s/^ *\"$2\": \([-0-9.e+]*\),*$/\1/p" "$work/runs/$1/ledger.json" | head -n 1; }

# Killed twice, once before the first checkpoint.
began=$(date +%s.%N)
kill_after() { # kill_after RUN LINES
    "$LOCKSTEP" train $settings run.name="$1" --resume >"$work/out" 2>"$work/err" &
    pid=$!
    tries=1200
    while [ "$(cat "$work/runs/$1/train.jsonl" 2>/dev/null | wc -l)" -lt "$2" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] && kill -0 $pid 2>/dev/null || fail "no $2 records of $1"
        sleep 0.01
    done
    kill -9 $pid
    wait $pid 2>/dev/null || true
}
kill_after a 3
kill_after a 60
gives 0 "$LOCKSTEP" train $settings run.name=a --resume
ended=$(date +%s.%N)
wall=$(field a wall_seconds)
holds [ "$(field a restarts)" = 2 ]
holds [ "$(field a steps)" = 600 ]
holds awk -v lost="$(field a lost_steps)" 'BEGIN { exit !(lost >= 3) }'
holds awk -v wall="$wall" -v real="$began $ended" 'BEGIN { split(real, t, " "); exit !(wall > 0 && wall <= t[2] - t[1] + 0.02) }'
# From the first start to the last record, nothing is left out: within 0.5 %.
first=$(sed -n '1s/.*"time":\([0-9.e+]*\).*/\1/p' "$work/runs/a/starts.jsonl")
last=$(tail -n 1 "$work/runs/a/train.jsonl" | sed 's/.*"time":\([0-9.e+]*\).*/\1/')
awk -v wall="$wall" -v first="$first" -v last="$last" 'BEGIN { d = wall - (last - first); if (d < 0) d = -d; exit !(d <= 0.005 * (last - first)) }' ||
    fail "the ledger has $wall s, the run lasted from $first to $last"
# A dollar a second: the price of the wall time.
holds awk -v usd="$(field a usd)" -v wall="$wall" 'BEGIN { d = usd - wall; if (d < 0) d = -d; exit !(d < 0.01 * wall) }'
holds [ "$(wc -l <"$work/runs/a/starts.jsonl")" = 3 ]

# Two ranks that share each layer, killed on the way: phases of the axis that they are joined by, and
# in every record the phases sum to its wall time, from one record's end to the next one's.
split="$settings run.name=axes parallel.tensor=2"
ranks 2 "$LOCKSTEP" train $split >"$work/out" 2>"$work/err" &
pid=$!
tries=1200
while [ "$(cat "$work/runs/axes/train.jsonl" 2>/dev/null | wc -l)" -lt 30 ]; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] && kill -0 $pid 2>/dev/null || fail "no 30 records of axes"
    sleep 0.01
done
kill -9 $(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$work/runs/axes/lock.json")
wait $pid 2>/dev/null || true
gives 0 ranks 2 "$LOCKSTEP" train $split --resume
holds [ "$(field axes restarts)" = 1 ]
holds awk -v x="$(field axes communication_tensor)" 'BEGIN { exit !(x > 0) }'
holds [ "$(field axes communication_pipeline)" = 0.0 ]
first=$(sed -n '1s/.*"time":\([0-9.e+]*\).*/\1/p' "$work/runs/axes/starts.jsonl")
last=$(tail -n 1 "$work/runs/axes/train.jsonl" | sed 's/.*"time":\([0-9.e+]*\).*/\1/')
holds awk -v wall="$(field axes wall_seconds)" -v real="$first $last" 'BEGIN {
    split(real, t, " "); d = wall / (t[2] - t[1]) - 1; exit !(d <= 0.005 && d >= -0.005) }'
sed -n 's/.*"restarts":1,"time":\([0-9.e+]*\),.*"phase_seconds":{\([^}]*\)}.*"slowest":\([^,]*\).*/\1 \2 \3/p' \
    "$work/runs/axes/train.jsonl" | tr ',:' '  ' >"$work/phases"
holds awk 'function other(x) { return x < 0 ? -x : x }
    { sum = 0; for (i = 3; i <= NF - 1; i += 2) sum += $i
      if (NR > 1) { wall += $1 - before; all += sum }
      before = $1; lags += $NF != "null" }
    END { d = all / wall - 1; exit !(NR > 9 && lags >= 1 && other(d) <= 0.005) }' "$work/phases"
holds grep -q '^lockstep_step_phase_seconds{run="axes",phase="communication_tensor"}' "$work/runs/axes/metrics.prom"
holds grep -q '^lockstep_bus_bytes_per_second{run="axes",axis="tensor"}' "$work/runs/axes/metrics.prom"
holds grep -q '^lockstep_slowest_rank{run="axes"} [01]$' "$work/runs/axes/metrics.prom"

# Every record is by its schema, and within 0.5 % its phases sum to its seconds.
if python3 -c 'import jsonschema' 2>/dev/null; then
    gives 0 python3 -c 'import json, jsonschema, sys
schema = jsonschema.Draft7Validator(json.load(open(sys.argv[1])))
for path in sys.argv[2:]:
    records = [json.loads(line) for line in open(path) if line.endswith("}\n")]
    assert len(records) >= 60
    for record in records:
        schema.validate(record)
        whole, parts = record["seconds"], sum(record["phase_seconds"].values())
        assert abs(parts - whole) <= 0.005 * whole, record
' "$here/train.schema.json" "$work/runs/axes/train.jsonl" "$work/runs/a/train.jsonl"
else
    echo "skipped in part: python3-jsonschema is not installed"
fi

# A stop that was asked for is no down time.
gives 75 "$LOCKSTEP" train $settings run.name=b --until 40
gives 0 "$LOCKSTEP" train $settings run.name=b --resume
holds [ "$(field b down)" = 0.0 ]
holds [ "$(field b lost_steps)" = 0 ]

gives 0 "$LOCKSTEP" cost "$work/runs/a"
prints 'starts  *3, [0-9]* steps lost'
prints 'how it ended  *exit status 0, rank 0'
prints '^  time in communication, data  '
prints 'cost  *\$[0-9]'
prints 'energy, modelled'
gives 0 "$LOCKSTEP" cost "$work/runs/a" "$work/runs/b" --by account --json
holds [ "$(grep -c '"account": "lab"' "$work/out")" = 1 ]
gives 0 "$LOCKSTEP" cost "$work/runs/a" --csv
began=$(sed -n 's/^"\([^"]*\)".*/\1/p' "$work/out")
for runs in 'a b' 'b a'; do # a sum's time is when the first of them began
    # shellcheck disable=SC2086 # two
    set -- $runs
    gives 0 "$LOCKSTEP" cost "$work/runs/$1" "$work/runs/$2" --by account --csv
    prints "^\"$began\",\"lab\""
done
gives 0 "$LOCKSTEP" cost "$work/runs/a" "$work/runs/b" --lines --csv
holds [ "$(wc -l <"$work/out")" = 6 ]
holds [ "$(awk -F, '{print NF}' "$work/out" | sort -u)" = 11 ]
gives 0 "$LOCKSTEP" cost "$work/runs/a" --html "$work/report.html" --plot "$work/plot.svg"
says "wrote $work/report.html"
gives 3 "$LOCKSTEP" cost "$work/runs/a" --plot "$work/none/plot.svg"
says "'$work/none/plot.svg' cannot be written: No such file"
holds grep -q '</html>' "$work/report.html"
holds grep -q '<polyline' "$work/plot.svg"
holds [ "$(grep -c 'no value is known' "$work/plot.svg")" = 0 ]
holds sh -c "! grep -q '<script\|http://[^w]\|https://' '$work/report.html'"
# Records that somebody has changed: no time of a start, numbers that lie too close for marks between them.
cp -r "$work/runs/a" "$work/runs/odd"
sed -i 's/"time":[0-9.]*,//' "$work/runs/odd/starts.jsonl"
sed -i 's/"loss":[0-9.]*/"loss":10000000000000000.0/; $s/"loss":[0-9.]*/"loss":10000000000000002.0/' \
    "$work/runs/odd/train.jsonl"
gives 0 "$LOCKSTEP" cost "$work/runs/odd" --lines
holds grep -q '^-  ' "$work/out"
gives 0 "$LOCKSTEP" cost "$work/runs/odd" --html "$work/odd.html"
holds [ "$(wc -c <"$work/odd.html")" -lt 100000 ]
gives 2 "$LOCKSTEP" cost
says 'no run directory'
gives 2 "$LOCKSTEP" cost "$work"
says 'has no readable ledger.json'
gives 0 "$LOCKSTEP" cost "$work" "$work"/runs/a "$work" --csv # as runs/*, where data lies, too
says "'$work' is left out: it has no ledger.json"
holds [ "$(wc -l <"$work/out")" = 2 ]
gives 2 "$LOCKSTEP" cost "$work" "$work"
says 'has no readable ledger.json'
gives 2 "$LOCKSTEP" cost "$work/runs/a" --by planet
says "account or project is needed"
gives 2 "$LOCKSTEP" cost "$work/runs/a" "$work/runs/b" --by account --lines
says "by sums the runs and --lines shows each start: give one"
gives 2 "$LOCKSTEP" train $tiny run.name=bad cost.kind=contract
says 'cost.contract_usd is 0'

# Prometheus' own checker reads the metrics.
if command -v promtool >/dev/null; then
    gives 0 promtool check metrics <"$work/runs/a/metrics.prom"
else
    echo "skipped in part: promtool is not installed"
fi
# An energy counter that fails in the middle ends no run: the sum is unknown from there on. As if RAPL were there: a
# /sys/class of ours for one command.
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
    zone=/sys/class/powercap/intel-rapl:0
    gives 75 unshare -m sh -c 'mount -t tmpfs none /sys/class && mkdir -p "$1" && echo package-0 >"$1/name" &&
        echo 1000 >"$1/energy_uj" && echo 262143328850 >"$1/max_energy_range_uj" || exit 1
        zone=$1 run=$2
        shift 2
        "$@" &
        until [ "$(cat "$run/train.jsonl" 2>/dev/null | wc -l)" -ge 3 ]; do kill -0 $! || exit 1; done
        rm "$zone/energy_uj"
        until grep -q "\"measured_joules\":null" "$run/train.jsonl"; do kill -0 $! || exit 1; done
        : >"$run/stop"
        wait $!' sh "$zone" "$work/runs/counter" "$LOCKSTEP" train $tiny run.name=counter run.steps=400000 metrics.every=1 eval.every=0
    says "warning: cannot read '$zone/energy_uj', which could be read before: .*; energy is not measured any more"
    holds grep -q '"measured_joules":0.0,' "$work/runs/counter/train.jsonl"
    holds [ "$(grep -c 'energy is not measured' "$work/err")" = 1 ]
else
    echo "skipped in part: another /sys/class needs root"
fi
passed
