#!/bin/sh
# A trace of two steps of two ranks: one file, by the schema of the format, with blocks and groups.
. "$(dirname "$0")/lib.sh"
make_corpus
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=a parallel.tensor=2 metrics.trace_steps=3..4
trace=$work/runs/a/trace.json
for text in '"cat":"tensor"' '"cat":"world"' '"name":"forward 1"' '"name":"backward 1"' '"name":"rank 1 on ' '"pid":1,"tid":1'; do
    holds grep -q -e "$text" "$trace"
done
# Every operation that begins ends.
holds [ "$(grep -c '"ph":"b"' "$trace")" = "$(grep -c '"ph":"e"' "$trace")" ]
if python3 -c 'import jsonschema' 2>/dev/null; then
    gives 0 python3 -c 'import json, jsonschema, sys
schema, trace = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.validate(trace, schema)
events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
for rank in 0, 1:
    for thread in 0, 2: # places; calls
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if (e["pid"], e["tid"]) == (rank, thread))
        assert len(own) > 8 and own[0][0] > -1e6
        assert all(b[0] >= a[1] - 0.01 for a, b in zip(own, own[1:])), "places or calls overlap"
operations = {e["id"] for e in trace["traceEvents"] if e["ph"] == "b"}
calls = [e for e in events if e["tid"] == 2]
assert operations & {e["args"]["operation"] for e in calls}, "calls are on no operation"
for rank in 0, 1: # they share memory, and move the data themselves
    own = [e for e in calls if e["pid"] == rank]
    assert all(0 <= e["args"]["moving_us"] <= e["dur"] + 0.01 for e in own), "data moves longer than a call"
    assert sum(e["args"]["moving_us"] for e in own) > 0, "no data moves"
' "$here/trace.schema.json" "$trace"
else
    echo "skipped in part: python3-jsonschema is not installed"
fi
# The first layer's gradients that come behind attention, (1 + 128) x 64 of 4 bytes, wait with no others in a bucket.
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=d metrics.trace_steps=3..3
holds grep -q '"cat":"gradients".*"bytes":33024,' "$work/runs/d/trace.json"
gives 0 ranks 2 "$LOCKSTEP" train $tiny run.name=b run.steps=2
holds [ ! -e "$work/runs/b/trace.json" ]
gives 0 "$LOCKSTEP" train $tiny run.name=b run.steps=2 --resume metrics.trace_steps=3..4
says "metrics.trace_steps is '3..4', and the run ends with step 2: nothing is traced"
gives 2 "$LOCKSTEP" train $tiny run.name=c metrics.trace_steps=4..3
says "metrics.trace_steps is '4..3'"
holds [ ! -e "$work/runs/c" ]
# A start that ends, or begins, inside of them writes those that it made.
gives 75 "$LOCKSTEP" train $tiny run.name=c metrics.trace_steps=3..5 --until 4
holds [ "$(grep -c '"name":"update of weights"' "$work/runs/c/trace.json")" = 2 ]
gives 0 "$LOCKSTEP" train $tiny run.name=c metrics.trace_steps=3..5 --resume
holds [ "$(grep -c '"name":"update of weights"' "$work/runs/c/trace.json")" = 1 ]
passed
