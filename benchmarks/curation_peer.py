"""datatrove's rules and signatures on given texts, for the benchmarks to compare with: runs in datatrove's own environment.

    /path/to/its/python benchmarks/curation_peer.py rules|minhash TEXTS.jsonl OUT.json

TEXTS holds rows of {"text", "language"}; OUT has for each its verdict, tokens and CPU seconds by step. No import of ours.
"""

import json
import sys
import time

import numpy as np

_ENDS = tuple(".!?\u203c\u2047\u2048\u2049\u3002\uff01\uff1f\uff0e\uff61\u2026;\uff1b\u300d\u300f\u201d\u2019'\"")


def _rules(language: str) -> dict:
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    if language == "en":
        filters = (GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter())
        return dict(zip(("repetition", "quality", "fineweb"), filters))
    stop = "的 年 在 月 是 和 日 了 於 · 為 有 被 人 中 为 他 與 後 也 而 由".split()
    top, duplicate = (
        ((2, 0.256), (3, 0.201), (4, 0.171)),
        tuple(zip(range(5, 11), (0.198, 0.182, 0.167, 0.154, 0.14, 0.127))),
    )
    return {
        "repetition": GopherRepetitionFilter(0.287, None, None, None, top, duplicate, language="zh"),
        "quality": GopherQualityFilter(40, 100_000, 1, 5, 0.1, 0.9, 0.3, 0.735, 2, stop, language="zh"),
        "fineweb": FineWebQualityFilter(None, 0.106, False, _ENDS, 999, 30, 0.1, 0.178, "zh"),
    }  # fmt: skip


def rules(rows: list[dict]) -> list[dict]:
    from datatrove.data import Document
    from datatrove.utils.text import split_into_words

    filters = {language: _rules(language) for language in {row["language"] for row in rows}}
    for language in filters:
        split_into_words("warm up " * 3, language)
    found = []
    for number, row in enumerate(rows):
        out = {"verdict": "", "seconds": {}}
        document = Document(text=row["text"], id=str(number))
        for name, one in filters[row["language"]].items():
            start = time.process_time()
            result = one.filter(document)
            out["seconds"][name] = time.process_time() - start
            if result is not True and not out["verdict"]:
                out["verdict"] = result[1]
        found.append(out | {"tokens": list(split_into_words(row["text"], row["language"]))})
    return found


def minhash(rows: list[dict]) -> list[dict]:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    steps = {
        language: MinhashDedupSignature(
            "/tmp", MinhashConfig(n_grams=5, num_buckets=128, hashes_per_bucket=16), language
        )
        for language in {row["language"] for row in rows}
    }
    found = []
    for row in [*rows[:1], *rows]:
        start = time.process_time()
        step = steps[row["language"]]
        shingles = step.get_shingles(row["text"])
        middle = time.process_time()
        if shingles.size:
            step.get_signature(shingles)
        found.append({"seconds": {"shingles": middle - start, "signature": time.process_time() - middle}})
    return found[1:]


if __name__ == "__main__":
    kind, source, target = sys.argv[1:]
    with open(source) as file:
        texts = [json.loads(line) for line in file]
    with np.errstate(all="ignore"):
        result = {"rules": rules, "minhash": minhash}[kind](texts)
    with open(target, "w") as file:
        json.dump(result, file)
