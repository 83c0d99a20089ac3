"""make FILE: questions about words of this repository. answer FILE CKPT_LOGITS CHECKPOINTS: which endings are likeliest
by the logits of a model of bytes that is fed token by token. compare EXPECTED FOUND N: the counts of
both, of N questions."""
import json
import math
import pathlib
import random
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT, SEPARATOR = 32, 256


def make(path):
    rng = random.Random(5)
    words = (ROOT / "README.md").read_text().split()
    with open(path, "w") as out:
        for i in range(48):
            at = rng.randrange(len(words) - 8)
            context = " ".join(words[at:at + 9])[:(40 if i % 6 == 1 else 12)] + ("" if i % 3 else " ")
            context = context if i % 6 != 2 else ""
            endings = [w[:14] for w in rng.sample(words, 2 + i % 4)]
            label = rng.randrange(len(endings))
            if i % 6 == 3:  # characters of several bytes, each as likely as one of a byte would be
                endings[label] = "\u2500\u2500\u2500\u2500"
            out.write(json.dumps({"ctx": context, "endings": endings, "label": str(label) if i % 2 else label}) + "\n")


def loss(logits, checkpoints, context, ending):
    tokens = [SEPARATOR, *context] + list(ending)
    inputs, targets = tokens[:-1], tokens[1:]
    skip = max(0, len(inputs) - CONTEXT)
    lines = subprocess.run([logits, checkpoints, *map(str, inputs[skip:])], check=True, capture_output=True,
                           text=True).stdout.splitlines()
    sum_of = 0.0
    for line, target in list(zip(lines, targets[skip:]))[-len(ending):]:
        row = [float(x) for x in line.split()]
        most = max(row)
        sum_of += most + math.log(sum(math.exp(x - most) for x in row)) - row[target]
    return sum_of


def answer(path, logits, checkpoints):
    answers = []
    for line in open(path):
        q = json.loads(line)
        joins = [e if not q["ctx"] or q["ctx"].endswith(" ") else " " + e for e in q["endings"]]
        losses = [loss(logits, checkpoints, q["ctx"].encode(), e.encode()) for e in joins]
        norms = [x / len(e) for x, e in zip(losses, q["endings"])]
        label = int(q["label"])
        answers.append({"acc": losses.index(min(losses)) == label, "acc_norm": norms.index(min(norms)) == label,
                        "cut": any(len(q["ctx"].encode()) + len(e.encode()) > CONTEXT for e in joins),
                        "chance": 1 / len(joins)})
    assert any(a["acc"] for a in answers) and any(a["acc"] != a["acc_norm"] for a in answers), answers
    print(json.dumps(answers))


def compare(expected, found, count):
    answers, f, n = json.load(open(expected)), json.load(open(found)), int(count)
    e = [answers[i * len(answers) // n] for i in range(n)]
    assert (f["questions"], f["cut"]) == (n, sum(a["cut"] for a in e)), (e, f)
    for key in ("acc", "acc_norm"):
        share = sum(a[key] for a in e) / n
        assert abs(f[key] - share) < 1e-12, (key, share, f)
        assert abs(f[key + "_stderr"] - math.sqrt(share * (1 - share) / (n - 1))) < 1e-12, (key, e, f)
    assert abs(f["chance"] - sum(a["chance"] for a in e) / n) < 1e-12, (e, f)


{"make": make, "answer": answer, "compare": compare}[sys.argv[1]](*sys.argv[2:])
