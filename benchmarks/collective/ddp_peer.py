#!/usr/bin/env python3
"""Data-parallel steps of a GPT-2 or Llama over a slow link: lockstep beside PyTorch's DistributedDataParallel.

    ddp_peer.py --torch PYTHON [--model gpt2-124m] [--batch 1] [--seq 512] [--rate 1gbit] [--dtype bf16]
                [--gradients fp32,bf16] [--torch-modes eager,compile] [--steps 4] [--rounds 3] [--json FILE]

Two hosts (network namespaces; as root) with a rank each and a link of --rate. As in ../cpu_step/cpu_step.py contenders
have the same weights, tokens, optimizer and threads, take turns, and their losses are compared; --batch is a rank's.
PyTorch's ranks talk by gloo, and send gradients in bf16 by its bf16_compress_hook; lockstep's by MPI, in bf16 with
numerics.reduction=bf16."""
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cpu_step"))
import cpu_step  # noqa: E402

HOSTS = 2


class Bench(cpu_step.Bench):
    def samples(self):
        return HOSTS * self.o.batch

    def on_hosts(self, *command):
        return [cpu_step.ROOT / "tests/hosts.sh", "-r", self.o.rate, str(HOSTS), "1", *command]

    def lockstep(self, dtype, gradients):
        reduction = {"fp32": "fast", "bf16": "bf16"}[gradients]
        return super().lockstep(dtype, None, f"numerics.reduction={reduction}", launcher=self.on_hosts())

    def torch(self, dtype, mode, gradients):
        o = self.o
        return self.rows(self.on_hosts(
            "env", "MASTER_ADDR=10.77.0.1", "MASTER_PORT=29500", "GLOO_SOCKET_IFNAME=eth0", o.torch, HERE / "ddp_step.py",
            self.work / "hf", self.work / "tokens", str(o.batch), str(o.seq), str(o.steps), cpu_step.LR, str(o.threads),
            dtype, mode, gradients))

    def contenders(self):
        for gradients in self.o.gradients.split(","):
            yield f"lockstep {gradients}", self.lockstep, (self.o.dtype, gradients)
            for mode in self.o.torch_modes.split(","):
                yield f"DDP {mode} {gradients}", self.torch, (self.o.dtype, mode, gradients)


def main():
    p = cpu_step.common_options(__doc__, batch=1, seq=512, threads=1)
    p.add_argument("--rate", default="1gbit")
    p.add_argument("--dtype", default="bf16", help="what is computed in")
    p.add_argument("--gradients", default="fp32,bf16", help="what they travel in")
    o = cpu_step.parse(p)
    if not o.torch:
        p.error("--torch is the python of an environment with PyTorch")
    if o.dtype not in ("fp32", "bf16") or not set(o.gradients.split(",")) <= {"fp32", "bf16"}:
        p.error("--dtype is fp32 or bf16, --gradients one of them or both")
    with tempfile.TemporaryDirectory(prefix="lockstep-ddp-") as work:
        results = Bench(o, pathlib.Path(work)).run()
    o.batch *= HOSTS  # of both, from here on
    cpu_step.summarise(results, o)
    print(f"{HOSTS} hosts, a link of {o.rate}; computed in {o.dtype}; the last word of a name is what gradients travel in")
    cpu_step.print_table(results, o)
    if o.json:
        pathlib.Path(o.json).write_text(json.dumps(dict(vars(o), results=results), indent=1))


if __name__ == "__main__":
    main()
