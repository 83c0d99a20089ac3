#!/usr/bin/env python3
"""Training steps of a GPT-2 or Llama on CPUs: lockstep beside PyTorch, and llm.c where a checkout is given.

    cpu_step.py [--model gpt2-124m] [--batch 4] [--seq 1024] [--steps 4] [--rounds 3] [--threads N]
                [--lockstep build/release/bin/lockstep] [--torch PYTHON] [--llmc DIR]
                [--torch-modes eager,compile] [--dtype fp32,bf16] [--svg FILE] [--json FILE]
    cpu_step.py --model llama3-30m --batch 1 --seq 4096 ...

All start from the same weights (lockstep's, exported), learn from the same batch again and again (as
many tokens as one batch has, so that each step sees all of them), with the same AdamW, threads and
number format: so the losses must agree, and are compared. Contenders take turns in each round; the
first step of each turn is not counted. Prints the median step of each, tokens/s, how many times as
long as lockstep's it is, the largest difference of a loss, and the most memory that a process held;
writes an SVG of times and losses.

--torch is the python of an environment with PyTorch; default $TORCH_PYTHON, else none is compared.
--llmc is a checkout of github.com/karpathy/llm.c; default $LLMC_DIR. llm.c knows GPT-2 in fp32 only, and is
built by its Makefile's flags (gcc -Ofast -march=native -fopenmp). bf16 is compared where the
processor multiplies it (AVX512-BF16 or AMX), unless --dtype says otherwise."""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LR = "1e-4"
WORDS = ("the quick brown fox jumps over a lazy dog while seven wizards mix nine bright potions "
         "and every cold river finds its own way to the sea ").encode()
COLOURS = ["#1b6ca8", "#c0392b", "#d68910", "#7d3c98", "#1e8449", "#555555"]


def common_options(doc, batch, seq, threads):
    p = argparse.ArgumentParser(description=doc.split("\n\n")[0],
                                epilog="See the head of this file.")
    p.add_argument("--model", default="gpt2-124m")
    p.add_argument("--batch", type=int, default=batch)
    p.add_argument("--seq", type=int, default=seq)
    p.add_argument("--steps", type=int, default=4, help="of a turn, the first not counted")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=threads)
    p.add_argument("--lockstep", default=str(ROOT / "build/release/bin/lockstep"))
    p.add_argument("--torch", default=os.environ.get("TORCH_PYTHON"))
    p.add_argument("--torch-modes", default="eager,compile")
    p.add_argument("--json", default=None)
    p.set_defaults(llmc=None)
    return p


def parse(p):
    o = p.parse_args()
    if not o.model.startswith(("gpt2", "llama3")):
        p.error(f"--model is '{o.model}'; a preset gpt2-... or llama3-... is expected")
    if not set(o.torch_modes.split(",")) <= {"eager", "compile"}:
        p.error(f"--torch-modes is '{o.torch_modes}'; eager, compile or both are expected")
    if o.steps < 2:
        p.error(f"--steps is {o.steps}; at least 2 are expected, since the first is not counted")
    return o


def options():
    p = common_options(__doc__, batch=4, seq=1024, threads=len(os.sched_getaffinity(0)))
    p.add_argument("--llmc", default=os.environ.get("LLMC_DIR"))
    p.add_argument("--dtype", default=None)
    p.add_argument("--svg", default=None)
    o = parse(p)
    if o.llmc and not o.model.startswith("gpt2"):
        p.error(f"--model is '{o.model}'; llm.c's CPU trainer has gpt2-... only")
    if o.dtype is None:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
        o.dtype = "fp32,bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"
    return o


def call(command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **kwargs)
    if done.returncode != 0:
        sys.exit(f"cpu_step: '{' '.join(map(str, command))}' ended with {done.returncode}:\n"
                 f"{done.stderr[-2000:]}")
    return done.stdout


class Bench:
    def __init__(self, o, work):
        self.o, self.work = o, work
        self.env = dict(os.environ, OMP_NUM_THREADS=str(o.threads))
        self.turn, self.peak = 0, None

    def settings(self):
        o = self.o
        model = [f"model.preset={o.model}"]
        if o.model.startswith("gpt2"):
            model.append("model.vocab=50257")  # what llm.c is built for
        return [*model, f"model.context={max(o.seq, 1024)}", f"data.dir={self.work}/data",
                f"data.sequence={o.seq}", f"batch.sequences={self.samples()}", f"batch.micro={o.batch}",
                f"run.dir={self.work}/runs", f"run.threads={o.threads}", "schedule.kind=constant",
                "schedule.warmup_steps=0", "optim.beta1=0.9", "optim.beta2=0.999",
                "optim.eps=1e-8", "optim.weight_decay=0", "optim.clip_norm=0",
                "checkpoint.async=false"]  # no copy for saves, which the others cannot make

    def samples(self):
        return self.o.batch

    def prepare(self):
        """One batch of text and its separator; weights before the first step."""
        o, n = self.o, self.samples() * self.o.seq
        text = (WORDS * (n // len(WORDS) + 1))[:n]
        (self.work / "text").write_bytes(text)
        call([o.lockstep, "prep", self.work / "text", "--val", "0", "-o", self.work / "data"])
        tokens = list(text) + [256]
        (self.work / "tokens").write_bytes(b"".join(t.to_bytes(2, "little") for t in tokens))
        call([o.lockstep, "train", "--quiet", *self.settings(), "run.name=start", "run.steps=1",
              "optim.lr=0", "checkpoint.level=0"], env=self.env)
        start = self.work / "runs/start"
        if o.torch:
            call([o.lockstep, "ckpt", "convert", start, "--to", "safetensors", "-o",
                  self.work / "hf"])
        if o.llmc:
            call([o.lockstep, "ckpt", "convert", start, "--to", "llmc", "-o",
                  self.work / "llmc.bin"])
            call(["gcc", "-Ofast", "-march=native", "-fopenmp", "-DOMP", "-w", f"-I{o.llmc}",
                  HERE / "llmc_step.c", "-o", self.work / "llmc_step", "-lm"])

    def lockstep(self, dtype, _, *settings, launcher=()):
        self.turn += 1
        name = f"turn{self.turn}"
        # One step more than is read: the last may hold what ends a run.
        call([*launcher, self.o.lockstep, "train", "--quiet", *self.settings(), f"run.name={name}",
              f"run.steps={self.o.steps + 1}", f"optim.lr={LR}", f"numerics.compute={dtype}",
              "checkpoint.at_end=false", *settings], env=self.env)
        lines = (self.work / "runs" / name / "train.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines[:self.o.steps]]
        self.peak = max(r["memory_bytes"]["peak"] for r in records)
        return [(r["loss"], r["seconds"]) for r in records]

    def rows(self, command):
        lines = [line.split() for line in call(command, env=self.env).splitlines()]
        self.peak = max([int(line[1]) for line in lines if line[0:1] == ["peak"]], default=None)
        return [tuple(map(float, line)) for line in lines if len(line) == 2 and line[0][0].isdigit()]

    def torch(self, dtype, mode):
        o = self.o
        return self.rows([o.torch, HERE / "torch_step.py", self.work / "hf", self.work / "tokens",
                          str(o.batch), str(o.seq), str(o.steps), LR, str(o.threads), dtype, mode])

    def llmc(self, *_):
        o = self.o
        return self.rows([self.work / "llmc_step", self.work / "llmc.bin", self.work / "tokens",
                          str(o.batch), str(o.seq), str(o.steps), LR])

    def contenders(self):
        for dtype in self.o.dtype.split(","):
            yield f"lockstep {dtype}", self.lockstep, (dtype, None)
            if self.o.torch:
                for mode in self.o.torch_modes.split(","):
                    yield f"PyTorch {mode} {dtype}", self.torch, (dtype, mode)
        if self.o.llmc:
            yield "llm.c fp32", self.llmc, ()

    def run(self):
        self.prepare()
        results = {name: dict(seconds=[], losses=[]) for name, _, _ in self.contenders()}
        for turn in range(self.o.rounds):
            for name, function, arguments in self.contenders():
                rows = function(*arguments)
                if len(rows) != self.o.steps:
                    sys.exit(f"cpu_step: {name} made {len(rows)} steps; {self.o.steps} are expected")
                results[name]["losses"] = [loss for loss, _ in rows]
                results[name]["peak_bytes"] = self.peak
                results[name]["seconds"] += [seconds for _, seconds in rows[1:]]
                print(f"round {turn + 1}: {name}: {statistics.median(s for _, s in rows[1:]):.3f} s",
                      file=sys.stderr)
        return results


def summarise(results, o):
    """Adds median, ratio and loss difference, each beside lockstep in the same number format, or its first."""
    for name, r in results.items():
        dtype = name.split()[-1]
        own = results.get(f"lockstep {dtype}") or next(iter(results.values()))
        r["median_s"] = statistics.median(r["seconds"])
        r["tokens_per_s"] = o.batch * o.seq / r["median_s"]
        r["ratio"] = r["median_s"] / statistics.median(own["seconds"])
        r["loss_difference"] = max(abs(a - b) for a, b in zip(r["losses"], own["losses"]))


def print_table(results, o):
    print(f"{o.model}, {o.batch} sequences of {o.seq} tokens, {o.threads} threads; medians of "
          f"{o.rounds} turns of {o.steps - 1} steps")
    print(f"{'':24} {'step':>9} {'tokens/s':>9} {'x lockstep':>11} {'loss off by':>12} {'memory':>9}")
    for name, r in results.items():
        print(f"{name:24} {r['median_s']:8.3f}s {r['tokens_per_s']:9.1f} {r['ratio']:11.2f} "
              f"{r['loss_difference']:12.2e} "
              + (f"{r['peak_bytes'] / 2**20:5.0f} MiB" if r["peak_bytes"] else ""))


def svg(results, o):
    """Bars of step times above, loss curves below."""
    bar, width, left = 26, 760, 190
    longest = max(r["median_s"] for r in results.values())
    top = 40 + bar * len(results)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + 280}" '
           'font-family="sans-serif" font-size="13">', '<rect width="100%" height="100%" fill="#fff"/>',
           f'<text x="10" y="22">{o.model}, {o.batch} x {o.seq} tokens, {o.threads} threads: '
           'median step</text>']
    for i, (name, r) in enumerate(results.items()):
        y, length = 34 + bar * i, (width - left - 150) * r["median_s"] / longest
        out += [f'<text x="10" y="{y + 16}">{name}</text>',
                f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="{bar - 8}" '
                f'fill="{COLOURS[i % len(COLOURS)]}"/>',
                f'<text x="{left + length + 6:.1f}" y="{y + 16}">{r["median_s"]:.3f} s, '
                f'{r["ratio"]:.2f}x</text>']
    losses = [x for r in results.values() for x in r["losses"]]
    low, high = min(losses), max(losses)
    span = high - low or 1.0

    def point(step, loss):
        return (f"{60 + (width - 90) * step / (o.steps - 1):.1f},"
                f"{top + 40 + 200 * (high - loss) / span:.1f}")

    out.append(f'<text x="10" y="{top + 22}">loss by step (the curves should lie on each other)'
               '</text>')
    for value, y in ((high, top + 44), (low, top + 244)):
        out.append(f'<text x="10" y="{y}" font-size="11">{value:.3f}</text>')
    for i, r in enumerate(results.values()):
        points = " ".join(point(s, x) for s, x in enumerate(r["losses"]))
        dash = f"{6 + 3 * i} {3 * i}"
        out.append(f'<polyline points="{points}" fill="none" stroke-width="2" '
                   f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-dasharray="{dash}"/>')
    return "\n".join(out + ["</svg>\n"])


def main():
    o = options()
    with tempfile.TemporaryDirectory(prefix="lockstep-cpu-step-") as work:
        results = Bench(o, pathlib.Path(work)).run()
    summarise(results, o)
    print_table(results, o)
    if o.svg:
        pathlib.Path(o.svg).write_text(svg(results, o))
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(dict(vars(o), results=results), indent=1))


if __name__ == "__main__":
    main()
