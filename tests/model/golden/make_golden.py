#!/usr/bin/env python3
"""Golden values from models written here with PyTorch in float64, independent of lockstep's code.

    python3 make_golden.py          (PyTorch and NumPy; not part of a test run)

Writes gpt2.bin, llama3.bin, mixtral.bin, qwen.bin and mistral.bin beside this file: tensors with a name, each
    name 64 bytes (NUL-padded) | dtype int32 (0 float64, 1 float32, 2 int32) | ndim int32 |
    dims 4 x int64 | values, little-endian, row-major
after the 8 bytes "LSGOLD1\n". Initial values are float32 numbers, so that fp32 starts from the same
point. Contents: config (named numbers), tokens, targets [B,T] (-1: no loss), init/NAME, grad/NAME
of the mean loss (for Mixtral with the balance loss, which `loss` lacks), loss, and for GPT-2 adamw/NAME and adamw_losses after STEPS updates on the same
batch with the gradient clipped to CLIP."""
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).resolve().parent
B, T, V = 2, 13, 97
STEPS, CLIP, LR, BETAS, EPS, DECAY = 5, 0.5, 3e-3, (0.9, 0.95), 1e-8, 0.1


def tensor_record(name, array):
    array = np.ascontiguousarray(array)
    code = {"float64": 0, "float32": 1, "int32": 2}[array.dtype.name]
    dims = list(array.shape) + [1] * (4 - array.ndim)
    head = struct.pack("<64sii4q", name.encode(), code, array.ndim, *dims)
    return head + array.astype(array.dtype.newbyteorder("<")).tobytes()


def attention(q, k, v, window=None):
    """q [B,H,T,D], k and v [B,G,T,D]; written out. A token sees itself and window - 1 before it."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    mask = torch.triu(torch.ones(q.shape[2], q.shape[2], dtype=torch.bool), diagonal=1)
    if window:
        place = torch.arange(q.shape[2])
        mask = mask | (place[:, None] - place[None, :] >= window)
    return torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v


def split_heads(x, heads):
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x):
    return x.transpose(1, 2).flatten(2)


class Gpt2:
    name = "gpt2"
    L, C, H, D, FFN, CONTEXT = 2, 24, 2, 12, 96, 16
    config = dict(family=0, layers=L, channels=C, heads=H, kv_heads=H, head_dim=D, ffn=FFN,
                  context=CONTEXT, vocab=V, vocab_multiple=16, tied=1, norm_eps=1e-5)

    def shapes(self):
        C, FFN = self.C, self.FFN
        yield "tok_embed.weight", (V, C)
        yield "pos_embed.weight", (self.CONTEXT, C)
        for i in range(self.L):
            p = f"layers.{i}."
            yield p + "attn_norm.weight", (C,)
            yield p + "attn_norm.bias", (C,)
            yield p + "attn.qkv.weight", (3 * C, C)
            yield p + "attn.qkv.bias", (3 * C,)
            yield p + "attn.proj.weight", (C, C)
            yield p + "attn.proj.bias", (C,)
            yield p + "mlp_norm.weight", (C,)
            yield p + "mlp_norm.bias", (C,)
            yield p + "mlp.up.weight", (FFN, C)
            yield p + "mlp.up.bias", (FFN,)
            yield p + "mlp.down.weight", (C, FFN)
            yield p + "mlp.down.bias", (C,)
        yield "final_norm.weight", (C,)
        yield "final_norm.bias", (C,)

    def logits(self, w, tokens):
        def norm(x, name):
            return F.layer_norm(x, (self.C,), w[name + ".weight"], w[name + ".bias"], 1e-5)

        def linear(x, name):
            return F.linear(x, w[name + ".weight"], w[name + ".bias"])

        x = F.embedding(tokens, w["tok_embed.weight"]) + w["pos_embed.weight"][: tokens.shape[1]]
        for i in range(self.L):
            p = f"layers.{i}."
            qkv = linear(norm(x, p + "attn_norm"), p + "attn.qkv")
            q, k, v = (split_heads(t, self.H) for t in qkv.chunk(3, dim=-1))
            x = x + linear(merge_heads(attention(q, k, v)), p + "attn.proj")
            up = linear(norm(x, p + "mlp_norm"), p + "mlp.up")
            x = x + linear(F.gelu(up, approximate="tanh"), p + "mlp.down")
        return F.linear(norm(x, "final_norm"), w["tok_embed.weight"])


class Llama3:
    name = "llama3"
    L, C, H, G, D, FFN, CONTEXT = 2, 24, 4, 2, 12, 40, 16
    # An original context of 8 puts some of the 6 wavelengths below, between and above the bounds.
    THETA, FACTOR, LOW, HIGH, ORIGINAL = 10000.0, 8.0, 0.05, 0.8, 8
    config = dict(family=1, layers=L, channels=C, heads=H, kv_heads=G, head_dim=D, ffn=FFN,
                  context=CONTEXT, vocab=V, vocab_multiple=16, tied=0, norm_eps=1e-5,
                  rope_theta=THETA, rope_scaling=1, rope_factor=FACTOR, rope_low_freq_factor=LOW,
                  rope_high_freq_factor=HIGH, rope_original_context=ORIGINAL)

    def shapes(self):
        C, H, G, D, FFN = self.C, self.H, self.G, self.D, self.FFN
        yield "tok_embed.weight", (V, C)
        for i in range(self.L):
            p = f"layers.{i}."
            yield p + "attn_norm.weight", (C,)
            yield p + "attn.qkv.weight", ((H + 2 * G) * D, C)
            yield p + "attn.proj.weight", (C, H * D)
            yield p + "mlp_norm.weight", (C,)
            yield p + "mlp.up.weight", (2 * FFN, C)
            yield p + "mlp.down.weight", (C, FFN)
        yield "final_norm.weight", (C,)
        yield "head.weight", (V, C)

    def frequencies(self):
        """As published for Llama 3.1: by wavelength, pair by pair."""
        kinds, scaled = set(), []
        for d in range(self.D // 2):
            f = self.THETA ** (-2.0 * d / self.D)
            wavelength = 2 * np.pi / f
            if wavelength < self.ORIGINAL / self.HIGH:
                kinds.add("kept")
            elif wavelength > self.ORIGINAL / self.LOW:
                kinds.add("divided")
                f = f / self.FACTOR
            else:
                kinds.add("blended")
                s = (self.ORIGINAL / wavelength - self.LOW) / (self.HIGH - self.LOW)
                f = (1 - s) * f / self.FACTOR + s * f
            scaled.append(f)
        assert kinds == {"kept", "divided", "blended"}, kinds
        return torch.tensor(scaled)

    def rotate(self, x):
        angles = torch.outer(torch.arange(x.shape[2], dtype=torch.float64), self.frequencies())
        cos, sin = (torch.cat([t, t], dim=-1) for t in (angles.cos(), angles.sin()))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    def logits(self, w, tokens):
        def norm(x, name):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w[name + ".weight"]

        H, G, D = self.H, self.G, self.D
        x = F.embedding(tokens, w["tok_embed.weight"])
        for i in range(self.L):
            p = f"layers.{i}."
            qkv = F.linear(norm(x, p + "attn_norm"), w[p + "attn.qkv.weight"], w.get(p + "attn.qkv.bias"))
            q, k, v = qkv.split([H * D, G * D, G * D], dim=-1)
            q, k, v = split_heads(q, H), split_heads(k, G), split_heads(v, G)
            if p + "attn.q_norm.weight" in w:
                q, k = norm(q, p + "attn.q_norm"), norm(k, p + "attn.k_norm")
            out = merge_heads(attention(self.rotate(q), self.rotate(k), v, self.window(i)))
            x = x + F.linear(out, w[p + "attn.proj.weight"])
            x = x + self.mlp(w, p, norm(x, p + "mlp_norm"))
        return F.linear(norm(x, "final_norm"), w["head.weight"])

    def window(self, layer):
        return None

    def mlp(self, w, p, x):
        gate, up = F.linear(x, w[p + "mlp.up.weight"]).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, w[p + "mlp.down.weight"])


class Qwen(Llama3):
    """The biases of Qwen2 and the norms of Qwen3, heads wider than channels / heads."""
    name = "qwen"
    H, G, D = 3, 1, 10
    config = dict(Llama3.config, heads=H, kv_heads=G, head_dim=D, qkv_bias=1, qk_norm=1)

    def shapes(self):
        for name, shape in super().shapes():
            yield name, shape
            if name.endswith("attn.qkv.weight"):
                yield name.replace("weight", "bias"), shape[:1]
                yield name.replace("qkv", "q_norm"), (self.D,)
                yield name.replace("qkv", "k_norm"), (self.D,)


class Mistral(Llama3):
    """Windows in the first and the third layer, none in the second."""
    name = "mistral"
    L, WINDOW = 3, 4
    config = dict(Llama3.config, layers=L, window=WINDOW, window_pattern=2)

    def window(self, layer):
        return None if layer == 1 else self.WINDOW


class Mixtral(Llama3):
    """Experts written out token by token. The load-balance loss is added per layer: COEFFICIENT * E *
    sum over experts of (share of the choices) * (mean probability)."""
    name = "mixtral"
    E, EACH, COEFFICIENT, FFN = 5, 2, 0.3, 16
    config = dict(Llama3.config, ffn=FFN, experts=E, experts_per_token=EACH,
                  balance_loss=COEFFICIENT)

    def shapes(self):
        for name, shape in super().shapes():
            if name.endswith("mlp.up.weight"):
                yield name.replace("mlp.up", "moe.router"), (self.E, self.C)
                yield name.replace("mlp.up", "moe.up"), (self.E, 2 * self.FFN, self.C)
            elif name.endswith("mlp.down.weight"):
                yield name.replace("mlp.down", "moe.down"), (self.E, self.C, self.FFN)
            else:
                yield name, shape

    def logits(self, w, tokens):
        self.balance = 0.0
        return super().logits(w, tokens)

    def mlp(self, w, p, x):
        rows = x.flatten(0, 1)
        scores = F.linear(rows, w[p + "moe.router.weight"])
        probs = torch.softmax(scores, dim=-1)
        chosen = scores.topk(self.EACH, dim=-1).indices
        wanted = F.one_hot(chosen, self.E).double().sum(dim=(0, 1)) / chosen.numel()
        assert wanted.min() < 0.15 < 0.25 < wanted.max(), wanted  # uneven enough to matter
        self.balance = self.balance + self.COEFFICIENT * self.E * (wanted * probs.mean(0)).sum()
        out = []
        for row, score, experts in zip(rows, scores, chosen):
            y = 0.0
            gates = torch.softmax(score[experts], dim=-1)
            for gate_of, e in zip(gates, experts):
                gate, up = (w[p + "moe.up.weight"][e] @ row).chunk(2)
                y = y + gate_of * (w[p + "moe.down.weight"][e] @ (F.silu(gate) * up))
            out.append(y)
        return torch.stack(out).view_as(x)


def mean_loss(model, weights, tokens, targets):
    logits = model.logits(weights, tokens)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def initial_values(model, rng):
    """Norm weights near 1, everything else of a size that makes all terms matter."""
    values = {}
    for name, shape in model.shapes():
        noise = rng.standard_normal(shape)
        values[name] = (1 + 0.2 * noise if "norm.weight" in name else 0.25 * noise).astype(
            np.float32)
    return values


def adamw_records(model, weights, tokens, targets):
    decayed = [w for w in weights.values() if w.ndim == 2]
    others = [w for w in weights.values() if w.ndim == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=decayed, weight_decay=DECAY), dict(params=others, weight_decay=0.0)],
        lr=LR, betas=BETAS, eps=EPS)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = mean_loss(model, weights, tokens, targets)
        loss.backward()
        norm = torch.stack([w.grad.pow(2).sum() for w in weights.values()]).sum().sqrt()
        scale = min(1.0, CLIP / norm.item())
        for w in weights.values():
            w.grad.mul_(scale)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    assert max(norms) > CLIP, norms
    yield tensor_record("adamw_losses", np.array(losses))
    yield tensor_record("adamw_norms", np.array(norms))
    settings = dict(clip_norm=CLIP, lr=LR, beta1=BETAS[0], beta2=BETAS[1], eps=EPS,
                    weight_decay=DECAY)
    for key, value in settings.items():
        yield tensor_record("optim/" + key, np.array(float(value)))
    for name, w in weights.items():
        yield tensor_record("adamw/" + name, w.detach().numpy())


def main():
    for model, seed in ((Gpt2(), 1), (Llama3(), 2), (Mixtral(), 3), (Qwen(), 4), (Mistral(), 5)):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, V, (B, T)).astype(np.int32)
        targets = rng.integers(0, V, (B, T)).astype(np.int32)
        targets[0, 3] = targets[1, 11] = targets[1, 12] = -1
        tokens[0, :2] = 0, V - 1
        values = initial_values(model, rng)
        weights = {n: torch.tensor(v.astype(np.float64), requires_grad=True)
                   for n, v in values.items()}
        token_tensor, target_tensor = torch.tensor(tokens).long(), torch.tensor(targets).long()
        loss = mean_loss(model, weights, token_tensor, target_tensor)
        balance = getattr(model, "balance", 0.0) * tokens.size / (targets >= 0).sum()
        (loss + balance).backward()
        records = [tensor_record("config/" + k, np.array(float(v)))
                   for k, v in model.config.items()]
        records += [tensor_record("tokens", tokens), tensor_record("targets", targets),
                    tensor_record("loss", np.array(loss.item()))]
        records += [tensor_record("init/" + n, v) for n, v in values.items()]
        records += [tensor_record("grad/" + n, w.grad.numpy()) for n, w in weights.items()]
        if isinstance(model, Gpt2):
            records += list(adamw_records(model, weights, token_tensor, target_tensor))
        path = HERE / f"{model.name}.bin"
        path.write_bytes(b"LSGOLD1\n" + b"".join(records))
        print(path.name, path.stat().st_size, "bytes, loss", loss.item())


if __name__ == "__main__":
    main()
