#!/usr/bin/env python3
"""Tokens of one text by lockstep, by `tokenizers` and by `tiktoken`, a thread each, in turn.

    tokenizer_peers.py BENCH_TOKENIZER TOKENIZER.json TEXT [ROUNDS]     (PyPI's tokenizers, tiktoken)

Rates are MB (1e6) per second of processor time, the fastest round. The library's are of documents
of about 4 KB, cut at ends of lines; tiktoken is left out where the file has no byte-level merges
that are in the order of their tokens. The counts of documents need not be that of the whole text."""
import json
import os
import re
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402

DOCUMENT = 4096


def documents(text):
    parts, size = [[]], 0
    for line in text.splitlines(keepends=True):
        parts[-1].append(line)
        size += len(line)
        if size >= DOCUMENT:
            parts.append([])
            size = 0
    return ["".join(part) for part in parts if part]


def tiktoken_of(parts):
    import tiktoken
    pre = parts["pre_tokenizer"]
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    if pre["type"] == "Sequence":
        pattern = pre["pretokenizers"][0]["pattern"]["Regex"]
    code = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in code]
    byte_of = {chr(c): c for c in code} | {chr(256 + i): b for i, b in enumerate(rest)}
    ranks = {}
    for token, number in sorted(parts["model"]["vocab"].items(), key=lambda item: item[1]):
        if all(c in byte_of for c in token) and not re.fullmatch(r"<\|.*\|>", token):
            ranks[bytes(byte_of[c] for c in token)] = number
    return tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def timed(encode, texts):
    begin = time.process_time()
    tokens = sum(len(encode(text)) for text in texts)
    return time.process_time() - begin, tokens


def main():
    bench, path, text_path = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    parts = json.load(open(path, encoding="utf-8"))
    raw = open(text_path, "rb").read().decode(errors="replace")
    texts, size = documents(raw), len(raw.encode())
    library = Tokenizer.from_file(path)
    peers = {"tokenizers": lambda text: library.encode(text, add_special_tokens=False).ids}
    if (parts["pre_tokenizer"] or {}).get("type") in ("ByteLevel", "Sequence"):
        peers["tiktoken"] = tiktoken_of(parts).encode_ordinary
    best = {}
    for _ in range(rounds):
        line = subprocess.run([bench, path, text_path, "1"], check=True, capture_output=True, text=True).stdout
        best["lockstep"] = max(best.get("lockstep", 0), float(re.search(r"one thread ([\d.]+)", line)[1]))
        for name, encode in peers.items():
            seconds, tokens = timed(encode, texts)
            best[name] = max(best.get(name, 0), 1e-6 * size / seconds)
            print(f"{name}: {tokens} tokens of documents", flush=True)
        print(line, end="", flush=True)
    for name, rate in best.items():
        print(f"{name:12} {rate:7.1f} MB/s" + ("" if name == "lockstep" else f"   lockstep {best['lockstep'] / rate:.1f} x"))


main()
