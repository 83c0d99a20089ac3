#!/usr/bin/env python3
"""Whole runs drawn from a seed: model, layout, optimizer, precision, saves and evaluations, a moment at which the
run is cut, and what it goes on with. A run that goes on must be the one that was never cut: bit by bit where the
layouts promise that, to rounding on any other; so must one that goes on with --change, cut once more. And what
reads checkpoints (verify, eval, sample, convert, reshard, cost) must agree with the run and with itself.

  runs.py [--seed N] [--first I] [--count N] [--keep]

LOCKSTEP names the binary, TEST_CKPT_EQUAL what the tests build. With LOCKSTEP_TEST_ALL=1 40 cases, else 1. Exit
status 0: all of it held; 1: not, and what did not is told, with the commands."""
import argparse
import json
import math
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ.get("LOCKSTEP", str(ROOT / "build/release/bin/lockstep"))
EQUAL = os.environ.get("TEST_CKPT_EQUAL", str(ROOT / "build/release/tests/launch/ckpt_equal"))
MOST_RANKS = 8
PATIENCE_S = 900
ENV = dict(os.environ, OMP_NUM_THREADS="1")
MODELS = [
    "model.family=gpt2 model.tied=true model.layers=5 model.channels=24 model.heads=4 model.ffn=52",
    "model.family=gpt2 model.tied=false model.layers=4 model.channels=21 model.heads=3 model.ffn=35",
    "model.family=llama3 model.tied=false model.layers=4 model.channels=24 model.heads=4 model.kv_heads=2 "
    "model.ffn=44 'optim.groups=head.* lr=0.5; layers.1.* lr=2 decay=0.5'",
    "model.family=llama3 model.tied=true model.layers=3 model.channels=32 model.heads=8 model.kv_heads=4 model.ffn=45",
    "model.family=llama3 model.tied=false model.layers=3 model.channels=24 model.heads=4 model.kv_heads=2 "
    "model.ffn=20 model.experts=5 model.expert_capacity=1.2 model.balance_loss=0.1",
    "model.family=llama3 model.tied=false model.layers=2 model.channels=24 model.heads=4 model.kv_heads=2 "
    "model.ffn=19 model.experts=4",
]
OPTIMIZERS = [
    "optim.name=adamw optim.lr=1e-2 optim.eps=1e-2", "optim.name=sgd optim.lr=0.1", "optim.name=lion optim.lr=1e-3",
    "optim.name=muon optim.lr=1e-2 optim.eps=1e-2", "optim.name=adafactor optim.lr=1e-2",
    "optim.name=adamw optim.lr=1e-2 optim.eps=1e-2 optim.beta1=0 optim.beta2=0.9 optim.weight_decay=0",
    "optim.name=sgd optim.lr=0.1 optim.momentum=0 optim.nesterov=false",
    "optim.name=sgd optim.lr=0.1 optim.momentum=0.7 optim.nesterov=false optim.weight_decay=0.01",
    "optim.name=muon optim.lr=1e-2 optim.eps=1e-2 optim.nesterov=false optim.momentum=0.8",
    "optim.name=adafactor optim.lr=1e-2 optim.beta1=0",
]
GROUPS = ["", "", "head.* lr=0.5; layers.1.* lr=2 decay=0.5", "*norm* decay=0.3; tok_embed.weight lr=0",
          "layers.*.mlp.* lr=0.25"]


class Failed(Exception):
    pass


class Layout:
    """Axes, and what does not change the numbers."""

    def __init__(self, axes, micro, reduction, free):
        self.axes, self.micro, self.reduction, self.free = axes, micro, reduction, free
        self.ranks = math.prod(axes[a] for a in ("tensor", "context", "pipeline", "shard", "replicate"))

    def settings(self):
        axes = [f"{'numerics' if name == 'bucket_mib' else 'parallel'}.{name}={value}" for name, value in
                self.axes.items()]
        free = self.free if self.ranks <= 2 else self.free[:-1]  # more threads than processors take very long
        return [*axes, f"batch.micro={self.micro}", f"numerics.reduction={self.reduction}", *free]

    def is_invariant(self):
        return self.reduction == "invariant" and self.axes["expert"] == 1

    def has_bits_of(self, other):
        """Does it promise the same bits?"""
        if (self.micro, self.reduction) != (other.micro, other.reduction):
            return False
        data = ("shard", "replicate", "zero", "transport", "bucket_mib") if self.is_invariant() else ()
        return all(self.axes[a] == other.axes[a] for a in self.axes if a not in data)


def draw_model(rng):
    """Sizes that divide nothing, more often than not."""
    if rng.random() < 0.3:
        return rng.choice(MODELS)
    llama, heads = rng.random() < 0.6, rng.choice([1, 2, 3, 4, 6])
    model = {"family": "llama3" if llama else "gpt2", "tied": rng.choice(["true", "false"]), "heads": heads,
             "layers": rng.choice([1, 2, 3, 4, 5, 6]), "ffn": rng.randrange(7, 60),
             "norm_eps": rng.choice(["1e-5", "1e-6"])}
    if rng.random() < 0.5:
        model.update(head_dim=rng.choice([4, 6, 10] if llama else [4, 5, 7]), channels=rng.randrange(16, 41))
    else:
        model["channels"] = heads * rng.choice([4, 6, 8])
    if llama:
        model.update(kv_heads=rng.choice([k for k in range(1, heads + 1) if heads % k == 0]),
                     rope_theta=rng.choice([500000, 10000]), qkv_bias=rng.choice(["false", "true"]))
        if rng.random() < 0.3:
            model.update(rope_scaling="llama3", rope_factor=rng.choice([2, 8]), rope_original_context=8)
    if rng.random() < 0.3:
        model["qk_norm"] = "true"
    if rng.random() < 0.3:
        model.update(window=rng.choice([1, 3, 5, 9, 16]), window_pattern=rng.choice([0, 0, 1, 2, 3]))
    if rng.random() < 0.35:
        experts = rng.choice([2, 3, 4, 5, 8])
        model.update(experts=experts, experts_per_token=rng.randrange(1, min(3, experts) + 1),
                     expert_capacity=rng.choice([0, 0, 0.7, 1.2, 3]), balance_loss=rng.choice([0, 0.01, 0.1]))
    return " ".join(f"model.{k}={v}" for k, v in model.items())


def draw_free(rng):
    """What changes no bits."""
    return [f"recompute.mode={rng.choice(['none', 'selective', 'full'])}", f"recompute.every={rng.choice([1, 2])}",
            f"run.threads={rng.choice([1, 1, 1, 1, 2])}"]


def draw_layout(rng, mixture):
    while True:
        axes = {"tensor": rng.choice([1, 1, 1, 2, 2, 3, 4]), "context": rng.choice([1, 1, 1, 1, 2, 4]),
                "pipeline": rng.choice([1, 1, 1, 2, 2, 3]), "shard": rng.choice([1, 1, 2, 2, 3, 4]),
                "replicate": rng.choice([1, 1, 1, 2, 3])}
        axes["interleave"] = rng.choice([1, 2]) if axes["pipeline"] > 1 else 1
        axes["zero"] = rng.choice([1, 2, 3]) if axes["shard"] > 1 else 0
        axes["expert"] = rng.choice([1, 2, 3]) if mixture else 1
        axes["sequence_parallel"] = rng.choice(["true", "false"]) if axes["tensor"] > 1 else "false"
        axes["transport"] = rng.choice(["auto", "auto", "mpi", "shm"])
        axes["bucket_mib"] = rng.choice([0.05, 0.05, 0.002, 25])
        reduction = rng.choice(["invariant", "invariant", "invariant", "fast", "fast", "bf16"])
        layout = Layout(axes, rng.choice([1, 2, 2, 3, 4]), reduction, draw_free(rng))
        if layout.ranks <= MOST_RANKS:
            return layout


def draw_equal(rng, layout):
    """Another layout with the same bits."""
    while True:
        axes = dict(layout.axes)
        if layout.is_invariant():
            axes["shard"], axes["replicate"] = rng.choice([1, 2, 3, 4]), rng.choice([1, 2, 3])
            axes["zero"] = rng.choice([1, 2, 3]) if axes["shard"] > 1 else 0
            axes["transport"] = rng.choice(["auto", "mpi", "shm"])
            axes["bucket_mib"] = rng.choice([0.05, 0.002, 25])
        other = Layout(axes, layout.micro, layout.reduction, draw_free(rng))
        if other.ranks <= MOST_RANKS and other.has_bits_of(layout):
            return other


def draw_records(rng):
    return [f"checkpoint.every={rng.choice([0, 1, 2, 3])}", f"checkpoint.async={rng.choice(['true', 'false'])}",
            f"checkpoint.writers={rng.choice(['rank', 'node'])}", f"checkpoint.parity={rng.choice([0, 0, 1])}",
            f"checkpoint.level={rng.choice([0, 1, 1, 3])}", f"checkpoint.busy={rng.choice(['wait', 'skip'])}",
            f"checkpoint.keep_last={rng.choice([0, 0, 2])}", f"checkpoint.keep_every={rng.choice([0, 0, 3])}",
            f"checkpoint.keep_best={rng.choice([0, 0, 1])}", f"checkpoint.threads={rng.choice([0, 1, 3])}",
            f"eval.every={rng.choice([0, 1, 2, 3])}", f"metrics.every={rng.choice([1, 3, 10])}",
            f"metrics.mlperf={rng.choice(['true', 'false'])}", f"metrics.tensorboard={rng.choice(['true', 'false'])}",
            f"metrics.prometheus={rng.choice(['true', 'false'])}",
            f"metrics.trace_steps={rng.choice(['', '', '2..3', '4..4'])}",
            f"faults.repeat_steps={rng.choice(['true', 'false'])}", f"data.verify={rng.choice(['true', 'false'])}",
            f"faults.compare_every={rng.choice([0, 1, 3])}",
            f"faults.check_collectives={rng.choice(['true', 'false', 'false'])}"]


def draw_change(rng, bench, base):
    changes = [["optim.lr=3e-3"], ["schedule.kind=inverse_sqrt"], ["optim.weight_decay=0.3", "optim.clip_norm=0.5"],
               ["batch.sequences=12"], ["batch.sequences=48"], ["numerics.compute=bf16"], ["numerics.logits=compute"], ["optim.beta1=0.8"],
               ["schedule.kind=wsd", "schedule.decay_steps=2"], ["batch.micro=1"], ["batch.micro=6"],
               ["data.sequence=4"], ["data.document_mask=true"], ["model.window=4"], [f"data.dir={bench.other_data}"],
               [f"data.dir={bench.mixed(0.2)}"], [f"data.dir={bench.answers}"], ["schedule.warmup_steps=0"], ["optim.groups=layers.0.* lr=0.3"]]
    if any("llama3" in s for s in base):
        changes += [["model.context=32", "data.sequence=32"], ["model.rope_theta=7000"],
                    ["model.rope_scaling=llama3", "model.rope_original_context=8"]]
    if any("experts" in s for s in base):
        changes += [["model.balance_loss=0.5"], ["model.expert_capacity=0.9"], ["model.expert_capacity=0"]]
    return [s for change in rng.sample(changes, rng.choice([1, 2, 3])) for s in change]


class Bench:
    def __init__(self, work):
        self.work = pathlib.Path(work)
        text = self.work / "text"
        text.mkdir()
        lines = (ROOT / "README.md").read_text().splitlines(keepends=True)
        for i in range(12):
            part = f"part {i}\n" + "".join(lines[i * 7:i * 7 + 40])
            if i % 3:
                (text / f"{i}.txt").write_text(part)
            else:  # documents shorter than samples
                (text / f"{i}.jsonl").write_text("".join(json.dumps({"text": word}) + "\n" for word in part.split()))
        pairs = self.work / "pairs.jsonl"  # prompts without a loss, some longer than samples
        pairs.write_text("".join(json.dumps({"q": a[:9 if i % 9 else 70], "a": b[:i % 40 + 1]}) + "\n"
                                 for i, (a, b) in enumerate(zip(lines, lines[1:])) if a.strip() and b.strip()))
        self.data = self.work / "data"
        self.other_data = self.work / "other"
        self.answers = self.work / "answers"
        self.mixed = lambda share: f"{self.data} {share}; {self.other_data} {1 - share}"
        for data, share in ((self.data, "0.05"), (self.other_data, "0.4")):
            subprocess.run([LOCKSTEP, "prep", text, "-o", data, "--val", share], check=True, capture_output=True)
        subprocess.run([LOCKSTEP, "prep", pairs, "-o", self.answers, "--prompt", "q", "--field", "a", "--val", "0.1"],
                       check=True, capture_output=True)
        self.told = []

    def run(self, command, allowed=(0,)):
        command = [str(c) for c in command]
        self.told.append(shlex.join(command))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=ENV, timeout=PATIENCE_S)
        if done.returncode not in allowed:
            raise Failed(f"status {done.returncode} of {shlex.join(command)}:\n"
                         f"{done.stderr.decode(errors='replace')[-2000:]}")
        return done

    def ranks(self, count, *command):
        return [ROOT / "tests/mpirun.sh", count, LOCKSTEP, *command] if count > 1 else [LOCKSTEP, *command]


class Case:
    def __init__(self, bench, seed, index):
        self.bench, self.rng = bench, random.Random(f"{seed}/{index}")
        rng = self.rng
        self.runs = bench.work / f"{seed}-{index}"
        self.killed_at = -9
        while True:
            model = draw_model(rng)
            self.mixture = "experts" in model
            self.steps = rng.choice([5, 6, 7, 8])
            self.bf16 = rng.random() < 0.25
            self.optimizer = rng.choice(OPTIMIZERS)
            sequence = rng.choice([16, 16, 16, 8, 12])
            batch = rng.choice(["sequences=24", "sequences=24", "sequences=36", f"tokens={24 * sequence}"])
            base = (f"{model} model.vocab_multiple={rng.choice([16, 7, 64])} model.context=16 model.init_std=0.1 "
                    f"data.sequence={sequence} batch.{batch} {self.optimizer} "
                    f"optim.clip_norm={rng.choice([0, 0.5, 1])} "
                    f"schedule.kind={rng.choice(['cosine', 'constant', 'linear', 'wsd', 'inverse_sqrt'])} "
                    f"schedule.warmup_steps={rng.choice([0, 2, 9])} schedule.min_lr_ratio={rng.choice([0, 0.1])} "
                    f"numerics.compute={'bf16' if self.bf16 else 'fp32'} numerics.logits={rng.choice(['fp32', 'compute'])} "
                    f"run.seed={rng.randrange(9)} faults.min_deadline_s=100 "
                    f"eval.batches={rng.choice([0, 0, 3])}")
            self.base = [*shlex.split(base), f"data.dir={rng.choice([bench.data, bench.mixed(0.7), bench.answers, bench.mixed(0.4) + f'; {bench.answers} 1'])}",
                         f"data.document_mask={rng.choice(['false', 'false', 'true'])}", f"run.dir={self.runs}"]
            groups = rng.choice(GROUPS)
            if groups and "optim.groups" not in base and not (groups[0] == "h" and "tied=true" in base):
                self.base.append(f"optim.groups={groups}")
            self.layout = draw_layout(rng, self.mixture)
            if self.fits(self.layout):
                break

    def fits(self, layout, changed=()):
        done = self.bench.run([LOCKSTEP, "train", *self.base, *layout.settings(), *changed, "run.name=dry",
                               f"run.steps={self.steps}", "--dry-run", "--ranks", layout.ranks], allowed=(0, 2))
        return done.returncode == 0

    def another(self, draw, changed=()):
        for _ in range(200):
            layout = draw()
            if self.fits(layout, changed):
                return layout
        return self.layout

    def command(self, layout, name, *more):
        return self.bench.ranks(layout.ranks, "train", *self.base, *layout.settings(), *draw_records(self.rng),
                                f"run.name={name}", f"run.steps={self.steps}", *more)

    def newest(self, name):
        return sorted((self.runs / name / "checkpoints").glob("step-*"))[-1]

    def records(self, name):
        """The last record of each step."""
        found = {}
        for line in (self.runs / name / "train.jsonl").read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # torn by a kill
                continue
            found[record["step"]] = record
        return [found[s] for s in sorted(found)]

    def cut(self, name, step, layout):
        """Trains until the step, or kills a rank soon after it."""
        command = self.command(layout, name)
        self.killed_at = -9
        if self.rng.random() < 0.6 or step + 2 > self.steps:
            self.bench.run([*command, "--until", step], allowed=(75,))
            return
        command = [str(c) for c in [*command, "checkpoint.every=1"]]
        self.killed_at = step
        self.bench.told.append(shlex.join(command) + f"   # and a kill after step {step}")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=ENV, start_new_session=True)
        lines, end = self.runs / name / "train.jsonl", time.monotonic() + PATIENCE_S
        while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") >= step):
            if time.monotonic() > end:
                raise Failed(f"waited in vain for step {step} of {name}")
            time.sleep(0.001)
        time.sleep(self.rng.random() * 0.02)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError: # it has come to its end before
            pass
        process.wait()
        holder = self.runs / name / "lock.json" # whose ranks find out by themselves that mpirun is gone
        while holder.exists() and pathlib.Path(f"/proc/{json.loads(holder.read_text())['pid']}").exists():
            if time.monotonic() > end:
                raise Failed(f"a rank of {name} has outlived its mpirun")
            time.sleep(0.01)

    # ---- what must hold ----

    def pairs(self, a, b):
        """Of each step. A kill between the save of a step and its record leaves none."""
        x, y = ({r["step"]: r for r in self.records(name)} for name in (a, b))
        missing = set(x) ^ set(y)
        if missing - {self.killed_at, self.killed_at + 1, self.killed_at + 2} or len(missing) > 1:
            raise Failed(f"{a} and {b}: of the steps {missing} one has no record")
        return [(x[s], y[s]) for s in sorted(set(x) & set(y))]

    def same_bits(self, a, b):
        self.bench.run([EQUAL, self.newest(a), self.newest(b)])
        keys = ("step", "tokens", "loss", "grad_norm", "lr", "skipped")
        for x, y in self.pairs(a, b):
            if [x[k] for k in keys] != [y[k] for k in keys]:
                raise Failed(f"{a} and {b}: {[x[k] for k in keys]} and {[y[k] for k in keys]}")
        self.same_counters(a, b)
        x, y = self.pairs(a, b)[-1]
        if x["step"] == self.steps and x["val_loss"] != y["val_loss"]:
            raise Failed(f"{a} and {b}: validation {x['val_loss']} and {y['val_loss']}")

    def same_counters(self, a, b):
        m, n = (json.loads((self.newest(x) / "manifest.json").read_text()) for x in (a, b))
        for key in ("step", "tokens"):
            if m[key] != n[key] or m["counters"][key.rstrip("s") + "s"] != n["counters"][key.rstrip("s") + "s"]:
                raise Failed(f"{a} and {b}: {key} {m[key]} and {n[key]}, {m['counters']} and {n['counters']}")
        for key in ("samples", "sequences", "data_fingerprint", "optimizer_updates"):
            if m["run"][key] != n["run"][key]:
                raise Failed(f"{a} and {b}: {key} {m['run'][key]} and {n['run'][key]}")

    def near(self, a, b, rounded):
        self.same_counters(a, b)
        for x, y in self.pairs(a, b):
            if abs(x["loss"] - y["loss"]) > (2e-2 if self.bf16 or rounded else 1e-4) * abs(x["loss"]):
                raise Failed(f"{a} and {b}: step {x['step']}: loss {x['loss']} and {y['loss']}")

    # ---- parts of a case ----

    def resumed(self):
        self.bench.run(self.command(self.layout, "straight"))
        at = self.rng.randrange(1, self.steps)
        self.cut("cut", at, self.layout)
        equal = self.another(lambda: draw_equal(self.rng, self.layout))
        self.bench.run(self.command(equal, "cut", "--resume"))
        self.same_bits("straight", "cut")

    def elsewhere(self):
        if "lion" in self.optimizer or ("adafactor" in self.optimizer and "gpt2" in " ".join(self.base)):
            return  # signs of what is rounding alone
        self.cut("near", self.rng.randrange(1, self.steps), self.layout)
        other = self.another(lambda: draw_layout(self.rng, self.mixture))
        if other.micro != self.layout.micro and self.mixture:
            return  # capacity and balance are of a micro-batch
        self.bench.run(self.command(other, "near", "--resume", "--change"))
        self.near("straight", "near", "bf16" in (self.layout.reduction, other.reduction))

    def changed(self):
        change, at = draw_change(self.rng, self.bench, self.base), self.rng.randrange(1, self.steps - 1)
        here = self.another(lambda: draw_equal(self.rng, self.layout), change)
        if not self.fits(here, change):
            return
        for name in ("change", "twice"):
            self.bench.run([*self.command(self.layout, name), "--until", at], allowed=(75,))
        self.bench.run([*self.command(here, "change", "--resume", "--change"), *change])
        there = self.another(lambda: draw_equal(self.rng, here), change)
        self.bench.run([*self.command(here, "twice", "--resume", "--change", "--until", at + 1), *change],
                       allowed=(75,))
        self.bench.run([*self.command(there, "twice", "--resume"), *change])
        self.same_bits("change", "twice")

    def tools(self):
        run, last = self.runs / "cut", self.newest("cut")
        self.bench.run([LOCKSTEP, "ckpt", "verify", "--deep", run])
        self.bench.run([LOCKSTEP, "ckpt", "ls", run])
        self.bench.run([LOCKSTEP, "ckpt", "doctor", run])
        costs = json.loads(self.bench.run([LOCKSTEP, "cost", "--json", run]).stdout)
        del costs
        batches = next(s for s in self.base if s.startswith("eval.batches=")).partition("=")[2]
        said = self.records("straight")[-1]["val_loss"]
        done = [self.bench.run(self.bench.ranks(n, "eval", run, "--json", "--batches", batches),
                               allowed=(0,) if said is not None else (2,))
                for n in (1, self.rng.choice([2, 3]))]
        losses = [json.loads(d.stdout)["loss"] for d in done if said is not None]
        if said is None and not any("answers" in s for s in self.base):
            raise Failed("the run was not evaluated")
        if losses and (abs(losses[0] - said) > (5e-3 if self.bf16 else 1e-5) * said or losses[0] != losses[1]):
            raise Failed(f"eval says {losses}, the run {said}")
        self.bench.run([LOCKSTEP, "ckpt", "reshard", last, "-o", self.runs / "resharded", "--ranks", 3, "--parity", 1])
        self.bench.run([LOCKSTEP, "ckpt", "verify", "--deep", self.runs / "resharded"])
        self.bench.run([EQUAL, last, self.newest_in(self.runs / "resharded")])
        sample = ["--prompt", "the ", "--tokens", 10, "--seed", 3]
        texts = [self.bench.run([LOCKSTEP, "sample", x, *sample]).stdout for x in (last, self.runs / "resharded")]
        if texts[0] != texts[1]:
            raise Failed(f"samples differ: {texts}")

    def newest_in(self, folder):
        return sorted(folder.rglob("step-*"))[-1]

    def converted(self):
        """To another program's format and back: the same weights."""
        last = self.newest("cut")
        done = self.bench.run([LOCKSTEP, "ckpt", "convert", "--to", "safetensors", last, "-o", self.runs / "hf"],
                              allowed=(0, 2))
        if done.returncode == 2:
            return
        unknown = ("model.expert_capacity=", "data.sequence=", "data.document_mask=")  # to the other format
        ours = [s for s in self.base if s.startswith(unknown)]
        self.bench.run([LOCKSTEP, "ckpt", "convert", "--from", "safetensors", self.runs / "hf", "-o",
                        self.runs / "back", *ours])
        losses = [json.loads(self.bench.run([LOCKSTEP, "eval", x, "--json", "--compute", "fp32", "--data",
                                             self.bench.data, "--micro", 2]).stdout)["loss"]
                  for x in (last, self.runs / "back")]
        if abs(losses[0] - losses[1]) > 1e-6 * losses[0]:
            raise Failed(f"converted and back: loss {losses}")

    def play(self):
        self.resumed()
        self.tools()
        self.converted()
        self.changed()
        self.elsewhere()


def main():
    every = os.environ.get("LOCKSTEP_TEST_ALL") == "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=40 if every else 1)
    parser.add_argument("--keep", action="store_true", help="the runs of cases that fail")
    given = parser.parse_args()
    for file in (LOCKSTEP, EQUAL):
        if not os.path.exists(file):
            parser.error(f"there is no {file}; launch/setup.sh --tests builds it")
    failures = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # on which what is temporary goes
    with tempfile.TemporaryDirectory(prefix="lockstep-runs-") as work:
        bench = Bench(work)
        for index in range(given.first, given.first + given.count):
            bench.told.clear()
            case = Case(bench, given.seed, index)
            try:
                case.play()
            except (Failed, subprocess.TimeoutExpired) as failure:
                failures += 1
                commands = "\n".join(c for c in bench.told if "--dry-run" not in c)
                print(f"FAILED: --seed {given.seed} --first {index} --count 1: {failure}\n{commands}", flush=True)
                if given.keep:
                    shutil.copytree(case.runs, f"{tempfile.gettempdir()}/lockstep-runs-kept-{given.seed}-{index}")
            shutil.rmtree(case.runs, ignore_errors=True)
            if given.count > 1:
                print(f"{index}: {case.layout.ranks} ranks, {failures} failed so far", flush=True)
    print(f"{given.count} cases, {failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
