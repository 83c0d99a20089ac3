#!/usr/bin/env python3
"""Faults in a training run: each is planted in a run that a supervisor keeps alive, and the run must end
with the parameters of an undisturbed one, to the last byte, and leave nothing behind.

  faults.py                       every fault once, each in a run of its own, and a table of times
  faults.py --only kill-rank,...  some of them
  faults.py --soak SECONDS        one run after another with faults in random order at random moments, all of
                                  them once before any comes again; --seed N repeats the order
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ.get("LOCKSTEP", str(ROOT / "build/release/bin/lockstep"))
EQUAL = os.environ.get("TEST_CKPT_EQUAL", str(ROOT / "build/release/tests/launch/ckpt_equal"))
PLANT = os.environ.get("TEST_PLANT", str(ROOT / "build/release/tests/launch/libplant.so"))
RANKS = 3
INTERVAL = 20  # steps between checkpoints


class Failed(Exception):
    pass


class Run:
    """A supervised run in runs/NAME."""

    def __init__(self, bench, name, steps, settings=()):
        self.dir = bench.runs / name
        self.plant = bench.work / f"plant-{name}"
        self.plant.mkdir()
        self.log = open(bench.work / f"{name}.log", "w+b")
        self.mark = f"run.name={name}"
        self.runs = bench.runs
        command = [ROOT / "launch/supervise", "--run", self.dir, ROOT / "launch/mpirun/local.sh", RANKS,
                   "env", f"LD_PRELOAD={PLANT}", LOCKSTEP, "train", "--resume", *bench.settings, self.mark,
                   f"run.steps={steps}", *settings]
        env = dict(os.environ, LOCKSTEP_ISA="generic", PLANT_DIR=str(self.plant), OMP_NUM_THREADS="1", TMPDIR=str(bench.temporaries))
        if bench.cgroup:
            command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', bench.cgroup, *command]
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, env=env, start_new_session=True)

    def over(self):
        return self.process.poll() is not None

    def text(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def records(self):
        try:
            lines = (self.dir / "train.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # torn by a kill
                pass
        return found

    def saved(self):
        return sorted((self.dir / "checkpoints").glob("step-*/manifest.json"))

    def saving(self):
        return list((self.dir / "checkpoints").glob(".tmp-*"))

    def until(self, what, holds, seconds=60):
        end = time.monotonic() + seconds
        while not holds():
            if self.over():
                raise Failed(f"the run ended with {self.process.returncode} before {what}")
            if time.monotonic() > end:
                raise Failed(f"waited {seconds} s in vain for {what}")
            time.sleep(0.004)

    def rank(self, number):
        """The process of a rank."""
        for pid, words in processes(self.mark):
            if pathlib.Path(words[0]).name != "lockstep":
                continue
            try:
                environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if b"\0OMPI_COMM_WORLD_RANK=%d\0" % number in b"\0" + environ:
                return pid
        raise Failed(f"rank {number} is not there")

    def mpirun(self):
        return next(pid for pid, words in processes(self.mark) if words[0] == "mpirun")

    def ask(self, kind, rank=1):
        (self.plant / f"{kind}-{rank}").touch()

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"the run did not end in {seconds} s") from None

    def end(self):
        """Whatever is left of it."""
        for pid, _ in processes(self.mark):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def processes(mark):
    """Those with the word on their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words and int(entry.name) != os.getpid():
                found.append((int(entry.name), [w.decode(errors="replace") for w in words]))
    return found


# Faults. Each does its harm and returns; what may come of it is beside it in the table below.
def kill_rank(run, _):
    os.kill(run.rank(RANKS - 1), signal.SIGKILL)


def kill_first(run, _):
    os.kill(run.rank(0), signal.SIGKILL)


def kill_launcher(run, _):
    os.kill(run.mpirun(), signal.SIGKILL)


def stop_rank(run, rng):
    time.sleep(rng.random() * 0.05)  # somewhere in a step
    os.kill(run.rank(1), signal.SIGSTOP)


def stop_in_save(run, _):
    run.until("a save", run.saving)
    os.kill(run.rank(1), signal.SIGSTOP)


def kill_in_save(run, rng):
    run.until("a save", run.saving)
    time.sleep(rng.random() * 0.02)
    os.kill(run.rank(rng.randrange(RANKS)), signal.SIGKILL)


def damage_newest(run, rng):
    """Kills a rank, and damages the newest checkpoint before the next start looks for it."""
    run.until("a checkpoint to fall back to", lambda: len(run.saved()) > 1)
    os.kill(run.rank(rng.randrange(RANKS)), signal.SIGKILL)
    run.until("the end of the start", lambda: not any(w[0] == "mpirun" for _, w in processes(run.mark)))
    newest = run.saved()[-1].parent
    file = rng.choice(sorted(newest.glob("rank-*.h5")))
    with open(file, "r+b") as f:
        f.seek(file.stat().st_size // 2)
        f.write(b"\0" * 4096)


def flip_weight(run, _):
    run.ask("flip")


def flip_gradient(run, _):
    run.ask("gradient")


def plant_nan(run, _):
    run.ask("nan")


def use_memory(run, _):
    run.ask("memory")


def move_clock(run, _):
    run.ask("clock", 0)


# name: (what it is, harm, does the run have to be started again, words that the log must have then)
FAULTS = {
    "kill-rank": ("kill -9 of a rank", kill_rank, True, "restart 1 of"),
    "kill-first": ("kill -9 of rank 0", kill_first, True, "restart 1 of"),
    "kill-launcher": ("kill -9 of mpirun", kill_launcher, True, "restart 1 of"),
    "stop-rank": ("SIGSTOP of a rank in a step", stop_rank, True, "its process is stopped"),
    "stop-save": ("SIGSTOP of a rank during a save", stop_in_save, True, "its process is stopped"),
    "kill-save": ("kill -9 of a rank during a save", kill_in_save, True, "restart 1 of"),
    "damaged": ("kill -9, and the newest checkpoint damaged before the restart", damage_newest, True,
                "is skipped"),
    "flip": ("a bit flipped in a rank's weights or optimizer state", flip_weight, True, "silent corruption"),
    "gradient": ("a bit flipped in the sum of the gradients on a rank", flip_gradient, True,
                 "silent corruption"),
    "nan": ("a NaN out of a matrix product of a rank", plant_nan, False, "did not repeat"),
    "memory": ("a rank that takes all memory of the job's cgroup", use_memory, True, "for lack of memory"),
    "clock": ("the clock of rank 0 set back by an hour", move_clock, False, ""),
}


class Bench:
    def __init__(self, work, deadline_s):
        self.work = pathlib.Path(work)
        self.runs = self.work / "runs"
        text = self.work / "text"
        text.mkdir()
        lines = (ROOT / "README.md").read_text().splitlines(keepends=True)
        for i in range(24):
            (text / f"{i}.txt").write_text(f"part {i}\n" + "".join(lines[i * 7:i * 7 + 60]))
        data = self.work / "data"
        subprocess.run([LOCKSTEP, "prep", text, "-o", data, "--val", "0.2"], check=True, capture_output=True)
        # fp32 without instruction sets, and mpi: their functions are those of libraries, where faults are planted.
        self.settings = ["model.preset=llama3-tiny", "model.context=32", f"data.dir={data}",
                         "batch.sequences=12", "batch.micro=2", f"run.dir={self.runs}", "optim.lr=1e-3",
                         "schedule.kind=constant", "eval.every=0", "eval.batches=2", "parallel.transport=mpi",
                         "numerics.compute=fp32", f"checkpoint.every={INTERVAL}", "checkpoint.keep_last=4",
                         "faults.compare_every=5", f"faults.min_deadline_s={deadline_s}",
                         "metrics.tensorboard=false"]
        self.shared_memory = "LOCKSTEP_FAULTS_INSIDE" in os.environ
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

    def plain(self, steps):
        run = Run(self, self.name("plain"), steps)
        if run.wait(300) != 0:
            raise Failed(f"the undisturbed run failed:\n{run.text()}")
        return run

    def ready(self, run):
        """Some steps after a new checkpoint of the present start."""
        begun = len(run.records())
        saved = run.saved()[-1:]
        run.until("a new checkpoint", lambda: run.saved()[-1:] != saved)
        run.until("steps after it", lambda: len(run.records()) > begun + INTERVAL + 3)

    def strike(self, run, name, rng, seconds=60):
        """One fault, and the way back to a productive step; seconds to notice it and to get there."""
        _, harm, restarts, words = FAULTS[name]
        before = run.records()[-1]
        seen = run.text().count(words) if words else 0
        told = run.text().count("supervise: restart")
        outcome = run.dir / "outcome"
        harm(run, rng)
        began = time.monotonic()
        if not restarts:
            run.until("word of it", lambda: not words or run.text().count(words) > seen, seconds)
            run.until("the next step", lambda: run.records()[-1]["step"] > before["step"], seconds)
            noticed = time.monotonic() - began
            return {"fault": name, "noticed": noticed, "productive": noticed, "lost": 0}
        run.until("word of it", lambda: outcome.exists() or run.text().count("supervise: restart") > told, seconds)
        noticed = time.monotonic() - began
        run.until("a step of the next start", lambda: run.records()[-1]["restarts"] > before["restarts"], seconds)
        productive = time.monotonic() - began
        if words and run.text().count(words) <= seen:
            raise Failed(f"the log lacks '{words}'")
        records = run.records()
        first = next(r for r in records if r["restarts"] > before["restarts"])
        last = max(r["step"] for r in records if r["restarts"] <= before["restarts"])
        return {"fault": name, "noticed": noticed, "productive": productive, "lost": last - first["step"] + 1}

    def single(self, name, plain, steps, rng):
        run = Run(self, self.name(name), steps)
        try:
            self.ready(run)
            result = self.strike(run, name, rng)
            status = run.wait(120)
            if status != 0:
                raise Failed(f"the run ended with {status}")
            self.check_end(run, steps, plain)
            return result
        except Failed as failure:
            raise Failed(f"{name}: {failure}\n{run.text()[-4000:]}") from None
        finally:
            run.end()


def table(bench, names, steps, repeat, rng):
    plain = bench.plain(steps)
    print(f"{'fault':68} {'noticed':>9} {'next step':>10} {'steps lost':>11}")
    for name in names:
        results = [bench.single(name, plain, steps, rng) for _ in range(repeat)]
        worst = {key: max(r[key] for r in results) for key in ("noticed", "productive", "lost")}
        print(f"{FAULTS[name][0]:68} {worst['noticed']:8.2f}s {worst['productive']:9.2f}s {worst['lost']:11d}",
              flush=True)


def soak(bench, names, seconds, rng):
    """Runs of so many steps that a few faults fit, one after another until the time is up and every fault
    has come."""
    end = time.monotonic() + seconds
    steps, count, todo = 400, 0, []
    plain = bench.plain(steps)
    while time.monotonic() < end or count < len(names):
        run = Run(bench, bench.name("soak"), steps)
        happened = []
        try:
            while not run.over():
                bench.ready(run)
                if run.records()[-1]["step"] > steps - 3 * INTERVAL:
                    break
                if time.monotonic() > end and count >= len(names):
                    break
                time.sleep(rng.random() * 0.2)
                todo = todo or rng.sample(names, len(names))
                happened.append(todo.pop())
                bench.strike(run, happened[-1], rng)
                count += 1
            status = run.wait(300)
            if status != 0:
                raise Failed(f"the run ended with {status}")
            bench.check_end(run, steps, plain)
        except Failed as failure:
            raise Failed(f"after {' '.join(happened)}: {failure}\n{run.text()[-6000:]}") from None
        finally:
            run.end()
    print(f"{count} faults, of {len(names)} kinds: every run ended with the bytes of the undisturbed one")


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
    parser.add_argument("--deadline", type=float, default=5, help="faults.min_deadline_s")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(FAULTS)
    if args.list:
        for name, fault in FAULTS.items():
            print(f"{name:14} {fault[0]}")
        return 0
    own_shared_memory()
    rng = random.Random(args.seed)
    work, bench = tempfile.mkdtemp(), None
    try:
        bench = Bench(work, args.deadline)
        if not bench.cgroup and "memory" in names:
            print("left out: memory, because no cgroup can be made here", file=sys.stderr)
            names.remove("memory")
        if args.soak:
            soak(bench, names, args.soak, rng)
        else:
            table(bench, names, args.steps, args.repeat, rng)
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        if bench and bench.cgroup:
            bench.cgroup.rmdir()
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
