#!/usr/bin/env python3
"""Training steps of GPT-2 in PyTorch on given weights and tokens; cpu_step.py runs it.

    torch_step.py WEIGHTS.safetensors TOKENS B T STEPS LR THREADS HEADS fp32|bf16 eager|compile

WEIGHTS is what `lockstep ckpt convert --to safetensors` writes, TOKENS B T + 1 little-endian uint16.
The model is the usual PyTorch one: fused linear layers, F.scaled_dot_product_attention,
F.cross_entropy, torch.optim.AdamW(fused=True); bf16 by autocast. Prints "loss seconds" a step."""
import array
import json
import struct
import sys
import time

import torch
import torch.nn.functional as F


def read_safetensors(path):
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(data, dtype=torch.float32, offset=begin,
                                    count=(end - begin) // 4)
            tensors[name.removeprefix("transformer.")] = flat.reshape(entry["shape"]).clone()
    return tensors


class Gpt2(torch.nn.Module):
    def __init__(self, weights, heads):
        super().__init__()
        self.heads = heads
        self.layers = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("h."))
        self.names = {n: n.replace(".", "_") for n in weights if n != "lm_head.weight"}
        for name, attribute in self.names.items():
            value = weights[name]
            # The published files hold linear weights as [in, out]; F.linear wants [out, in].
            if value.ndim == 2 and name.startswith("h."):
                value = value.t().contiguous()
            self.register_parameter(attribute, torch.nn.Parameter(value))

    def w(self, name):
        return getattr(self, self.names[name])

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w(name + ".weight"), self.w(name + ".bias"), 1e-5)

    def linear(self, x, name):
        return F.linear(x, self.w(name + ".weight"), self.w(name + ".bias"))

    def forward(self, tokens, targets):
        B, T = tokens.shape
        x = F.embedding(tokens, self.w("wte.weight")) + self.w("wpe.weight")[:T]
        for i in range(self.layers):
            h = f"h.{i}."
            qkv = self.linear(self.norm(x, h + "ln_1"), h + "attn.c_attn")
            q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.linear(y.transpose(1, 2).reshape(B, T, -1), h + "attn.c_proj")
            up = F.gelu(self.linear(self.norm(x, h + "ln_2"), h + "mlp.c_fc"), approximate="tanh")
            x = x + self.linear(up, h + "mlp.c_proj")
        logits = F.linear(self.norm(x, "ln_f"), self.w("wte.weight"))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    weights, tokens_path, B, T, steps, lr, threads, heads, dtype, mode = sys.argv[1:]
    B, T = int(B), int(T)
    torch.set_num_threads(int(threads))
    with open(tokens_path, "rb") as file:
        tokens = array.array("H", file.read(2 * (B * T + 1)))
    tokens = torch.tensor(tokens.tolist())
    inputs, targets = tokens[:-1].view(B, T), tokens[1:].view(B, T)
    model = Gpt2(read_safetensors(weights), int(heads))
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(lr), betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.0, fused=True)
    run = torch.compile(model) if mode == "compile" else model
    for _ in range(int(steps)):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(inputs, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        print(f"{loss.item():.9g} {time.perf_counter() - start:.6f}", flush=True)


if __name__ == "__main__":
    main()
