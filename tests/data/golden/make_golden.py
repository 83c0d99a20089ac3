#!/usr/bin/env python3
"""Tokens by the library `tokenizers` (0.23.3), for small tokenizers of each kind that it trained.

    python3 make_golden.py [NAME...]          (PyPI's tokenizers; not part of a test run)

Writes, of all names or those given, NAME.json, a tokenizer.json, and NAME.tokens.json beside this file:
[{"text": T, "repeat": N, "tokens": [...]}, ...], the tokens of T written N times, without special
tokens added; of more than MOST tokens "sha256" of them as little-endian uint32, and "count"."""
import hashlib
import itertools
import json
import pathlib
import random
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import trainers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
MOST = 200
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
WORLD = ("Ærøskøbing naïve café Ελληνικά русский текст 中文字符 日本語テスト 한국어 عربى עברית 😀😀🎉 हिन्दी "
         "don't I'll we've 12345 1,000,000\n")


def corpus():
    for name in ("README.md", "runtime/base/file.c", "runtime/data/data.h", "runtime/data/prep.h",
                 "runtime/base/rng.h", "launch/setup.sh"):
        yield (ROOT / name).read_text()
    for _ in range(20):
        yield WORLD


def texts():
    yield from ((text, 1) for text in (
        "", " ", "  ", "\n", "\r\n", "a", "Hello, world!", " Hello  world \n", "don't I'LL we'Ve 'S 's' ''t",
        "1 12 123 1234 12345678 ٣٤٥ ½² Ⅷ①", "a\tb\t\tc \t d", "x\n\n\ny \n \n z\r\n\r\n", " \u00a0\u2003\u3000x\u180e\u0085y\u2028",
        WORLD, "e\u0301 n\u0303 \u0300x हिन्दी ไทย", "👨‍👩‍👧‍👦🏳️‍🌈 😀", "foo_bar(__init__) -> {x[0]:.2f};  // -----\n\t\treturn",
        "CamelCaseHTTPServer ALLCAPS ǅungla ªº ʰ", "\x00\x01\x7f \ufeff\u200b\uffff\U0010ffff", "ſ 'ſ K \u212a",
        "▁ ▁▁ a▁b", "<0x0A><s></s><unk>", "<|endoftext|>", "<|endoftext|><|endoftext|>a<|endoftext|> b <|endoftext|",
        "  <|tool|>  x<|tool_call|>y <|tool| z", "Hello Hellos sHello Hello", "a mask b  [X]  c[X]", "two words twowords  two words",
        "maskmask mask", "日本語 mask中文", "\n\n\n[X]\n\n\n"))
    for text, repeat in (("a", 100000), (" ", 5000), ("\n", 3000), ("ab", 3000), ("=", 777), ("中", 1000), ("😀", 300),
                         ("e\u0301", 500), (" \n", 1000), ("the quick ", 2000), ("1", 1000), ("<|endoftext|>", 500)):
        yield text, repeat
        yield "x" + text * 40 + "y", 1
    words = "the quick brown Fox's 1234 ... \n\t  don't über 中文 😀 <|tool|> mask [X] Hello ( ) { } == \r\n ' \u00a0".split(" ")
    state = 1
    for length in (5, 20, 60, 120):
        for _ in range(6):
            parts = []
            for _ in range(length):
                state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
                parts.append(words[(state >> 33) % len(words)] + ("", " ", "  ", "")[state >> 61 & 3])
            yield "".join(parts), 1


def texts_to_normalize():
    """Marks, Hangul and compatibility characters of Unicode 9 and older, whose form C the library knows."""
    yield from ((text, 1) for text in (
        "e\u0301", "\u0301", "e\u0301<|im_end|>\u0301e", "<|im_start|>\u0301", "a\u0327\u0301\u0323 q\u0307\u0323",
        "\u1100\u1161\u11a8 \uac00\u11a8 \u1100\u1161\u1161", "\u212b\u2126\u212a \u0958 \ufb2c \U0001d160 \u0344 \u0340",
        "ﬁ ① Å Å \uf900 \U0002f800", "\u0915\u093c \u09c7\u09be \u0b47\u0b56", "re\u0301sume\u0301 r\u00e9sum\u00e9", "don't 'l\u0323l",
        "\u05e9\u05bc\u05c1 \u0e01\u0e38\u0e48 \u304b\u3099", "1\u0308 12\u0323 \u00bd", "mask\u0301 e\u0301tude mask"))
    for text, repeat in (("\u0301\u0323", 2000), ("e\u0301", 5000), ("\u1100\u1161\u11a8", 700), ("\u1f82\u0313", 600)):
        yield text, repeat
    draw = random.Random(5)
    kinds = [range(0x300, 0x36f), range(0x1100, 0x1200), range(0xac00, 0xd7a4), range(0xf900, 0xfa0e), range(0x1e00, 0x1f00),
             range(0x915, 0x950), range(0x5b0, 0x5bd), range(0x3041, 0x30ff), range(0xc0, 0x250), range(0x2f800, 0x2fa1e)]
    words = ["\r\n", " ", "  ", "12345", "the", "Hello's", "e", "o", "<|im_start|>", "<|im_end|>", "<|im", "\n\n", "...", "中文"]
    for _ in range(60):
        yield "".join(draw.choice(words) if draw.random() < 0.3 else
                      "".join(chr(draw.choice(draw.choice(kinds[:1] * 5 + kinds))) for _ in range(draw.randrange(1, 6)))
                      for _ in range(draw.randrange(1, 16))), 1


def byte_level(pre_tokenizer, ignore_merges=False, vocab=700, normalizer=None):
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    made.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=sorted(pre.ByteLevel.alphabet()), special_tokens=["<|endoftext|>"],
        show_progress=False))
    return made


def split(pattern, behavior="isolated", invert=False):
    return pre.Sequence([pre.Split(Regex(pattern), behavior, invert),
                         pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_fallback(normalizer, pre_tokenizer):
    """Learned from words, as SentencePiece does, and used on whole texts."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre.Metaspace(prepend_scheme="always", split=True)
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    made.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=90))
    parts = json.loads(made.to_str())
    parts["added_tokens"] = parts["added_tokens"][:3]
    parts["normalizer"] = normalizer and json.loads(normalizer.__getstate__())
    parts["pre_tokenizer"] = pre_tokenizer
    return Tokenizer.from_str(json.dumps(parts))


def characters(fuse):
    made = Tokenizer(models.BPE(unk_token="[U]", fuse_unk=fuse))
    made.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=400, special_tokens=["[U]"], show_progress=False, limit_alphabet=60, max_token_length=12))
    return made


def with_added(made):
    made = Tokenizer.from_str(made.to_str())
    made.add_special_tokens([AddedToken("<|tool|>", special=True, normalized=False),
                             AddedToken("<|tool_call|>", special=True, normalized=False, lstrip=True),
                             AddedToken("<|tool", special=True, normalized=False, rstrip=True)])
    made.add_tokens([AddedToken("Hello", single_word=True, normalized=False), AddedToken("  ", normalized=False),
                     AddedToken("[X]", lstrip=True, rstrip=True, normalized=False),
                     AddedToken("mask", normalized=True, single_word=True), AddedToken("two words", normalized=True)])
    return made


def qwen2():
    """With the added tokens of Qwen2 and Qwen3."""
    made = byte_level(split(QWEN2), vocab=600, normalizer=normalizers.NFC())
    made.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|vision_start|>"])
    made.add_tokens([AddedToken(text, normalized=False) for text in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    return made


def neox():
    """Added tokens that are looked for in normalized text, as in GPT-NeoX's, which has runs of spaces, too."""
    made = byte_level(pre.ByteLevel(add_prefix_space=False), vocab=400,
                      normalizer=normalizers.Sequence([normalizers.NFC()]))
    made.add_tokens([AddedToken(text, normalized=True) for text in ("   ", "  ", "e\u0301tude", "mask")])
    return made


def metaspace(scheme, is_split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": is_split}


def tokenizers():
    gpt2 = byte_level(pre.ByteLevel(add_prefix_space=False))
    llama3 = byte_level(split(LLAMA3), ignore_merges=True)
    llama2 = byte_fallback(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None)
    first = byte_fallback(None, metaspace("first", False))
    yield "gpt2", gpt2
    yield "gpt2_added", with_added(byte_level(pre.ByteLevel(add_prefix_space=True), vocab=400))
    yield "llama3", llama3
    yield "llama3_added", with_added(llama3)
    yield "o200k", byte_level(split(O200K), vocab=500)
    yield "removed", byte_level(split(LLAMA3, "removed", True), vocab=400)
    yield "starcoder", byte_level(pre.Sequence([pre.Digits(individual_digits=True),
                                                pre.ByteLevel(add_prefix_space=False, use_regex=True)]), vocab=400)
    yield "llama2", llama2
    yield "llama2_added", with_added(llama2)
    yield "metaspace_first", with_added(first)
    yield "metaspace_always", byte_fallback(None, metaspace("always", True))
    yield "metaspace_never", byte_fallback(None, metaspace("never", False))
    yield "characters", characters(False)
    yield "characters_fused", characters(True)
    yield "qwen2", qwen2()
    yield "neox", neox()


def main():
    for name, made in tokenizers():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        parts = json.loads(made.to_str())
        if name in ("gpt2", "llama2"):  # as releases before 0.20 wrote it
            parts["model"]["merges"] = [" ".join(pair) for pair in parts["model"]["merges"]]
        (HERE / f"{name}.json").write_text(json.dumps(parts, ensure_ascii=False, separators=(",", ":")) + "\n")
        made = Tokenizer.from_file(str(HERE / f"{name}.json"))
        lines = []
        for text, repeat in itertools.chain(texts(), texts_to_normalize() if made.normalizer and not made.model.byte_fallback else ()):
            tokens = made.encode(text * repeat, add_special_tokens=False).ids
            case = {"text": text, "repeat": repeat}
            if len(tokens) > MOST:
                case["count"] = len(tokens)
                case["sha256"] = hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).hexdigest()
            else:
                case["tokens"] = tokens
            lines.append(json.dumps(case, ensure_ascii=True, separators=(",", ":")))
        (HERE / f"{name}.tokens.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


main()
