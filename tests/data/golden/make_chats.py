#!/usr/bin/env python3
"""Tokens of chats by `transformers` (5.24), with the templates of ChatML and of Llama-3.

    python3 make_chats.py          (PyPI's transformers and jinja2; not part of a test run)

Writes llama3_chat.json, llama3.json with the tokens of chats, and chats.json beside this file:
[{"chat": FORMAT, "tokenizer": NAME, "messages": [...], "tokens": [...], "mask": [...]}, ...], the mask 1 of what the
assistant says and the token behind it. Such a message does not begin with a line break, which its template's text would
join with the one before it, and which a model that has that one before it writes apart."""
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
          "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
          "{% endfor %}")
LLAMA3 = ("{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
          "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
          "{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}")
TEXTS = ["Hello", "don't", " ", "  two", "\n", "\r\n", "12345", "e\u0301", "r\u00e9sum\u00e9", "\u1100\u1161\u11a8", "中文", "😀", "x = {1: 2}",
         "<|im_end|>", "<|eot_id|>", "<think>", "\u3000", "\x1c", "the quick brown fox", "...", "\t"]


def chats(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        roles = ["system"] * draw.randrange(2) + ["user", "assistant"] * draw.randrange(1, 4) + ["user"] * (draw.random() < 0.1)
        messages = [{"role": role, "content": "".join(draw.choice(TEXTS) for _ in range(draw.randrange(0, 7)))} for role in roles]
        for message in messages:
            if message["role"] == "assistant":
                message["content"] = message["content"].lstrip()
        yield messages


def cases(files, count, seed):
    for chat, name, template in (("chatml", "qwen2", CHATML), ("llama3", "llama3_chat", LLAMA3)):
        made = PreTrainedTokenizerFast(tokenizer_file=str(files[name]), bos_token="<|begin_of_text|>" if chat == "llama3" else None)
        for messages in chats(count, seed):
            out = made.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=True,
                                           return_assistant_tokens_mask=True)
            yield {"chat": chat, "tokenizer": name, "messages": messages, "tokens": out["input_ids"], "mask": out["assistant_masks"]}


def main():
    made = Tokenizer.from_file(str(HERE / "llama3.json"))
    made.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    (HERE / "llama3_chat.json").write_text(json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
    lines = [json.dumps(case, separators=(",", ":")) for case in
             cases({name: HERE / f"{name}.json" for name in ("qwen2", "llama3_chat")}, 25, 1)]
    (HERE / "chats.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    sys.exit(main())
