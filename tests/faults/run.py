"""A run that a supervisor keeps alive, as the faults see it."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHERS = ("mpirun", "prterun")  # the latter is what Open MPI 5 calls itself
LOCKSTEP = os.environ.get("LOCKSTEP", str(ROOT / "build/release/bin/lockstep"))
PLANT = os.environ.get("TEST_PLANT", str(ROOT / "build/release/tests/launch/libplant.so"))
RANKS = 3
INTERVAL = 20  # steps between checkpoints
HOSTS = ROOT / "tests/hosts.sh"


class Failed(Exception):
    pass


def need_built(*files):
    """Ends before the first run where something is missing that a later one would fail on."""
    for file in files:
        if not os.path.exists(file):
            print(f"there is no {file}; launch/setup.sh --tests builds it", file=sys.stderr)
            sys.exit(2)


class Run:
    """A supervised run in runs/NAME; on emulated hosts of a rank each, or on this one."""

    def __init__(self, bench, name, steps, settings=(), hosts=False, links=1):
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
            command = [HOSTS, "-l", links, "-o", RANKS, 1, *supervise, "sh", "-c",
                       'exec "$0" --elastic --hosts "$HOSTS" --agent "$AGENT" --answer 2 "$@"',
                       ROOT / "launch/mpirun/run.sh", *self.train]
        else:
            command = [*supervise, ROOT / "launch/mpirun/local.sh", RANKS, "env", f"LD_PRELOAD={PLANT}", *self.train]
        if bench.cgroup:
            command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', bench.cgroup, *command]
        self.command = [str(c) for c in command]
        self.env = dict(os.environ, LOCKSTEP_ISA="generic", PLANT_DIR=str(self.plant), OMP_NUM_THREADS="1",
                        TMPDIR=str(bench.temporaries))
        self.patience = bench.patience
        self.cgroup = bench.cgroup
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

    def until(self, what, holds):
        end = time.monotonic() + self.patience
        while True:
            over = self.over()
            if holds():
                return
            if over:
                raise Failed(f"the run ended with {self.process.returncode} before {what}")
            if time.monotonic() > end:
                raise Failed(f"waited {self.patience:g} s in vain for {what}")
            time.sleep(0.004)

    def rank(self, number):
        pid = rank_process(self.mark, number)
        if pid is None:
            raise Failed(f"rank {number} is not there")
        return pid

    def mpirun(self):
        return next(pid for pid, words in processes(self.mark) if words[0].endswith(LAUNCHERS))

    def on_host(self, number):
        pids = subprocess.run(["ip", "netns", "pids", f"ls-{self.process.pid}-{number}"], capture_output=True, text=True)
        own = [int(pid) for pid in pids.stdout.split()]
        return [(pid, words) for pid, words in processes(None) if pid in own]

    def kill_start(self, rng):
        """Kills a rank; the supervisor notices when go_on is called."""
        self.process.send_signal(signal.SIGSTOP)
        os.kill(self.rank(rng.randrange(RANKS)), signal.SIGKILL)
        self.until("the end of the start", lambda: not any(w[0].endswith(LAUNCHERS) for _, w in processes(self.mark)))

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def ask(self, kind, rank=1):
        (self.plant / f"{kind}-{rank}").touch()

    def wait(self, times=1):
        """For its end, `times` as long as for anything else."""
        try:
            return self.process.wait(times * self.patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"the run did not end in {times * self.patience:g} s") from None

    def end(self):
        """Whatever is left of it, and of what it has begun."""
        left = [pid for pid, _ in processes(self.mark)]
        left += map(int, (self.cgroup / "cgroup.procs").read_text().split()) if self.cgroup else []
        for pid in set(left):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
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


def rank_process(mark, number):
    """The process of a rank; None: not yet, or not any more."""
    for pid, words in processes(mark):
        if pathlib.Path(words[0]).name.startswith("lockstep"):
            try:
                environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if b"\0OMPI_COMM_WORLD_RANK=%d\0" % number in b"\0" + environ:
                return pid
    return None
