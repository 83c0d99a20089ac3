"""LOCKSTEP CHECKPOINT: every tensor that h5py reads, by the datasets' own attributes, has the values
that `ckpt show` prints. hdf5plugin brings the zstd filter."""
import glob
import json
import subprocess
import sys

import h5py
import hdf5plugin  # noqa: F401  registers filter 32015
import numpy

lockstep, checkpoint = sys.argv[1:]
tensors, filled = {}, {}
datasets = 0
for path in sorted(glob.glob(checkpoint + "/rank-*.h5")):
    with h5py.File(path, "r") as file:
        for dataset in file["tensors"].values():
            name = dataset.attrs["tensor"]
            name = name if isinstance(name, str) else bytes(name).decode()
            shape, start = [tuple(int(x) for x in dataset.attrs[k]) for k in ("shape", "start")]
            whole = tensors.setdefault(name, numpy.zeros(shape, dataset.dtype))
            count = filled.setdefault(name, numpy.zeros(shape, int))
            box = tuple(slice(s, s + n) for s, n in zip(start, dataset.shape))
            whole[box] = dataset[...]
            count[box] += 1
            datasets += 1
listed = json.loads(subprocess.check_output([lockstep, "ckpt", "ls", checkpoint, "--json"]))
assert sorted(t["name"] for t in listed["tensors"]) == sorted(tensors)
for name, values in tensors.items():
    assert (filled[name] == 1).all(), name
    shown = json.loads(subprocess.check_output([lockstep, "ckpt", "show", checkpoint, name, "--json"]))
    assert tuple(shown["shape"]) == values.shape, name
    assert (numpy.array(shown["values"], values.dtype) == values).all(), name
print(f"h5py: {datasets} datasets of {len(tensors)} tensors equal ckpt show")
