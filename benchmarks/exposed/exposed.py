#!/usr/bin/env python3
"""exposed.py RUN [NAME]: the communication that a step exposes, predicted and measured, out of a run's ledger and its
trace of several steps.

Exposed is the time that a rank's main thread is in calls on operations, for computation hides what happens
meanwhile. Where it waits, the time counts from when the last rank has come to wait for the same operation, or
has its part of it: before that the rank waits for slower computation (skew, a pipeline's bubble), not for the
wire. Mean of the ranks; of each operation of a step the median of the steps.
"""
import json
import os
import statistics
import sys
from bisect import bisect
from collections import defaultdict


def read(path):
    """Operations {id: ...}, calls [(operation, begin, end, waits)], and where each rank's steps begin, in us."""
    operations, calls, counts = {}, [], defaultdict(int)
    updates = defaultdict(list)
    for e in json.load(open(path))["traceEvents"]:
        rank = e["pid"]
        if e["ph"] == "M" and e["args"].get("dropped"):
            sys.exit(f"{path}: rank {rank} has dropped {e['args']['dropped']} events; trace fewer steps")
        if e["ph"] == "b":
            operations[e["id"]] = dict(rank=rank, group=e["cat"], name=e["name"], begin=e["ts"], **e["args"])
        elif e["ph"] == "e":
            operations[e["id"]]["end"] = e["ts"]
        elif e["ph"] == "X" and e["tid"] == 2:
            calls.append((e["args"]["operation"], e["ts"], e["ts"] + e["dur"], e["cat"] == "wait"))
        elif e["ph"] == "X" and e["name"] == "update of weights":
            updates[rank].append(e["ts"])
    for op in sorted(operations.values(), key=lambda o: o["begin"]):
        if op["number"]:
            op["key"] = (op["group"], op["lowest"], op["number"])
            continue
        # The n-th message from a rank to another.
        ends = (op["rank"], op["peer"]) if op["name"] == "send" else (op["peer"], op["rank"])
        counts[op["group"], op["name"], ends] += 1
        op["key"] = (op["group"], ends, counts[op["group"], op["name"], ends])
    return operations, calls, updates


def split(operations, calls):
    """Adds exposed and waiting to each operation."""
    for op in operations.values():
        op["came"] = op.get("end", op["begin"])
        op["exposed"] = op["waiting"] = 0.0
    calls = [c for c in calls if c[0] in operations]
    for i, begin, _, waits in calls:
        if waits:
            operations[i]["came"] = min(operations[i]["came"], begin)
    last = defaultdict(float)
    for op in operations.values():
        last[op["key"]] = max(last[op["key"]], op["came"])
    for i, begin, end, waits in calls:
        op = operations[i]
        shown = max(0.0, end - max(begin, last[op["key"]])) if waits else end - begin
        op["exposed"] += 1e-3 * shown
        op["waiting"] += 1e-3 * (end - begin - shown)


def groups(path):
    """{(group, operation, bytes): (a step's operations of a rank, exposed ms, waiting ms)}"""
    operations, calls, updates = read(path)
    split(operations, calls)
    ranks = len(updates)
    # From an update to the next: [rank][step][kind] in order.
    steps = defaultdict(lambda: defaultdict(list))
    for op in sorted(operations.values(), key=lambda o: o["begin"]):
        step = bisect(updates[op["rank"]], op["begin"])
        if 0 < step < len(updates[op["rank"]]):
            steps[op["rank"], op["group"], op["name"], op["bytes"]][step].append((op["exposed"], op["waiting"]))
    result = {}
    for (rank, *kind), by_step in steps.items():
        each = list(by_step.values()) + [[]] * (len(updates[rank]) - 1 - len(by_step))
        count = statistics.median_low([len(s) for s in each])
        n, exposed, waiting = result.get(tuple(kind), (0, 0.0, 0.0))
        for i in range(count):
            sample = [s[i] for s in each if len(s) > i]
            exposed += statistics.median(x for x, _ in sample) / ranks
            waiting += statistics.median(x for _, x in sample) / ranks
        result[tuple(kind)] = (n + count / ranks, exposed, waiting)
    return result


def main(run, name):
    found = groups(f"{run}/trace.json")
    exposed, waiting = (sum(row[i] for row in found.values()) for i in (1, 2))
    plan = json.load(open(f"{run}/ledger.json"))["prediction"]
    predicted = 1e3 * plan["predicted_exposed_communication_seconds"]
    print(f"{name:46} {predicted:12.2f} {exposed:12.2f} {exposed / predicted:8.2f} {waiting:12.2f}")
    if os.environ.get("DETAILS"):
        print(f"    a step predicted {1e3 * plan['predicted_step_seconds']:.1f}, measured {1e3 * plan['measured_step_seconds']:.1f} ms")
        for o in plan.get("operations_of_rank_0", []):
            print(f"    predicted: {o['axis']:9} {o['operation']:16} {o['count']:6.1f} x {o['bytes'] / o['count'] / 1024:9.1f} KiB"
                  f" sent  exposed {1e3 * o['predicted_seconds']:8.3f} ms  {o['carries']}")
        for (group, operation, size), (n, shown, waited) in sorted(found.items()):
            print(f"    {group:20} {operation:16} {n:6.1f} x {size / 1024:9.1f} KiB  exposed {shown:8.3f} ms"
                  f"  waiting {waited:8.3f} ms")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else sys.argv[1])
