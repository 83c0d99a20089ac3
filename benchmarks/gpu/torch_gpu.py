#!/usr/bin/env python3
"""Tokens a second of a GPT-2 in torch.compile'd PyTorch on one GPU: bf16 by autocast, fused AdamW.

    torch_gpu.py LAYERS HEADS CHANNELS BATCH SEQ MICROS STEPS [DEVICE]

A step is MICROS micro-batches of BATCH sequences, on random tokens. Prints the median of the steps
without the first five, and the most memory that PyTorch held."""
import pathlib
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cpu_step"))
from torch_step import Gpt2  # noqa: E402

layers, heads, channels, batch, seq, micros, steps = map(int, sys.argv[1:8])
device = sys.argv[8] if len(sys.argv) > 8 else "cuda"
vocab = 50304  # 50257, padded


def weights():
    """By their published names and shapes."""
    c = channels
    shapes = {"wte.weight": (vocab, c), "wpe.weight": (seq, c)}
    for i in range(layers):
        for name, shape in {"ln_1": (c,), "attn.c_attn": (c, 3 * c), "attn.c_proj": (c, c),
                            "ln_2": (c,), "mlp.c_fc": (c, 4 * c), "mlp.c_proj": (4 * c, c)}.items():
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes[f"h.{i}.{name}.bias"] = shape[-1:]
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (c,)
    one = {name: name.endswith("weight") and len(shape) == 1 for name, shape in shapes.items()}
    return {name: torch.ones(shape) if one[name] else
            torch.zeros(shape) if name.endswith("bias") else 0.02 * torch.randn(shape)
            for name, shape in shapes.items()}


torch.manual_seed(1)
torch.set_float32_matmul_precision("high")
model = Gpt2(weights(), {"n_layer": layers, "n_head": heads}).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
compiled = torch.compile(model)
tokens = torch.randint(50257, (micros, batch, seq + 1), device=device)
gpu = device.startswith("cuda")
times = []
for step in range(steps):
    if gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for m in range(micros):
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            loss = compiled(tokens[m, :, :-1], tokens[m, :, 1:]) / micros
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()
    times.append(time.perf_counter() - start)
seconds = statistics.median(times[min(5, steps - 1):])
print(f"tokens_per_second {micros * batch * seq / seconds:.0f}")
print(f"peak_bytes {torch.cuda.max_memory_allocated() if gpu else 0}")
