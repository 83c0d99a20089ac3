#!/usr/bin/env python3
"""A rank of PyTorch's DistributedDataParallel over gloo; ddp_peer.py starts it by mpirun.

    ddp_step.py DIR TOKENS B T STEPS LR THREADS fp32|bf16 eager|compile fp32|bf16

Model and optimizer are those of ../cpu_step/torch_step.py; B is a rank's, TOKENS have the ranks' samples one behind the
other. The last word is what gradients travel in: bf16 is PyTorch's own bf16_compress_hook. Rank 0 prints "loss seconds" a
step, the loss being the mean over the ranks, and the most memory that its process held."""
import array
import json
import os
import pathlib
import resource
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cpu_step"))
import torch_step  # noqa: E402


def main():
    directory, tokens_path, B, T, steps, lr, threads, dtype, mode, gradients = sys.argv[1:]
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    weights = torch_step.read_safetensors(next(iter(sorted(directory.glob("*.safetensors")))))
    B, T, rank = int(B), int(T), int(os.environ["OMPI_COMM_WORLD_RANK"])
    torch.set_num_threads(int(threads))
    dist.init_process_group("gloo", rank=rank, world_size=int(os.environ["OMPI_COMM_WORLD_SIZE"]))
    with open(tokens_path, "rb") as file:
        file.seek(2 * rank * B * T)
        tokens = torch.tensor(array.array("H", file.read(2 * (B * T + 1))).tolist())
    inputs, targets = tokens[:-1].view(B, T), tokens[1:].view(B, T)
    model = (torch_step.Gpt2 if "n_layer" in config else torch_step.Llama)(weights, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(lr), betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.0, fused=True)
    ddp = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    if gradients == "bf16":
        ddp.register_comm_hook(None, bf16_compress_hook)
    run = torch.compile(ddp) if mode == "compile" else ddp
    for _ in range(int(steps)):
        dist.barrier()
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # the buckets' views stay
        seconds = time.perf_counter() - start
        mean = loss.detach()
        dist.all_reduce(mean)
        if rank == 0:
            print(f"{mean.item() / dist.get_world_size():.9g} {seconds:.6f}", flush=True)
    if rank == 0:
        print("peak", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
