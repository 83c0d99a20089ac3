#!/usr/bin/env python3
"""Tokens a second of generation on CPUs: `lockstep sample` beside transformers' generate, and the reading of memory.

    sample.py [--model gpt2-124m,llama3-30m] [--dtype bf16,fp32] [--threads 1,2] [--prompt 64] [--tokens 200]
              [--rounds 3] [--lockstep build/release/bin/lockstep] [--read build/release/benchmarks/sample/bench_read]
              [--torch PYTHON]

Weights are lockstep's after one step at a rate of 0, exported with `ckpt convert --to safetensors`; a Llama gets a
vocabulary of 32000. All continue the same prompt by the likeliest token, one sequence, with a cache of keys and
values, and take turns in each round. Time is that between the first new token and the last, by the clock and as the
processors' time of the whole process by the threads; the prompt's pass is apart. The floor is the bytes of the weights
that a token reads, with half of the cache, at the speed at which bench_read reads in the same round. In fp32 the
tokens are compared: the first place at which they differ is told (of random weights many logits are nearly even).

--torch is the python of an environment with PyTorch and transformers; default $TORCH_PYTHON, else there is no peer."""
import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="See the head of this file.")
    p.add_argument("--model", default="gpt2-124m,llama3-30m")
    p.add_argument("--dtype", default="bf16,fp32")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--lockstep", default=str(ROOT / "build/release/bin/lockstep"))
    p.add_argument("--read", default=str(ROOT / "build/release/benchmarks/sample/bench_read"))
    p.add_argument("--torch", default=os.environ.get("TORCH_PYTHON"))
    o = p.parse_args()
    if o.prompt < 1 or o.tokens < 2 or o.prompt + o.tokens > 1024:
        p.error(f"--prompt is {o.prompt} and --tokens {o.tokens}; at least 1 and 2 are expected, 1024 in all")
    return o


def call(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"sample: '{' '.join(map(str, command))}' ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def processor_seconds(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return 1e-9 * sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def prepare(o, work, model, dtype):
    """A checkpoint, its weights for the peer, and the bytes that a token reads."""
    name = f"{model}-{dtype}"
    call([o.lockstep, "train", "--quiet", f"model.preset={model}",
          f"model.vocab={50257 if model.startswith('gpt2') else 32000}", f"data.dir={work}/data", "data.sequence=64",
          "batch.sequences=1", f"run.dir={work}/runs", f"run.name={name}", "run.steps=1", "optim.lr=0",
          "schedule.kind=constant", "schedule.warmup_steps=0", "checkpoint.level=0", f"numerics.compute={dtype}"])
    hf = work / f"hf-{name}"
    call([o.lockstep, "ckpt", "convert", work / "runs" / name, "--to", "safetensors", "-o", hf])
    with open(hf / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    config = json.loads((hf / "config.json").read_text())
    shapes = {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}
    looked_up = ["wpe"] if "n_embd" in config else ["embed_tokens"]
    elems = sum(shape[0] * shape[1] for key, shape in shapes.items()
                if len(shape) == 2 and not any(part in key for part in looked_up))
    if "n_embd" in config:
        layers, width = config["n_layer"], config["n_embd"]
    else:
        layers, width = config["num_hidden_layers"], config["num_key_value_heads"] * config["head_dim"]
    elems += 2 * layers * width * (o.prompt + o.tokens // 2)
    return work / "runs" / name, hf, elems * (2 if dtype == "bf16" else 4)


def run_lockstep(o, checkpoint, ids, threads):
    """(seconds, processor seconds) a token, and the tokens."""
    command = [o.lockstep, "sample", checkpoint, "--ids", " ".join(map(str, ids)), "--threads", str(threads), "--tokens",
               str(o.tokens), "--temperature", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        text, marks = b"", []
        while piece := os.read(process.stdout.fileno(), 65536):
            text += piece
            if not text.endswith(b"\n"):  # the line ends behind the last token
                marks.append((len(text.split()), time.monotonic(), processor_seconds(process.pid)))
    if process.returncode != 0:
        sys.exit(f"sample: '{' '.join(map(str, command))}' ended with {process.returncode}")
    first, last = next(m for m in marks if m[0] > len(ids)), marks[-1]
    made = last[0] - first[0]
    return (last[1] - first[1]) / made, (last[2] - first[2]) / made, list(map(int, text.split()[len(ids):]))


def run_torch(o, hf, ids, threads, dtype):
    found = json.loads(call([o.torch, HERE / "torch_sample.py", hf, ",".join(map(str, ids)), str(o.tokens), dtype,
                             str(threads)]).splitlines()[-1])
    return found["seconds"], found["processor_seconds"], found["tokens"]


def compare(o, model, dtype, threads, made):
    checkpoint, hf, bytes_read = made
    ids = [37 * i % 250 for i in range(o.prompt)]
    rows = {"memory": [], "lockstep": [], "transformers": []}
    tokens = {}
    for _ in range(o.rounds):
        clock, own = call([o.read, str(max(64, bytes_read >> 20)), str(threads), "10"]).split()[:2]
        rows["memory"].append((bytes_read / float(clock) * 1e-9, bytes_read / float(own) * 1e-9))
        for name, run in (("lockstep", lambda: run_lockstep(o, checkpoint, ids, threads)),
                          ("transformers", lambda: run_torch(o, hf, ids, threads, dtype))):
            if name == "lockstep" or o.torch:
                seconds, processor, tokens[name] = run()
                rows[name].append((seconds, processor / threads))
    medians = {name: [statistics.median(column) for column in zip(*row)] for name, row in rows.items() if row}
    print(f"{model} {dtype}, {threads} threads, {bytes_read / 1e6:.0f} MB a token")
    for name, (clock, own) in medians.items():
        print(f"  {name:14} {1e3 * clock:8.2f} ms a token ({1 / clock:6.1f} a second), processor time {1e3 * own:8.2f}; "
              f"lockstep's {medians['lockstep'][0] / clock:5.2f} of it, {medians['lockstep'][1] / own:5.2f}")
    if dtype == "fp32" and o.torch:
        same = [a == b for a, b in zip(tokens["lockstep"], tokens["transformers"])]
        print(f"  the same tokens: {same.index(False) if False in same else len(same)} of {len(same)}")
    sys.stdout.flush()


def main():
    o = options()
    with tempfile.TemporaryDirectory(prefix="lockstep-sample-") as folder:
        work = pathlib.Path(folder)
        (work / "text").write_bytes(b"the quick brown fox jumps over a lazy dog. " * 40)
        call([o.lockstep, "prep", work / "text", "--val", "0", "-o", work / "data"])
        for model in o.model.split(","):
            for dtype in o.dtype.split(","):
                made = prepare(o, work, model, dtype)
                for threads in map(int, o.threads.split(",")):
                    compare(o, model, dtype, threads, made)


if __name__ == "__main__":
    main()
