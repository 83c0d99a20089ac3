#!/usr/bin/env python3
"""Training steps of GPT-2 or Llama in PyTorch on given weights and tokens; cpu_step.py runs it.

    torch_step.py DIR TOKENS B T STEPS LR THREADS fp32|bf16 eager|compile

DIR is what `lockstep ckpt convert --to safetensors` writes, TOKENS B T + 1 little-endian uint16.
The model is the usual PyTorch one: fused linear layers, F.scaled_dot_product_attention,
F.cross_entropy, torch.optim.AdamW(fused=True); bf16 by autocast. Prints "loss seconds" a step, and
last "peak BYTES", the most memory that the process held."""
import array
import json
import pathlib
import resource
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
            name = name.removeprefix("transformer.").removeprefix("model.")
            tensors[name] = flat.reshape(entry["shape"]).clone()
    return tensors


class Model(torch.nn.Module):
    """Parameters by their published names."""

    def __init__(self, weights, config):
        super().__init__()
        self.config = config
        self.names = {n: n.replace(".", "_") for n in weights}
        for name, attribute in self.names.items():
            self.register_parameter(attribute, torch.nn.Parameter(weights[name]))

    def w(self, name):
        return getattr(self, self.names[name])


class Gpt2(Model):
    def __init__(self, weights, config):
        weights.pop("lm_head.weight", None)
        for name, value in weights.items():
            # The published files hold linear weights as [in, out]; F.linear wants [out, in].
            if value.ndim == 2 and name.startswith("h."):
                weights[name] = value.t().contiguous()
        super().__init__(weights, config)
        self.layers, self.heads = config["n_layer"], config["n_head"]

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


class Llama(Model):
    """q, k, v and gate, up are one matrix each, as in lockstep."""

    def __init__(self, weights, config):
        self.layers = config["num_hidden_layers"]
        self.tied = config["tie_word_embeddings"]
        for i in range(self.layers):
            for whole, parts in (("self_attn.qkv", ("q", "k", "v")), ("mlp.gate_up", ("gate", "up"))):
                block = f"layers.{i}." + whole.split(".", maxsplit=1)[0]
                parts = [weights.pop(f"{block}.{part}_proj.weight") for part in parts]
                weights[f"layers.{i}.{whole}"] = torch.cat(parts)
        if self.tied:
            weights.pop("lm_head.weight", None)
        super().__init__(weights, config)
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        theta = config["rope_theta"] ** -(torch.arange(0, self.head_dim, 2) / self.head_dim)
        angle = torch.arange(config["max_position_embeddings"])[:, None] * theta
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1))

    def norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.w(name + ".weight"), self.config["rms_norm_eps"])

    def rope(self, x):
        T = x.shape[-2]
        low, high = x.chunk(2, dim=-1)
        return (x * self.cos[:T] + torch.cat((-high, low), -1) * self.sin[:T]).to(x.dtype)

    def attention(self, x, h):
        B, T, _ = x.shape
        widths = [n * self.head_dim for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = (t.view(B, T, -1, self.head_dim).transpose(1, 2)
                   for t in F.linear(x, self.w(h + "self_attn.qkv")).split(widths, dim=-1))
        group = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(group, dim=1) for t in (self.rope(k), v))
        y = F.scaled_dot_product_attention(self.rope(q), k, v, is_causal=True)
        return F.linear(y.transpose(1, 2).reshape(B, T, -1), self.w(h + "self_attn.o_proj.weight"))

    def forward(self, tokens, targets):
        x = F.embedding(tokens, self.w("embed_tokens.weight"))
        for i in range(self.layers):
            h = f"layers.{i}."
            x = x + self.attention(self.norm(x, h + "input_layernorm"), h)
            y = self.norm(x, h + "post_attention_layernorm")
            gate, up = F.linear(y, self.w(h + "mlp.gate_up")).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, self.w(h + "mlp.down_proj.weight"))
        head = self.w("embed_tokens.weight" if self.tied else "lm_head.weight")
        logits = F.linear(self.norm(x, "norm"), head)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    directory, tokens_path, B, T, steps, lr, threads, dtype, mode = sys.argv[1:]
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    weights = read_safetensors(next(iter(sorted(directory.glob("*.safetensors")))))
    B, T = int(B), int(T)
    torch.set_num_threads(int(threads))
    with open(tokens_path, "rb") as file:
        tokens = array.array("H", file.read(2 * (B * T + 1)))
    tokens = torch.tensor(tokens.tolist())
    inputs, targets = tokens[:-1].view(B, T), tokens[1:].view(B, T)
    model = (Gpt2 if "n_layer" in config else Llama)(weights, config)
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
    print("peak", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
