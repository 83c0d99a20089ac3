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
HOSTS = ROOT / "tests/hosts.sh"
# On hosts of their own, which go on with fewer ranks and the same sums:
ON_HOSTS = ["numerics.reduction=invariant"]


class Failed(Exception):
    pass


class Run:
    """A supervised run in runs/NAME; on emulated hosts of a rank each, or on this one."""

    def __init__(self, bench, name, steps, settings=(), hosts=False):
        self.dir = bench.runs / name
        self.plant = bench.work / f"plant-{name}"
        self.plant.mkdir()
        self.log = open(bench.work / f"{name}.log", "w+b")
        self.mark = f"run.name={name}"
        self.data = bench.data
        self.runs = bench.runs
        self.train = [LOCKSTEP, "train", "--resume", *bench.settings, self.mark, f"run.steps={steps}", *settings]
        supervise = [ROOT / "launch/supervise", "--run", self.dir]
        if hosts:
            command = [HOSTS, "-o", RANKS, 1, *supervise, "sh", "-c",
                       'exec "$0" --elastic --hosts "$HOSTS" --agent "$AGENT" --answer 2 "$@"',
                       ROOT / "launch/mpirun/run.sh", *self.train]
        else:
            command = [*supervise, ROOT / "launch/mpirun/local.sh", RANKS, "env", f"LD_PRELOAD={PLANT}", *self.train]
        if bench.cgroup:
            command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', bench.cgroup, *command]
        self.command = [str(c) for c in command]
        self.env = dict(os.environ, LOCKSTEP_ISA="generic", PLANT_DIR=str(self.plant), OMP_NUM_THREADS="1",
                        TMPDIR=str(bench.temporaries))
        self.began = time.monotonic()
        self.begin()

    def begin(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=self.env, start_new_session=True)

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

    def on_host(self, number):
        pids = subprocess.run(["ip", "netns", "pids", f"ls-{self.process.pid}-{number}"], capture_output=True, text=True)
        own = [int(pid) for pid in pids.stdout.split()]
        return [(pid, words) for pid, words in processes(None) if pid in own]

    def kill_start(self, rng):
        """Kills a rank; the supervisor notices when go_on is called."""
        self.process.send_signal(signal.SIGSTOP)
        os.kill(self.rank(rng.randrange(RANKS)), signal.SIGKILL)
        self.until("the end of the start", lambda: not any(w[0] == "mpirun" for _, w in processes(self.mark)))

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

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
    """Those with the word on their command line, or all."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (mark is None or mark.encode() in words) and int(entry.name) != os.getpid():
                found.append((int(entry.name), [w.decode(errors="replace") for w in words]))
    return found


# Faults. Each does its harm and returns, some of them how long it took to be noticed; what may come of it
# is beside it in the table below.
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
    run.kill_start(rng)
    newest = run.saved()[-1].parent
    file = rng.choice(sorted(newest.glob("rank-*.h5")))
    with open(file, "r+b") as f:
        f.seek(file.stat().st_size // 2)
        f.write(b"\0" * 4096)
    run.go_on()


def damage_shard(run, rng):
    """The next start refuses the data and is not repeated; with the shard put back the run goes on."""
    shard = min(run.data.glob("train-*.tok"))
    good = shard.read_bytes()
    put(shard, good[:700] + bytes([good[700] ^ 1]) + good[701:])
    began = time.monotonic()
    run.kill_start(rng)
    run.go_on()
    status = run.wait(60)
    noticed = time.monotonic() - began
    put(shard, good)
    if status != 1:
        raise Failed(f"the run with a damaged shard ended with {status}, not 1")
    run.begin()
    return noticed


def put(path, data):
    """In place of a file that may be mapped."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def plant(kind):
    def harm(run, _):
        run.ask(kind)
    return harm


def move_clock(run, _):
    run.ask("clock", 0)


def move_clock_and_kill(run, rng):
    """What is saved with the wrong time must not count as an hour when the next start has the right one."""
    run.ask("clock", 0)
    saved = run.saved()[-1:]
    run.until("a save", lambda: run.saved()[-1:] != saved)
    kill_rank(run, rng)


def throttle(run, _):
    """A rank gets a tenth of the time until that is told."""
    rank, words = run.rank(1), FAULTS["throttle"].words
    seen = run.text().count(words)
    began = time.monotonic()
    while run.text().count(words) <= seen and time.monotonic() < began + 60:
        os.kill(rank, signal.SIGSTOP)
        time.sleep(0.045)
        os.kill(rank, signal.SIGCONT)
        time.sleep(0.005)
    return time.monotonic() - began


def fill_disk(run, _):
    """Until a save has failed."""
    seen = run.text().count("was not saved")
    full = run.runs / "full"
    began = time.monotonic()
    with open(full, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"\0" * 65536)
        except OSError:
            pass
    run.until("a failed save", lambda: run.text().count("was not saved") > seen)
    noticed = time.monotonic() - began
    full.unlink()
    return noticed


def make_read_only(run, _):
    """The directory of the checkpoints, until a save has failed."""
    seen = run.text().count("was not saved")
    dir = run.dir / "checkpoints"
    subprocess.run(["mount", "--bind", dir, dir], check=True)
    began = time.monotonic()
    # Not while a save has files open there.
    run.until("it to be read-only", lambda: subprocess.run(
        ["mount", "-o", "remount,bind,ro", dir], capture_output=True).returncode == 0)
    run.until("a failed save", lambda: run.text().count("was not saved") > seen)
    noticed = time.monotonic() - began
    subprocess.run(["umount", "--lazy", dir], check=True)
    return noticed


def end_and_begin(run, statuses=(75,)):
    """Waits for the end that was asked for; then the same line again."""
    began = time.monotonic()
    status = run.wait(60)
    if status not in statuses:
        raise Failed(f"asked to end, the run ended with {status}")
    run.begin()
    return time.monotonic() - began


def ask_in_save(run, _):
    run.until("a save", run.saving)
    run.process.send_signal(signal.SIGTERM)
    return end_and_begin(run)


def ask_twice(run, _):
    """The second time the ranks are ended at once."""
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    run.process.send_signal(signal.SIGTERM)
    return end_and_begin(run, (75, 143, 3))


def ask_at_start(run, rng):
    told = run.text().count("supervise: restart")
    run.kill_start(rng)
    run.go_on()
    run.until("the next start", lambda: run.text().count("supervise: restart") > told)
    time.sleep(rng.random() * 0.3)  # of the 0.5 s that it takes
    run.process.send_signal(signal.SIGTERM)
    return end_and_begin(run)


def refuse(run, command, words):
    began = time.monotonic()
    other = subprocess.run([str(c) for c in command], env=run.env, capture_output=True, text=True)
    if other.returncode != 2 or words not in other.stderr:
        raise Failed(f"a job that should have been refused ended with {other.returncode}: {other.stderr[-800:]}")
    return time.monotonic() - began


def two_jobs(run, _):
    return refuse(run, [ROOT / "launch/mpirun/local.sh", 1, *run.train], "works in this directory")


def wrong_binary(run, _):
    other = run.runs.parent / "lockstep-other"
    shutil.copy(LOCKSTEP, other)
    with open(other, "ab") as f:
        f.write(b"\n")
    train = [*run.train[1:], "run.name=other"]
    noticed = refuse(run, [ROOT / "launch/mpirun/local.sh", 1, LOCKSTEP, *train, ":", "-n", 1, other, *train], "executable")
    if (run.runs / "other").exists():
        raise Failed("ranks of two programs have begun a run")
    return noticed


def cut_host(run, _):
    subprocess.run(["ip", "-n", f"ls-{run.process.pid}-s", "link", "set", f"port{RANKS - 1}", "down"], check=True)


def kill_daemon(run, _):
    os.kill(next(pid for pid, words in run.on_host(RANKS - 1) if words[0].endswith("orted")), signal.SIGKILL)


class Fault:
    """words: that the log must have then; restarts: the run has to be started again for it."""

    def __init__(self, what, harm, words="", restarts=True, needs=""):
        self.what, self.harm, self.words, self.restarts, self.needs = what, harm, words, restarts, needs


FAULTS = {
    "kill-rank": Fault("kill -9 of a rank", kill_rank, "restart 1 of"),
    "kill-first": Fault("kill -9 of rank 0", kill_first, "restart 1 of"),
    "kill-launcher": Fault("kill -9 of mpirun", kill_launcher, "restart 1 of"),
    "kill-daemon": Fault("kill -9 of mpirun's daemon on a host", kill_daemon, "restart 1 of", needs="hosts"),
    "cut": Fault("a host cut off: its link goes down", cut_host, "its host does not answer", needs="hosts"),
    "stop-rank": Fault("SIGSTOP of a rank in a step", stop_rank, "its process is stopped"),
    "stop-compute": Fault("SIGSTOP of a rank in a matrix product", plant("compute"), "its process is stopped"),
    "stop-reduce": Fault("SIGSTOP of a rank in an all-reduce", plant("reduce"), "its process is stopped"),
    "stop-save": Fault("SIGSTOP of a rank during a save", stop_in_save, "its process is stopped"),
    "throttle": Fault("a rank that gets a tenth of its processor", throttle, "times as long as the median", False),
    "kill-save": Fault("kill -9 of a rank during a save", kill_in_save, "restart 1 of"),
    "damaged": Fault("kill -9, and the newest checkpoint damaged before the restart", damage_newest, "is skipped"),
    "shard": Fault("kill -9, and a data shard damaged before the restart", damage_shard, "train-00000.tok"),
    "full": Fault("a full disk", fill_disk, "No space left", False, needs="mounts"),
    "read-only": Fault("the checkpoints' directory read-only", make_read_only, "Read-only file system", False,
                       needs="mounts"),
    "flip": Fault("a bit flipped in a rank's weights", plant("flip"), "silent corruption"),
    "state": Fault("a bit flipped in a rank's optimizer state", plant("state"), "silent corruption"),
    "gradient": Fault("a bit flipped in the sum of the gradients on a rank", plant("gradient"),
                      "silent corruption"),
    "nan": Fault("a NaN out of a matrix product of a rank", plant("nan"), "did not repeat", False),
    "memory": Fault("a rank that takes all memory of the job's cgroup", plant("memory"), "for lack of memory",
                    needs="cgroup"),
    "clock": Fault("the clock of rank 0 set back by an hour", move_clock, "", False),
    "clock-kill": Fault("the same, and kill -9 of a rank after the next save", move_clock_and_kill, "restart 1 of"),
    "term-start": Fault("SIGTERM while a start begins", ask_at_start),
    "term-save": Fault("SIGTERM during a save", ask_in_save, "stopped on request"),
    "term-twice": Fault("SIGTERM twice", ask_twice),
    "two-jobs": Fault("a second job in the same directory", two_jobs, "", False),
    "binary": Fault("a job with another binary on one rank", wrong_binary, "", False),
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

    def can(self, name):
        """Is there what the fault needs?"""
        needs = FAULTS[name].needs
        return {"": True, "cgroup": self.cgroup is not None, "mounts": self.shared_memory,
                "hosts": self.shared_memory and subprocess.run([HOSTS, "1", "1", "true"], capture_output=True).returncode == 0}[needs]

    def plain(self, steps, settings=()):
        run = Run(self, self.name("plain"), steps, settings)
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
        fault, words = FAULTS[name], FAULTS[name].words
        before = run.records()[-1]
        seen = run.text().count(words) if words else 0
        told = run.text().count("supervise: restart")
        outcome = run.dir / "outcome"
        noticed = fault.harm(run, rng)
        began = time.monotonic() - (noticed or 0)
        if not fault.restarts:
            run.until("word of it", lambda: not words or run.text().count(words) > seen, seconds)
            noticed = noticed or time.monotonic() - began
            step = run.records()[-1]["step"]
            if run.process.poll() != 0:  # it may have come to its end meanwhile
                run.until("the next step", lambda: run.records()[-1]["step"] > step, seconds)
            return {"fault": name, "noticed": noticed, "productive": time.monotonic() - began, "lost": 0}
        if noticed is None:
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
        hosts = FAULTS[name].needs == "hosts"
        run = Run(self, self.name(name), steps, ON_HOSTS if hosts else (), hosts)
        try:
            self.ready(run)
            result = self.strike(run, name, rng)
            status = run.wait(120)
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
    has come; those that need hosts of their own each in a run of its own."""
    end = time.monotonic() + seconds
    steps, count, todo = 600, 0, []
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
                if run.records()[-1]["step"] > steps - 8 * INTERVAL:
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
    parser.add_argument("--deadline", type=float, default=5, help="faults.min_deadline_s")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(FAULTS)
    if args.list:
        for name, fault in FAULTS.items():
            print(f"{name:14} {fault.what}")
        return 0
    own_shared_memory()
    rng = random.Random(args.seed)
    work, bench = tempfile.mkdtemp(), None
    try:
        bench = Bench(work, args.deadline)
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
            bench.cgroup.rmdir()
        if bench and bench.shared_memory:
            subprocess.run(["umount", "--lazy", bench.runs])
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
