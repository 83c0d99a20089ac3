"""PLAIN PACKED: the shards of `prep --pack` hold the documents of those without it, each once, whole and with the same
targets, in about as few samples as best-fit decreasing over all of them takes."""
import array
import bisect
import json
import pathlib
import sys

NO_TARGET = 1 << 31


def stream(folder, split):
    """The tokens of a split, with their bits."""
    tokens = array.array("I")
    for path in sorted(pathlib.Path(folder).glob(split + "-*.tok")):
        raw = path.read_bytes()
        tokens.extend(memoryview(raw)[256:].cast("H" if raw[16] == 2 else "I"))
    return tokens


def documents(tokens, separator):
    """From where to behind which separator each lies; separators that follow none are padding."""
    at = 0
    while at < len(tokens):
        end = at
        while tokens[end] & ~NO_TARGET != separator:
            end += 1
        yield at, end + 1
        at = end + 1


def best_fit(lengths, sample):
    """How many samples best-fit decreasing fills."""
    rooms, samples = [], 0
    for n in sorted(lengths, reverse=True):
        at = bisect.bisect_left(rooms, n)
        room = rooms.pop(at) if at < len(rooms) else sample
        samples += room == sample
        bisect.insort(rooms, room - n)
    return samples


def parts(document, sample, begin):
    """Of a document longer than a sample; else it."""
    *tokens, end = document
    size = sample - 1 - len(begin)
    tokens = tokens[len(begin):]
    for at in range(0, len(tokens), size):
        part = tokens[at:at + size]
        part[0] |= NO_TARGET if at else 0
        yield [*begin, *part, end if at + size >= len(tokens) else end | NO_TARGET]


def compare(plain, packed):
    about = json.load(open(packed + "/data.json"))
    separator, sample = about["separator"], about["pack"]
    begin = [about["begin"] | NO_TARGET] if "begin" in about else []
    behind = not begin
    found = {"cut": 0}
    for split in ("train", "val"):
        old, new = stream(plain, split), stream(packed, split)
        pieces = [list(parts(old[a:b], sample, begin)) for a, b in documents(old, separator)]
        expected = [p for document in pieces for p in document]
        found["cut"] += sum(len(document) > 1 for document in pieces)
        assert len(new) % sample == behind % sample, (len(new), sample)
        assert not behind or not new or new[0] == separator | NO_TARGET
        whole, padding, padded = [], 0, False
        for a, b in documents(new[behind:], separator):
            if b - a == 1:
                assert new[behind + a] & NO_TARGET, a
                padding, padded = padding + 1, True
                continue
            assert not padded or a % sample == 0, a
            padded = False
            whole.append(list(new[behind + a:behind + b]))
            assert a // sample == (b - 1) // sample, (a, b)
        assert sorted(whole) == sorted(expected), split
        least = best_fit([len(d) for d in whole], sample)
        assert len(new) // sample <= least * 1.01 + 1, (len(new) // sample, least)
        assert about["source"]["padding"][split] == padding, (about["source"], padding)
        found[split] = padding
    assert about["source"]["cut_documents"] == found["cut"], (about["source"], found)
    print(json.dumps(found))


compare(*sys.argv[1:])
