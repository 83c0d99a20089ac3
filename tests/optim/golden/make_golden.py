#!/usr/bin/env python3
"""Golden values of the optimizers: four updates with given gradients, in float64.

    python3 make_golden.py          (PyTorch 2.5 and NumPy; not part of a test run)

Writes optim.bin beside this file, in the format of tests/model/golden/make_golden.py: init/NAME,
grad0/NAME ... grad3/NAME, and for each optimizer KIND/NAME after the updates. SGD, AdamW and
Adafactor are torch.optim's. Lion and Muon are written out here from their papers, since torch has
none: Lion from Algorithm 2 of arXiv 2302.06675, Muon from kellerjordan.github.io/posts/muon with
the scale of arXiv 2502.16982."""
import pathlib
import struct

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).resolve().parent
STEPS, LR, DECAY = 4, 0.02, 0.1
SHAPES = {
    "tok_embed.weight": (10, 6),
    "layers.0.attn_norm.weight": (6,),
    "layers.0.attn.qkv.weight": (8, 6),
    "layers.0.mlp.up.weight": (13, 5),
    "layers.0.mlp.down.weight": (5, 9),
    "layers.0.mlp.experts.weight": (3, 4, 5),
    "final_norm.weight": (6,),
}
QKV_ROWS = (4, 2, 2)


def tensor_record(name, array):
    array = np.ascontiguousarray(array)
    code = {"float64": 0, "float32": 1, "int32": 2}[array.dtype.name]
    dims = list(array.shape) + [1] * (4 - array.ndim)
    head = struct.pack("<64sii4q", name.encode(), code, array.ndim, *dims)
    return head + array.astype(array.dtype.newbyteorder("<")).tobytes()


def decay_of(name):
    return DECAY if len(SHAPES[name]) > 1 else 0.0


def with_torch(make, init, grads, rule=lambda name: {}):
    weights = {n: torch.tensor(v.astype(np.float64), requires_grad=True) for n, v in init.items()}
    groups = [dict(dict(params=[w], weight_decay=decay_of(n)), **rule(n))
              for n, w in weights.items()]
    optimizer = make(groups)
    for step in grads:
        for n, w in weights.items():
            w.grad = torch.tensor(step[n].astype(np.float64))
        optimizer.step()
    return {n: w.detach().numpy() for n, w in weights.items()}


def adamw_rule(name):
    """optim.groups of the test: 'tok_embed.* lr=0.5 decay=0.05; *norm.weight decay=0.2'."""
    if name.startswith("tok_embed."):
        return dict(lr=0.5 * LR, weight_decay=0.05)
    return dict(weight_decay=0.2) if name.endswith("norm.weight") else {}


def lion(init, grads, b1=0.9, b2=0.95):
    weights = {n: v.astype(np.float64) for n, v in init.items()}
    moments = {n: np.zeros_like(v) for n, v in weights.items()}
    for step in grads:
        for n, w in weights.items():
            g = step[n].astype(np.float64)
            update = np.sign(b1 * moments[n] + (1 - b1) * g)
            weights[n] = w - LR * (update + decay_of(n) * w)
            moments[n] = b2 * moments[n] + (1 - b2) * g
    return weights


def orthogonalise(g):
    x = g / (np.linalg.norm(g) + 1e-7)
    tall = g.shape[0] > g.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return 0.2 * max(g.shape) ** 0.5 * (x.T if tall else x)


def muon(init, grads, adamw, mu=0.95):
    weights = dict(adamw)
    for n in SHAPES:
        if not n.startswith("layers.") or len(SHAPES[n]) < 2:
            continue
        w, m = init[n].astype(np.float64), np.zeros(SHAPES[n])
        for step in grads:
            g = step[n].astype(np.float64)
            m = mu * m + (1 - mu) * g
            u = (1 - mu) * g + mu * m
            if "qkv" in n:
                parts = np.split(u, np.cumsum(QKV_ROWS)[:-1], axis=0)
                update = np.concatenate([orthogonalise(p) for p in parts], axis=0)
            elif u.ndim == 3:
                update = np.stack([orthogonalise(p) for p in u])
            else:
                update = orthogonalise(u)
            w = w - LR * (update + DECAY * w)
        weights[n] = w
    return weights


def main():
    rng = np.random.default_rng(3)
    init = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    grads = [{n: (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in SHAPES.items()}
             for _ in range(STEPS)]
    sgd, adamw = torch.optim.SGD, torch.optim.AdamW
    plain_adamw = with_torch(lambda g: adamw(g, lr=LR, betas=(0.9, 0.95), eps=1e-8), init, grads)
    results = {
        "sgd": with_torch(lambda g: sgd(g, lr=LR), init, grads),
        "sgd_momentum": with_torch(lambda g: sgd(g, lr=LR, momentum=0.9), init, grads),
        "sgd_nesterov": with_torch(lambda g: sgd(g, lr=LR, momentum=0.9, nesterov=True), init,
                                   grads),
        "adamw": with_torch(lambda g: adamw(g, lr=LR, betas=(0.9, 0.95), eps=1e-8), init, grads,
                            adamw_rule),
        "adafactor": with_torch(lambda g: torch.optim.Adafactor(g, lr=LR, eps=(1e-30, 1e-3)), init,
                                grads),
        "lion": lion(init, grads),
        "muon": muon(init, grads, plain_adamw),
    }
    records = [tensor_record("init/" + n, v) for n, v in init.items()]
    for i, step in enumerate(grads):
        records += [tensor_record(f"grad{i}/" + n, v) for n, v in step.items()]
    for kind, weights in results.items():
        records += [tensor_record(f"{kind}/" + n, w) for n, w in weights.items()]
    (HERE / "optim.bin").write_bytes(b"LSGOLD1\n" + b"".join(records))


if __name__ == "__main__":
    main()
