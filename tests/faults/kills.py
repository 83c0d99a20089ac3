#!/usr/bin/env python3
"""Ranks killed and stopped at any moment, on every back end: of a training run of 2 to 4 ranks that nobody looks
after, drawn from a seed, one rank gets SIGKILL or SIGSTOP at a random moment of its life, or in a save or an
evaluation. The run must end by itself and name that rank, give the status that belongs to it, write every rank's
flight record and leave nothing behind; and started again it must end with the bytes of an undisturbed one.

  kills.py [--seed N] [--first I] [--count N] [--only WORDS] [--patience SECONDS] [--keep]

--only: of the names of the places below, those with one of the words. LOCKSTEP names the binary, LOCKSTEP_EMULATED
that with an emulated GPU, TEST_CKPT_EQUAL what the tests build. With LOCKSTEP_TEST_ALL=1 300 cases, else 6. Exit
status 0: all of it held; 1: not, and what did not is told."""
import argparse
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # beside the sources
from faults import EQUAL, own_shared_memory  # noqa: E402
from run import HOSTS, LOCKSTEP, ROOT, Failed, need_built, processes, rank_process  # noqa: E402

EMULATED = os.environ.get("LOCKSTEP_EMULATED", str(ROOT / "build/release/tests/emulator/lockstep_emulated"))
RAW, LOCAL = [ROOT / "tests/mpirun.sh"], [ROOT / "launch/mpirun/local.sh"]
STEPS, DEADLINE_S, START_LIMIT_S = 24, 5, 30
GPU = ["run.device=emulated", "model.layers=2", "model.channels=16", "model.heads=2", "model.kv_heads=2",
       "model.ffn=32", "batch.sequences=4"]
# Where ranks run, and how they divide the work: ranks, command that starts them, settings.
PLACES = {
    "mpi-2": (2, [*RAW, 2], "parallel.transport=mpi"),
    "mpi-3": (3, [*LOCAL, 3], "parallel.transport=mpi parallel.zero=1"),
    "mpi-4": (4, [*RAW, 4], "parallel.transport=mpi parallel.pipeline=2 parallel.zero=2"),
    "shm-2": (2, [*LOCAL, 2], "parallel.transport=shm parallel.zero=3"),
    # Saves that have to wait for the one before.
    "shm-3": (3, [*RAW, 3], "parallel.transport=shm numerics.reduction=invariant checkpoint.every=1"),
    "shm-4": (4, [*LOCAL, 4], "parallel.transport=shm parallel.tensor=2 parallel.zero=2"),
    "auto-2": (2, [*RAW, 2], "parallel.context=2"),
    "auto-4": (4, [*RAW, 4], "parallel.replicate=2 parallel.shard=2 parallel.zero=3 numerics.reduction=invariant"),
    "hosts-2": (2, [HOSTS, 2, 1], "parallel.zero=1"),
    "hosts-4": (4, [HOSTS, 2, 2], "parallel.zero=3"),
    "hosts-4-mesh": (4, [HOSTS, 2, 2], "parallel.pipeline=2 parallel.tensor=2"),
    "nccl-2": (2, [*RAW, 2], "parallel.zero=2"),
    "nccl-4": (4, [*LOCAL, 4], "parallel.tensor=2 parallel.zero=3"),
}


class Run:
    """One start of a run: its processes, and what it says."""

    def __init__(self, bench, place, name, *more):
        self.ranks, launcher, settings = PLACES[place]
        self.mark, self.dir = f"run.name={name}", bench.runs / name
        on_gpus = place.startswith("nccl")
        self.log = open(bench.work / f"{name}.log", "w+b")
        command = [*launcher, EMULATED if on_gpus else LOCKSTEP, "train", *bench.settings, *settings.split(),
                   *(GPU if on_gpus else ()), self.mark, *more]
        self.command = [str(c) for c in command]
        self.patience_s = bench.patience_s
        self.began = time.monotonic()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=bench.env, start_new_session=True)

    def text(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def until(self, holds):
        """False: the run ended before."""
        end = time.monotonic() + self.patience_s
        while self.process.poll() is None:
            if holds():
                return True
            if time.monotonic() > end:
                raise Failed("waited in vain for the moment")
            time.sleep(0.001)
        return False

    def lines(self):
        try:
            return (self.dir / "train.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def wait(self):
        try:
            return self.process.wait(self.patience_s)
        except subprocess.TimeoutExpired:
            states = [(pid, words[0], pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2])
                      for pid, words in processes(self.mark)]
            raise Failed(f"it did not end in {self.patience_s:g} s; processes {states}") from None

    def end(self):
        for pid, _ in processes(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.log.close()


class Bench:
    def __init__(self, work, patience_s):
        self.patience_s = patience_s
        self.work = pathlib.Path(work)
        self.runs, self.temporaries, text = self.work / "runs", self.work / "tmp", self.work / "text"
        text.mkdir()
        self.temporaries.mkdir()
        lines = (ROOT / "README.md").read_text().splitlines(keepends=True)
        for i in range(24):
            (text / f"{i}.txt").write_text(f"part {i}\n" + "".join(lines[i * 7:i * 7 + 60]))
        subprocess.run([LOCKSTEP, "prep", text, "-o", self.work / "data", "--val", "0.2"], check=True,
                       capture_output=True)
        self.settings = ["model.preset=llama3-tiny", "model.context=32", f"data.dir={self.work / 'data'}",
                         "batch.sequences=12", "batch.micro=1", f"run.dir={self.runs}", "optim.lr=1e-3",
                         f"run.steps={STEPS}", "schedule.warmup_steps=2", "checkpoint.every=4",
                         "checkpoint.keep_last=2", "eval.every=5", "eval.batches=2", "metrics.tensorboard=false",
                         f"faults.min_deadline_s={DEADLINE_S}", "numerics.bucket_mib=0.05"]
        self.env = dict(os.environ, OMP_NUM_THREADS="1", TMPDIR=str(self.temporaries),
                        LOCKSTEP_START_LIMIT_S=str(START_LIMIT_S))
        self.plain = {}

    def undisturbed(self, place):
        """Of a place: its last checkpoint, and how long it took."""
        if place not in self.plain:
            run = Run(self, place, f"plain-{place}-{os.getpid()}")
            try:
                if run.wait() != 0 or not is_whole(run):
                    raise Failed(f"the undisturbed run failed:\n{run.text()[-3000:]}")
                self.plain[place] = run, time.monotonic() - run.began
                left = self.left(run)
                if left:
                    raise Failed(f"left behind by the undisturbed run: {left}")
            finally:
                run.end()
        return self.plain[place]

    def left(self, run):
        """What the job has left: processes, and files where jobs of all users have theirs."""
        own_shm = "LOCKSTEP_FAULTS_INSIDE" in os.environ
        files = [str(p) for folder in ([pathlib.Path("/dev/shm")] if own_shm else []) + [self.temporaries]
                 for p in folder.rglob("*") if not p.is_dir()]
        return [" ".join(words[:3]) for _, words in processes(run.mark)] + files


def newest(run):
    return run.dir / f"checkpoints/step-{STEPS:08d}"


def is_whole(run):
    return (newest(run) / "manifest.json").exists()


def outcome(run):
    path = run.dir / "outcome"
    return path.read_text() if path.exists() else ""


def checkpoints(run):
    return sorted(str(p.relative_to(run.dir)) for p in run.dir.glob("checkpoints/**/*"))


class Case:
    def __init__(self, bench, seed, index, places):
        self.bench, self.rng = bench, random.Random(f"{seed}/{index}")
        self.place = self.rng.choice(places)
        self.stops = self.rng.random() < 0.5
        self.when = self.rng.choice(["any", "any", "any", "save", "evaluation"])
        self.name = f"kill-{seed}-{index}-{os.getpid()}"

    def moment(self, run, took_s):
        """Waits for it; False: the run was over before."""
        rng, folder = self.rng, run.dir / "checkpoints"
        if self.when == "any":
            at = run.began + rng.random() * took_s
            return run.until(lambda: time.monotonic() >= at)
        if self.when == "save":
            seen = rng.randrange(4)
            return (run.until(lambda: run.lines() >= 4 * seen) and
                    run.until(lambda: any(folder.glob(".tmp-*"))) and self.sleep(run, 0.02))
        step = 5 * rng.randrange(1, 5)  # the record of a step comes before its evaluation
        return run.until(lambda: run.lines() >= step) and self.sleep(run, 0.02)

    def sleep(self, run, most_s):
        time.sleep(self.rng.random() * most_s)
        return run.process.poll() is None

    def strike(self, run, took_s):
        """The rank, and when; None: the run was over before."""
        rank = self.rng.randrange(run.ranks)
        if not self.moment(run, took_s):
            return None
        run.until(lambda: rank_process(run.mark, rank) is not None)
        pid = rank_process(run.mark, rank)
        try:
            os.kill(pid, signal.SIGSTOP if self.stops else signal.SIGKILL)
        except (TypeError, ProcessLookupError):
            return None
        return rank

    def check(self, run, rank, status):
        """What the run has told; the kind of word that it was."""
        text, told = run.text(), outcome(run)
        # mpirun's own end, where a rank was lost while it connected: PMIx then destroys a message twice.
        if status in (-signal.SIGKILL, -signal.SIGSEGV, 128 + signal.SIGSEGV) or "mpirun does not end" in text:
            status = 3
        ended = "its process is stopped" if self.stops else "its process has ended"
        named = re.compile(rf"rank {rank} on host [^\n]*; {ended}")
        if self.stops and "has taken more than" in text:  # a limit ended it, where no watchdog looks
            if status != 3 or 0 < run.lines() < STEPS:
                raise Failed(f"status {status}, and a limit after {run.lines()} steps")
            if not named.search(text) and not self.place.startswith("hosts"):  # whoever is first may be on another
                raise Failed(f"rank {rank} was not named at the limit")
            return "end" if run.lines() else "start"
        if told.startswith("0 "):  # the run had come to its end, whatever is left of its processes
            if status not in (0, 3, 137) or not is_whole(run):
                raise Failed(f"status {status} at the end of the run, its checkpoints {checkpoints(run)}")
            return "end"
        if named.search(text):
            if run.lines() and not (told.startswith("3 ") and named.search(told)):  # else it may have no directory yet
                raise Failed(f"the outcome is {told!r}")
            alone = self.place == "hosts-2"  # its record is in the memory of that host
            lacks = [r for r in range(run.ranks) if not (run.dir / f"flight-{r}.json").exists()]
            if lacks and not (alone and lacks == [rank]):
                raise Failed(f"no flight record of ranks {lacks}")
            if status != 3 and (self.stops or status != 137):
                raise Failed(f"status {status}")
            return "watchdog"
        # The launcher of Open MPI 5 gives the others half a second, and names the rank itself.
        if not self.stops and status == 137 and re.search(rf"prterun noticed that process rank {rank} with PID", text):
            return "launcher"
        if run.lines() > 0:
            raise Failed(f"status {status}: rank {rank} was not named, after {run.lines()} steps; outcome {told!r}")
        if self.stops:
            raise Failed(f"status {status} of a start that was stopped")
        if status != 137 and status != 3:
            raise Failed(f"status {status} of a start that was killed")
        return "start"

    def play(self):
        plain, took_s = self.bench.undisturbed(self.place)
        run = Run(self.bench, self.place, self.name)
        try:
            rank = self.strike(run, took_s)
            struck = time.monotonic()
            status = run.wait()
            ended_s = time.monotonic() - struck
            if rank is None and status != 0:
                raise Failed(f"status {status} of a run that nothing was done to")
            word = self.check(run, rank, status) if rank is not None else "over"
            left = self.bench.left(run)
        except Failed as failure:
            raise Failed(f"{failure}\n{run.text()[-3000:]}") from None
        finally:
            run.end()
        again = Run(self.bench, self.place, self.name, "--resume")
        try:
            if again.wait() != 0 or not is_whole(again):
                raise Failed(f"the run that goes on ended with {again.process.returncode}, its outcome is "
                             f"{outcome(again)!r}, its checkpoints {checkpoints(again)}:\n{again.text()[-3000:]}")
            equal = subprocess.run([EQUAL, newest(plain), newest(again)], capture_output=True, text=True)
            if equal.returncode != 0:
                raise Failed(f"not the bytes of the undisturbed run: {equal.stderr.strip()}")
            left_then = self.bench.left(again)
        finally:
            again.end()
        # The record of a rank that mpirun has killed before it could tidy up; the next start does.
        left = [name for name in left if not name.startswith("/dev/shm/lockstep-")]
        if left or left_then:
            raise Failed(f"left behind: {left}; by the next start: {left_then}")
        return word, ended_s


def main():
    every = os.environ.get("LOCKSTEP_TEST_ALL") == "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=300 if every else 6)
    parser.add_argument("--only", help="words, with commas between them")
    parser.add_argument("--patience", type=float, default=240, metavar="SECONDS",
                        help="for each thing that must happen: the more, the busier the machine")
    parser.add_argument("--keep", action="store_true", help="the directories")
    given = parser.parse_args()
    need_built(LOCKSTEP, EQUAL)
    own_shared_memory()
    places = [p for p in PLACES if not given.only or any(w in p for w in given.only.split(","))]
    if not os.access(EMULATED, os.X_OK):
        places = [p for p in places if not p.startswith("nccl")]
    if subprocess.run([HOSTS, "1", "1", "true"], capture_output=True).returncode != 0:
        places = [p for p in places if not p.startswith("hosts")]
    failures, words = 0, {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # on which what is temporary goes
    work = tempfile.mkdtemp(prefix="lockstep-kills-")
    try:
        bench = Bench(work, given.patience)
        for index in range(given.first, given.first + given.count):
            case = Case(bench, given.seed, index, places)
            what = f"{index} {case.place} {'SIGSTOP' if case.stops else 'SIGKILL'} {case.when}"
            try:
                word, ended_s = case.play()
                words[word] = words.get(word, 0) + 1
                print(f"{what}: {word}, {ended_s:.1f} s", flush=True)
            except Failed as failure:
                failures += 1
                print(f"FAILED: --seed {given.seed} --first {index} --count 1: {what}: {failure}", flush=True)
            if not given.keep:
                shutil.rmtree(bench.runs / case.name, ignore_errors=True)
            for old in bench.temporaries.iterdir():
                shutil.rmtree(old, ignore_errors=True)
            if "LOCKSTEP_FAULTS_INSIDE" in os.environ:
                for old in pathlib.Path("/dev/shm").iterdir():
                    old.unlink() if not old.is_dir() else shutil.rmtree(old)
    finally:
        if not given.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{given.count} cases, {failures} failed; told by: {words}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
