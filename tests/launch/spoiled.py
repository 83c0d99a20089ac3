#!/usr/bin/env python3
"""Every file that the program reads, spoiled at random: bits, ranges, numbers, ends. The verbs that read it must end
with a status of theirs and, where it is not 0, with an error that says why; never by a signal, never without end.

  spoiled.py [--seed N] [--first I] [--count N]

LOCKSTEP names the binary. With LOCKSTEP_TEST_ALL=1 3000 cases, else 60. A build with sanitizers finds more."""
import argparse
import hashlib
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKSTEP = os.environ.get("LOCKSTEP", str(ROOT / "build/release/bin/lockstep"))
PATIENCE_S = 300
TINY = ["model.preset=llama3-tiny", "model.context=16", "batch.sequences=2", "run.threads=1", "eval.batches=1",
        "metrics.every=1", "schedule.warmup_steps=0"]
NUMBERS = ["-1", "0", "1e308", "1e999", "99999999999999999999", "9223372036854775807", "0.5", "null", '"x"', "[]", "{}",
           "true", "NaN", "4294967296", "-9223372036854775808"]
STATUS = {0, 1, 2, 3}


def run(command, **more):
    env = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, env=env,
                          timeout=PATIENCE_S, **more)


def make(command):
    done = run([LOCKSTEP, *command])
    if done.returncode not in (0, 75):
        sys.exit(f"{command}: {done.returncode} {done.stderr.decode()}")


def sound(work):
    """What is spoiled: a data directory, inputs, a run with what it records, a model, profiles."""
    text = work / "text"
    text.mkdir()
    lines = (ROOT / "README.md").read_text().splitlines(keepends=True)
    for i in range(6):
        (text / f"{i}.txt").write_text("".join(lines[i * 9:i * 9 + 40]))
    rows = [json.dumps({"ids": [(i * 7 + j) % 90 for j in range(40)], "text": lines[i],
                        "mask": [j % 3 // 2 for j in range(40)]}) for i in range(60)]
    (work / "rows.jsonl").write_text("\n".join(rows) + "\n")
    tokens = [i * 7 % 90 if i % 30 else 99 for i in range(2000)]
    (work / "nano.bin").write_bytes(struct.pack("<2000H", *tokens))
    (work / "llmc.bin").write_bytes(struct.pack("<256i", 20240520, 1, 2000, *[0] * 253) +
                                    struct.pack("<2000H", *tokens))
    questions = [json.dumps({"ctx": lines[i][:9], "endings": ["one", "two", "drei"][:2 + i % 2], "label": i % 2})
                 for i in range(5)]
    (work / "questions.jsonl").write_text("\n".join(questions) + "\n")
    make(["prep", text, "-o", work / "data", "--val", "0.1"])
    make(["prep", work / "rows.jsonl", "-o", work / "answers", "--field", "ids", "--loss-mask", "mask", "--vocab", "100",
          "--separator", "99", "--val", "0.1"])
    make(["prep", work / "rows.jsonl", "-o", work / "packed", "--field", "text", "--pack", "16", "--val", "0"])
    make(["train", *TINY, f"data.dir={work / 'data'}", f"run.dir={work / 'runs'}", "run.name=a", "run.steps=4",
          "checkpoint.every=1", "checkpoint.parity=1", "cost.usd_per_device_hour=1", "--until", "2"])
    make(["ckpt", "convert", work / "runs/a", "--to", "safetensors", "-o", work / "hf"])
    for name in ("aws-p5.yaml", "devices"):
        source = ROOT / "launch/clusters" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, work / name)


def readers(name, work):
    """The verbs that read a file; `runs/a` and its like are of a copy that a case may change."""
    r = work / "runs/a"
    train = ["train", *TINY, f"data.dir={work / 'data'}", f"run.dir={work / 'runs'}"]
    resume = [*train, "run.name=a", "run.steps=4", "--resume"]
    if name.startswith(("answers/", "packed/")):
        return [["train", *TINY, f"data.dir={(work / name).parent}", f"run.dir={work / 'runs'}", "run.name=b", "run.steps=2"]]
    if name.startswith("data/"):
        return [[*train, "run.name=b", "run.steps=1"], ["eval", r, "--data", work / "data"]]
    if name == "questions.jsonl":
        return [["eval", r, "--choices", work / name]]
    if name.endswith(("rows.jsonl", "nano.bin", "llmc.bin")):
        fields = [] if name.endswith("bin") else ["--field", "ids"]
        texts = [] if name.endswith("bin") else [["prep", work / name, "-o", work / "of-text"]]
        return [["prep", work / name, "-o", work / "of", *fields, "--vocab", "100", "--separator", "99"], *texts,
                *(["prep", work / name, "-o", work / f"masked{i}", *fields, "--vocab", "100", "--separator", "99",
                   "--loss-mask", "mask", *pack] for i, pack in enumerate([[], ["--pack", "100"]]) if fields)]
    if name.startswith("hf/"):
        return [["ckpt", "convert", "--from", "safetensors", work / "hf", "-o", work / "of"]]
    if name.endswith("p5.yaml") or name.startswith("devices"):
        return [["plan", "-m", "gpt2-124m", "-c", work / "aws-p5.yaml", "-n", "8"],
                [*train, "run.name=b", "run.steps=1", f"cost.cluster={work / 'aws-p5.yaml'}", "--dry-run"]]
    if "checkpoints" in name:
        return [["ckpt", "ls", r], ["ckpt", "verify", "--deep", r], ["ckpt", "stats", r], ["ckpt", "doctor", r],
                ["sample", r, "--prompt", "a", "--tokens", "3"], ["ckpt", "doctor", r, "--repair"], resume]
    if name.endswith("config.yaml"):
        return [["train", r / "config.yaml", "--resume"]]
    return [["cost", r], ["cost", r, "--json"], ["cost", r, "--lines"], ["cost", r, "--by", "account"],
            ["cost", r, "--html", work / "report.html"], resume, ["cost", r]]


FILES = ["data/data.json", "data/train-00000.tok", "data/val-00000.tok", "answers/data.json",
         "answers/train-00000.tok", "packed/data.json", "packed/train-00000.tok", "rows.jsonl", "nano.bin", "llmc.bin",
         "questions.jsonl", "hf/config.json", "hf/model.safetensors", "aws-p5.yaml", "devices/h100.yaml",
         "runs/a/config.yaml", "runs/a/ledger.json", "runs/a/starts.jsonl", "runs/a/train.jsonl", "runs/a/outcome",
         "runs/a/checkpoints/step-00000002/manifest.json", "runs/a/checkpoints/step-00000002/rank-00000.h5"]


def spoil(rng, data):
    """One to four wounds."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind, at = rng.randrange(8), rng.randrange(len(data) + 1)
        if rng.random() < 0.3:
            at = min(at, rng.randrange(400))  # where headers are
        numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data[:200000])) if kind in (0, 1, 2) else []
        if numbers:
            found = rng.choice(numbers)
            data[found.start():found.end()] = rng.choice(NUMBERS).encode()
        elif kind in (0, 3) and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            del data[at:at + rng.choice([1, 2, 40, 10 ** 9])]
        elif kind == 5:
            data[at:at] = data[at:at + rng.randrange(300)]
        elif kind == 6:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(9)))
        else:
            data[at:at + 8] = rng.choice([0, 2 ** 63 - 1, 2 ** 64 - 1, 2 ** 31]).to_bytes(8, "little")
    return bytes(data)


def hashed(text):
    """A manifest with the hash that fits its text again, so that what stands in it is read."""
    begin = text.rfind(b'\n"sha256": "')
    if begin < 0:
        return text
    digits = begin + len(b'\n"sha256": "')
    return text[:digits] + hashlib.sha256(text[:digits]).hexdigest().encode() + b'"\n}\n'


def judge(command, done):
    """What is wrong with how a verb ended, or None."""
    said = done.stderr.decode(errors="replace")
    if done.returncode not in STATUS:
        return f"status {done.returncode}"
    if "Sanitizer" in said or "runtime error" in said:
        return "a sanitizer's report"
    if done.returncode and "lockstep: error: " not in said and command[0] not in ("ckpt",):
        return f"status {done.returncode} without an error"
    return None


def play(seed, index, whole):
    """One case: a description of what failed, or None."""
    rng = random.Random(f"{seed}/{index}")
    name = FILES[index % len(FILES)] if rng.random() < 0.5 else rng.choice(FILES)
    work = whole.parent / "case"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work)
    for text in [work / "runs/a/config.yaml"]:
        text.write_text(text.read_text().replace(str(whole), str(work)))
    data = spoil(rng, (work / name).read_bytes())
    (work / name).write_bytes(hashed(data) if "manifest" in name and rng.random() < 0.8 else data)
    for command in readers(name, work):
        try:
            done = run([LOCKSTEP, *command])
        except subprocess.TimeoutExpired:
            return f"{name}: no end within {PATIENCE_S} s: {shlex.join(map(str, command))}"
        wrong = judge(command, done)
        if wrong:
            told = done.stderr.decode(errors="replace")[-1500:]
            return f"{name}: {wrong}: {shlex.join(map(str, command))}\n{told}"
    return None


def main():
    every = os.environ.get("LOCKSTEP_TEST_ALL") == "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000 if every else 60)
    given = parser.parse_args()
    failures = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # on which what is temporary goes
    with tempfile.TemporaryDirectory(prefix="lockstep-spoiled-") as folder:
        whole = pathlib.Path(folder) / "whole"
        whole.mkdir()
        sound(whole)
        for index in range(given.first, given.first + given.count):
            wrong = play(given.seed, index, whole)
            if wrong:
                failures += 1
                print(f"FAILED: --seed {given.seed} --first {index} --count 1: {wrong}", flush=True)
    print(f"{given.count} cases, {failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
