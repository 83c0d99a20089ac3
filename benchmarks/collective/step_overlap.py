#!/usr/bin/env python3
"""What a data-parallel training step on 2 hosts leaves exposed of its all-reduce.

The hosts are network namespaces joined by a link of --rate Mbit/s (tests/hosts.sh; as root). For each number of tokens
of a rank's micro-batch:
  - the step and its backward without communication: each rank trains by itself, all at the same time;
  - the communication alone: an all-reduce of as many bytes as the gradients have, by the same back end;
  - the step of the ranks together.
Exposed is what the last takes beyond the first; max(0, communication - backward) of it nothing can hide. Where it
comes from tell the parts of a step, beside those alone: what becomes final with the last operations is waited for behind
them; of two ranks, one waits for the slower; and what moves the data takes its time from what computes where no processor
is free, of which the last line tells how much a step.
"""
import argparse, json, os, pathlib, resource, statistics, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ.get("LOCKSTEP", str(ROOT / "build/release/bin/lockstep"))
# A rank that does not know of the others.
ALONE = """rank=$OMPI_COMM_WORLD_RANK
for name in $(env | sed -n 's/^\\(OMPI_COMM[A-Z_]*\\|PMIX_[A-Z_]*\\|PMI_[A-Z_]*\\)=.*/\\1/p'); do unset "$name"; done
exec "$@" run.name=alone-$rank"""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"step_overlap: {' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def run_ranks(*command):
    """Processor seconds of the first host's ranks, and how often they offered or had to leave the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_nivcsw - before.ru_nivcsw)


def step_s(folder, first):
    return statistics.median(json.loads(line)["seconds"] for line in list(open(folder / "train.jsonl"))[first - 1:])


def trace_of(folder):
    return json.load(open(folder / "trace.json"))["traceEvents"]


def parts(events, rank=0):
    """Of each whole step of a rank, in s: forward; backward, up to the wait for the sums; that; update."""
    steps, times = [], {}
    for e in sorted((e for e in events if e["ph"] == "X" and e["cat"] == "step" and e["pid"] == rank), key=lambda e: e["ts"]):
        name, begin, end = e["name"].split(" ")[0], e["ts"], e["ts"] + e["dur"]
        if name == "backward":
            times.setdefault(name, begin)
        elif name == "reduction" and "backward" in times:
            times.update(wait=begin, end=end)
        elif name == "update":
            if "begin" in times and "end" in times:
                at = times["begin"], times["backward"], times["wait"], times["end"], end
                steps.append([1e-6 * (b - a) for a, b in zip(at, at[1:])])
            times = {"begin": end}
    return steps


def medians(steps):
    return [statistics.median(part) for part in zip(*steps)]


def tell_parts(alone, together):
    """alone: [rank][step][part]; together likewise, of the same steps on all ranks."""
    before, now = medians(sum(alone, [])), medians(sum(together, []))
    waits = [[step[2] for step in ranks] for ranks in zip(*together)]  # [step][rank]
    least, mean = statistics.median(map(min, waits)), statistics.median(map(statistics.mean, waits))
    more = [1e3 * (n - b) for n, b in zip(now, before)]
    print(f"  parts beyond those alone, in ms: forward {more[0]:+.0f}, backward {more[1]:+.0f}, wait behind it {1e3 * least:.0f}, "
          f"for slower ranks {1e3 * (mean - least):.0f}, update {more[3]:+.0f}")


def measure(options, work, tokens, first=3):
    on_hosts = [str(ROOT / "tests/hosts.sh"), "-r", f"{options.rate}mbit", "2", str(options.ranks)]
    runs = work / f"runs-{tokens}"
    ranks = 2 * options.ranks
    job = ["train", f"model.preset={options.model}", f"model.context={tokens}", f"data.dir={work}/data", f"run.dir={runs}",
           f"run.steps={options.steps}", "run.threads=1", "batch.micro=1", "eval.every=0", "eval.batches=1", "checkpoint.at_end=false", "checkpoint.async=false",
           "metrics.every=1", f"metrics.trace_steps={first}..{options.steps}"]
    job += options.set
    alone_use = run_ranks(*on_hosts, "sh", "-c", ALONE, "alone", LOCKSTEP, *job, "batch.sequences=1")
    use = run_ranks(*on_hosts, LOCKSTEP, *job, f"batch.sequences={ranks}", "run.name=together")
    cost_s, switches = ((u - a) / options.steps for u, a in zip(use, alone_use))
    trace = trace_of(runs / "together")
    reductions = [e for e in trace if e["pid"] == 0 and e["ph"] == "b" and e["cat"] == "gradients"]
    size = sum(e["args"]["bytes"] for e in reductions) // (options.steps - first + 1)
    bench = json.loads(run(*on_hosts, LOCKSTEP, "bench", "collective", "--json", "--minbytes", str(size), "-e", str(size),
                           "-n", str(options.iterations), "-w", "1", "--redop", "tree"))
    alone = statistics.median(step_s(runs / f"alone-{r}", first) for r in range(ranks))
    parts_alone = [parts(trace_of(runs / f"alone-{r}")) for r in range(ranks)]
    backward = medians(sum(parts_alone, []))[1]
    comm, together = bench["sizes"][0]["in_place"]["seconds"], step_s(runs / "together", first)
    exposed, least = together - alone, max(0.0, comm - backward)
    limit = size / (options.rate * 1e6 / 8)
    print(f"{tokens} tokens a rank: step alone {alone:.3f} s, its backward {backward:.3f} s; all-reduce of "
          f"{size / 2**20:.1f} MiB ({bench['backend']}) alone {comm:.3f} s, {comm / limit:.2f} x the link's limit")
    print(f"  together {together:.3f} s: exposed {exposed:.3f} s, of which nothing hides {least:.3f} s; "
          f"the rest is {100 * (exposed - least) / comm:+.1f} % of the communication")
    tell_parts(parts_alone, [parts(trace, r) for r in range(ranks)])
    print(f"  the first host's ranks beyond those alone: {cost_s:.3f} s of processor time, {switches:.0f} switches a step", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=int, nargs="*", default=[512, 128], help="of a micro-batch (512 128)")
    parser.add_argument("--ranks", type=int, default=2, help="of each host (2)")
    parser.add_argument("--model", default="gpt2-10m", help="a preset (gpt2-10m)")
    parser.add_argument("--rate", type=int, default=1000, help="Mbit/s of the link (1000)")
    parser.add_argument("--steps", type=int, default=12, help="of each run; the first two do not count (12)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the runs")
    parser.add_argument("--iterations", type=int, default=7, help="of the all-reduce alone (7)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        run(LOCKSTEP, "prep", str(ROOT / "collectives"), str(ROOT / "launch"), "-o", str(work / "data"), "--val", "0.05")
        for tokens in options.tokens:
            measure(options, work, tokens)


if __name__ == "__main__":
    main()
