#!/usr/bin/env python3
"""Faults in a training run: each is planted in a run that a supervisor keeps alive, and the run must end
with the parameters of an undisturbed one, to the last byte, and leave nothing behind.

  faults.py                       every fault once, each in a run of its own, and a table of times
  faults.py --only kill-rank,...  some of them
  faults.py --soak SECONDS        one run after another with faults in random order at random moments, all of
                                  them once before any comes again; --seed N repeats the order; hours on a
                                  busy machine: with --patience 300
  faults.py --list                the faults

LOCKSTEP names the binary, TEST_CKPT_EQUAL and TEST_PLANT what the tests build. Exit status 0: all of it
held; 1: not, and what did not is told."""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # beside the sources
from harms import FAULTS  # noqa: E402
from run import HOSTS, INTERVAL, LOCKSTEP, PLANT, ROOT, Failed, Run, need_built, processes  # noqa: E402

EQUAL = os.environ.get("TEST_CKPT_EQUAL", str(ROOT / "build/release/tests/launch/ckpt_equal"))
# On hosts of their own, which go on with fewer ranks and the same sums:
ON_HOSTS = ["numerics.reduction=invariant"]


class Bench:
    def __init__(self, work, deadline_s, patience):
        self.patience = patience
        self.work = pathlib.Path(work)
        self.runs = self.work / "runs"
        text = self.work / "text"
        text.mkdir()
        lines = (ROOT / "README.md").read_text().splitlines(keepends=True)
        for i in range(24):
            (text / f"{i}.txt").write_text(f"part {i}\n" + "".join(lines[i * 7:i * 7 + 60]))
        data = self.data = self.work / "data"
        subprocess.run([LOCKSTEP, "prep", text, "-o", data, "--val", "0.2"], check=True, capture_output=True)
        # fp32 without instruction sets, and mpi: their functions are those of libraries, where faults are planted.
        self.settings = ["model.preset=llama3-tiny", "model.context=32", f"data.dir={data}",
                         "batch.sequences=12", "batch.micro=2", f"run.dir={self.runs}", "optim.lr=1e-3",
                         "schedule.kind=constant", "eval.every=0", "eval.batches=2", "parallel.transport=mpi",
                         "numerics.compute=fp32", f"checkpoint.every={INTERVAL}", "checkpoint.keep_last=4",
                         "faults.compare_every=5", f"faults.min_deadline_s={deadline_s}",
                         "metrics.tensorboard=false", "metrics.every=5"]
        self.shared_memory = "LOCKSTEP_FAULTS_INSIDE" in os.environ
        if self.shared_memory:
            self.runs.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "none", self.runs], check=True)
        self.temporaries = self.work / "tmp"
        self.temporaries.mkdir()
        self.cgroup = self.make_cgroup(1 << 30)
        self.count = 0

    def make_cgroup(self, limit_bytes):
        """All runs share it. None where there are no memory cgroups to be made."""
        own = [line.split(":", 2) for line in open("/proc/self/cgroup").read().splitlines()]
        for _, kind, path in own:
            if kind == "memory" or kind == "":
                top = pathlib.Path("/sys/fs/cgroup" + ("/memory" if kind else "") + path.rstrip("/"))
                made = top / f"lockstep-faults-{os.getpid()}"
                try:
                    made.mkdir()
                    (made / ("memory.limit_in_bytes" if kind else "memory.max")).write_text(str(limit_bytes))
                    return made
                except OSError:
                    if made.exists():
                        made.rmdir()
        return None

    def remove_cgroup(self):
        """A shell's last sleep may still end."""
        for _ in range(50):
            try:
                return self.cgroup.rmdir()
            except OSError:
                time.sleep(0.1)
        raise Failed(f"processes are left in {self.cgroup}")

    def name(self, kind):
        self.count += 1
        return f"{kind}-{self.count}-{os.getpid()}"

    def check_end(self, run, steps, plain):
        """The bytes of the undisturbed run, and nothing left behind."""
        last = f"checkpoints/step-{steps:08d}"
        equal = subprocess.run([EQUAL, plain.dir / last, run.dir / last], capture_output=True, text=True)
        if equal.returncode != 0:
            raise Failed(f"the parameters are not those of the undisturbed run: {equal.stderr.strip()}")
        left = [words for _, words in processes(run.mark)]
        left += os.listdir("/dev/shm") if self.shared_memory else []
        left += os.listdir(self.temporaries)
        left += [str(p) for p in run.dir.rglob(".tmp*")] + [str(p) for p in run.dir.glob("lock.json")]
        if left:
            raise Failed(f"left behind: {left}")
        told = json.loads((run.dir / "ledger.json").read_text())["counters"]["wall_seconds"]
        passed = time.monotonic() - run.began
        if told > passed:
            raise Failed(f"the ledger tells of {told:.0f} s, and {passed:.0f} s have passed")
        shutil.rmtree(run.dir)  # a long soak's disk has room for few

    def can(self, name):
        """Is there what the fault needs?"""
        needs = FAULTS[name].needs
        return {"": True, "cgroup": self.cgroup is not None, "mounts": self.shared_memory,
                "hosts": self.shared_memory and subprocess.run([HOSTS, "1", "1", "true"], capture_output=True).returncode == 0}[needs]

    def plain(self, steps, settings=()):
        run = Run(self, self.name("plain"), steps, settings)
        try:
            if run.wait(5) != 0:
                raise Failed(f"the undisturbed run failed:\n{run.text()}")
            return run
        finally:
            run.end()

    def ready(self, run):
        """Some steps after a new checkpoint of the present start, or the run's end: a fault that stops nothing,
        such as a second job, lets it go on."""
        begun = len(run.records())
        saved = run.saved()[-1:]
        run.until("a new checkpoint", lambda: run.saved()[-1:] != saved or run.process.poll() == 0)
        run.until("steps after it", lambda: len(run.records()) > begun + INTERVAL + 3 or run.process.poll() == 0)

    def strike(self, run, name, rng):
        """One fault, and the way back to a productive step; seconds to notice it and to get there."""
        fault, words = FAULTS[name], FAULTS[name].words
        before = run.records()[-1]
        seen = run.text().count(words) if words else 0
        told = run.text().count("supervise: restart")
        outcome = run.dir / "outcome"
        noticed = fault.harm(run, rng)
        began = time.monotonic() - (noticed or 0)
        if not fault.restarts:
            run.until("word of it", lambda: not words or run.text().count(words) > seen)
            noticed = noticed or time.monotonic() - began
            step = run.records()[-1]["step"]
            run.until("the next step, or the end that it may have come to",
                      lambda: run.records()[-1]["step"] > step or run.process.poll() == 0)
            return {"fault": name, "noticed": noticed, "productive": time.monotonic() - began, "lost": 0}
        if noticed is None:
            run.until("word of it", lambda: outcome.exists() or run.text().count("supervise: restart") > told)
            noticed = time.monotonic() - began
        run.until("a step of the next start", lambda: run.records()[-1]["restarts"] > before["restarts"])
        productive = time.monotonic() - began
        if words and run.text().count(words) <= seen:
            raise Failed(f"the log lacks '{words}'")
        records = run.records()
        first = next(r for r in records if r["restarts"] > before["restarts"])
        last = max(r["step"] for r in records if r["restarts"] <= before["restarts"])
        return {"fault": name, "noticed": noticed, "productive": productive, "lost": last - first["step"] + 1}

    def single(self, name, plain, steps, rng):
        hosts = FAULTS[name].needs == "hosts"
        run = Run(self, self.name(name), steps, ON_HOSTS if hosts else (), hosts, FAULTS[name].links)
        try:
            self.ready(run)
            result = self.strike(run, name, rng)
            status = run.wait(2)
            if status != 0:
                raise Failed(f"the run ended with {status}")
            self.check_end(run, steps, plain[hosts])
            return result
        except Failed as failure:
            raise Failed(f"{name}: {failure}\n{run.text()[-4000:]}") from None
        finally:
            run.end()


def table(bench, names, steps, repeat, rng):
    plain = [bench.plain(steps), bench.plain(steps, ON_HOSTS)]
    print(f"{'fault':68} {'noticed':>9} {'next step':>10} {'steps lost':>11}")
    for name in names:
        results = [bench.single(name, plain, steps, rng) for _ in range(repeat)]
        worst = {key: max(r[key] for r in results) for key in ("noticed", "productive", "lost")}
        print(f"{FAULTS[name].what:68} {worst['noticed']:8.2f}s {worst['productive']:9.2f}s {worst['lost']:11d}",
              flush=True)


def soak(bench, names, seconds, rng):
    """Runs of so many steps that a few faults fit, one after another until the time is up and every fault
    has come; those that need hosts of their own each in a run of its own. No fault is begun so near the end
    that the run may be over before it acts."""
    begun = time.monotonic()
    end = begun + seconds
    last = int(8 * INTERVAL * max(1, bench.patience / 60))
    steps, count, left = 440 + last, 0, []
    apart = [name for name in names if FAULTS[name].needs == "hosts"]
    names = [name for name in names if name not in apart]
    plain = bench.plain(steps)
    if apart:
        short = [None, bench.plain(160, ON_HOSTS)]
        for name in apart:
            bench.single(name, short, 160, rng)
    while time.monotonic() < end or count < len(names):
        run = Run(bench, bench.name("soak"), steps)
        happened = []
        try:
            while not run.over():
                bench.ready(run)
                if run.over() or run.records()[-1]["step"] > steps - last:
                    break
                if time.monotonic() > end and count >= len(names):
                    break
                time.sleep(rng.random() * 0.2)
                left = left or rng.sample(names, len(names))
                happened.append(left.pop())
                bench.strike(run, happened[-1], rng)
                count += 1
            status = run.wait(5)
            if status != 0:
                raise Failed(f"the run ended with {status}")
            bench.check_end(run, steps, plain)
            print(f"{time.monotonic() - begun:6.0f} s: {count + len(apart)} faults, the last {' '.join(happened)}", flush=True)
        except Failed as failure:
            raise Failed(f"after {' '.join(happened)}: {failure}\n{run.text()[-6000:]}") from None
        finally:
            run.end()
    print(f"{count + len(apart)} faults, of {len(names) + len(apart)} kinds: every run ended with the bytes of the undisturbed one")


def own_shared_memory():
    """Begins anew with a /dev/shm of its own, in which other jobs leave nothing; needs root."""
    if "LOCKSTEP_FAULTS_INSIDE" in os.environ or os.getuid() != 0:
        return
    inside = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh"]
    if subprocess.run(inside + ["true"], capture_output=True).returncode == 0:
        os.environ["LOCKSTEP_FAULTS_INSIDE"] = "1"
        os.execvp(inside[0], inside + [sys.executable] + sys.argv)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="faults, with commas between them")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="the worst of so many is told")
    parser.add_argument("--steps", type=int, default=160, help="of a run")
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=60, metavar="SECONDS",
                        help="to wait for each thing that must happen, and some times that for the end of a run: the more, the "
                        "busier the machine")
    parser.add_argument("--deadline", type=float, default=5, help="faults.min_deadline_s")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(FAULTS)
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        parser.error(f"no fault is called {unknown[0]!r}; --list has them all")
    if args.list:
        for name, fault in FAULTS.items():
            print(f"{name:14} {fault.what}")
        return 0
    need_built(LOCKSTEP, EQUAL, PLANT)
    own_shared_memory()
    rng = random.Random(args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # on which what is temporary goes
    work, bench = tempfile.mkdtemp(), None
    try:
        bench = Bench(work, args.deadline, args.patience)
        for name in [name for name in names if not bench.can(name)]:
            print(f"left out: {name}, for want of {FAULTS[name].needs}", file=sys.stderr)
            names.remove(name)
        if args.soak:
            soak(bench, names, args.soak, rng)
        else:
            table(bench, names, args.steps, args.repeat, rng)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        if bench and bench.cgroup:
            bench.remove_cgroup()
        if bench and bench.shared_memory:
            subprocess.run(["umount", "--lazy", bench.runs])
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
