#!/usr/bin/env python3
"""exposed.py NAME RUN...: the communication that a step exposes, predicted and measured, out of the ledgers of runs of one
layout and their traces of several steps: medians of the runs, and between what their ratios lie.

A run counts where the prediction that it made itself, from the links as they were before it, and that of its
plan_after.txt (train --dry-run, from the links after it) differ by at most STEADY times (1.15); its prediction
is their mean. What the run took has no say in that. Where none counts, all do, with a warning.

Exposed is the time that a rank's main thread is in calls on operations, for computation hides what happens
meanwhile. Where it waits, time counts while the rank that comes last to wait for the same operation, or to have
its part of it, is in calls on it too, or that in which it moves data itself, if that is more (launch/bench_links.c
measures the same): else the rank waits for slower computation (skew, a pipeline's bubble), not for the wire. Mean of the ranks; of each operation of a step the
median of the steps.
"""
import json
import os
import re
import statistics
import sys
from bisect import bisect
from collections import defaultdict


def read(path):
    """Operations {id: ...}, calls [(operation, begin, end, waits, moving)], and where each rank's steps begin, in us."""
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
            calls.append((e["args"]["operation"], e["ts"], e["ts"] + e["dur"], e["cat"] == "wait", e["args"]["moving_us"]))
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
        op["calls"] = []
    calls = [c for c in calls if c[0] in operations]
    for i, begin, end, waits, _ in calls:
        op = operations[i]
        op["came"] = min(op["came"], begin) if waits else op["came"]
        op["calls"].append((begin, end))
    last = {}
    for op in operations.values():
        if op["key"] not in last or op["came"] > last[op["key"]]["came"]:
            last[op["key"]] = op
    for i, begin, end, waits, moving in calls:
        op, other = operations[i], last[operations[i]["key"]]
        shown = end - begin
        if waits and op is not other:
            there = [c for c in other["calls"] if c[0] < other["came"]] + [(other["came"], end)]
            shown = max(moving, sum(max(0.0, min(end, e) - max(begin, b)) for b, e in there))
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


def median_rows(runs):
    """The median of each of the three figures of rows {key: figures}; 0 where a run has none."""
    keys = sorted({key for run in runs for key in run})
    zeros = (0.0,) * 3
    return {key: [statistics.median(run.get(key, zeros)[i] for run in runs) for i in range(3)] for key in keys}


def details(found, plans):
    step = [1e3 * statistics.median(p[f"{kind}_step_seconds"] for p in plans) for kind in ("predicted", "measured")]
    print(f"    a step predicted {step[0]:.1f}, measured {step[1]:.1f} ms")
    told = median_rows([{(o["axis"], o["operation"], o["carries"]): (o["count"], o["bytes"], o["predicted_seconds"])
                         for o in p.get("operations_of_rank_0", [])} for p in plans])
    for (axis, operation, carries), (count, size, seconds) in told.items():
        print(f"    predicted: {axis:9} {operation:16} {count:6.1f} x {size / count / 1024:9.1f} KiB"
              f" sent  exposed {1e3 * seconds:8.3f} ms  {carries}")
    for (group, operation, size), (n, shown, waited) in median_rows(found).items():
        print(f"    {group:20} {operation:16} {n:6.1f} x {size / 1024:9.1f} KiB  exposed {shown:8.3f} ms"
              f"  waiting {waited:8.3f} ms")


def predictions(run):
    """The ledger's prediction, and what is exposed by the links as they were before and after, in ms."""
    plan = json.load(open(f"{run}/ledger.json"))["prediction"]
    after = re.search(r", ([0-9.]+) (us|ms|s) of it in communication", open(f"{run}/plan_after.txt").read())
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[after[2]]
    return plan, 1e3 * plan["predicted_exposed_communication_seconds"], float(after[1]) * unit


def main(name, runs):
    told = [predictions(run) for run in runs]
    limit = float(os.environ.get("STEADY", "1.15"))
    steady = [i for i, (_, before, after) in enumerate(told) if max(before, after) <= limit * min(before, after)]
    taken = steady or range(len(runs))
    traced = [groups(f"{run}/trace.json") for run in runs]
    found = [traced[i] for i in taken]
    plans = [told[i][0] for i in taken]
    predicted = [(told[i][1] + told[i][2]) / 2 for i in taken]
    exposed, waiting = ([sum(row[i] for row in rows.values()) for rows in found] for i in (1, 2))
    ratios = [e / p for e, p in zip(exposed, predicted)]
    shown, planned, waited = (statistics.median(each) for each in (exposed, predicted, waiting))
    print(f"{name:46} {planned:12.2f} {shown:12.2f} {shown / planned:8.2f}  {min(ratios):5.2f}..{max(ratios):5.2f} {waited:12.2f}"
          f" {len(steady):3}/{len(runs)}" + ("" if steady else "  (the links changed in all of them)"))
    if os.environ.get("DETAILS"):
        for (_, before, after), run, rows in zip(told, runs, traced):
            print(f"    {os.path.basename(run)}: {before:.2f} before, {after:.2f} after, measured {sum(r[1] for r in rows.values()):.2f}")
        details(found, plans)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
