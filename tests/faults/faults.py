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
        env = dict(os.environ, PLANT_DIR=str(self.plant), OMP_NUM_THREADS="1", TMPDIR=str(bench.temporaries))
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
