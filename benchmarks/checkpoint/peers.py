"""peers.py DIR MIB THREADS ROUNDS: torch.save and torch.distributed.checkpoint on the tensors of
bench_checkpoint, with fsync; GB/s of raw bytes, medians. Before a load the page cache is asked to forget."""
import os
import shutil
import statistics
import sys
import time

import torch
import torch.distributed.checkpoint as dcp

directory, mib, threads, rounds = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)


def sync(path, forget=False):
    names = [os.path.join(path, n) for n in os.listdir(path)] if os.path.isdir(path) else [path]
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        os.fsync(fd)
        if forget:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def timed(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


for dtype in (torch.float32, torch.bfloat16):
    one = (torch.randn((16 << 20) // dtype.itemsize // 1024, 1024) * 0.02).to(dtype)
    state = {f"layers.{i}.weight": one.clone() for i in range(max(1, mib // 16))}
    gigabytes = sum(t.numel() * t.element_size() for t in state.values()) * 1e-9
    file, folder = os.path.join(directory, "bench.pt"), os.path.join(directory, "bench-dcp")

    def save_file():
        torch.save(state, file)
        sync(file)

    def save_folder():
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, thread_count=threads, overwrite=True))
        sync(folder)

    works = {
        "torch.save and fsync": save_file,
        "torch.load": lambda: torch.load(file, weights_only=True),
        "torch.distributed.checkpoint save": save_folder,
        "torch.distributed.checkpoint load": lambda: dcp.load(state, checkpoint_id=folder),
    }
    seconds = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            if "load" in name:
                sync(file if "torch.load" in name else folder, forget=True)
            seconds[name].append(timed(work))
    print(f"{str(dtype)[6:]}, {gigabytes:.2f} GB, {threads} threads, median of {rounds} rounds")
    for name, times in seconds.items():
        print(f"  {name:<46} {gigabytes / statistics.median(times):7.2f} GB/s")
    os.remove(file)
    shutil.rmtree(folder)
