#!/usr/bin/env python3
"""Generation by transformers on given weights; sample.py runs it.

    torch_sample.py DIR IDS TOKENS fp32|bf16 THREADS

DIR is what `lockstep ckpt convert --to safetensors` writes. Prints JSON: seconds and processor seconds a token between
the first new token and the last, and the tokens. Two short runs come first."""
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


class Marks:
    """What generate calls with the prompt, then with each token."""

    def __init__(self):
        self.at = []

    def put(self, _):
        self.at.append((time.monotonic(), time.process_time()))

    def end(self):
        pass


def main():
    folder, ids, count, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    model.eval()
    prompt = torch.tensor([list(map(int, ids.split(",")))])

    def run(tokens):
        marks = Marks()
        with torch.inference_mode():
            out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens,
                                 min_new_tokens=tokens, do_sample=False, streamer=marks, pad_token_id=0)
        return marks.at[1:], out[0, prompt.shape[1]:].tolist()

    for _ in range(2):
        run(4)
    at, tokens = run(int(count))
    made = len(at) - 1
    print(json.dumps({"seconds": (at[-1][0] - at[0][0]) / made, "processor_seconds": (at[-1][1] - at[0][1]) / made,
                      "tokens": tokens}))


if __name__ == "__main__":
    main()
