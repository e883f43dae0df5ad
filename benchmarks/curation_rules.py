"""The rules of curation: which gold texts they keep, which bad texts they drop, how fast, and whether datatrove agrees.

    python -m benchmarks.curation_rules --data=../shared/data/web --peer=/path/to/datatrove/bin/python [--json=FILE]

Speed is CPU seconds on the same English texts, datatrove's Gopher and FineWeb filters right before ours, `--repeats` times;
the ratio is of the least times, since load only adds. Agreement is of keep and drop, with datatrove's own tokens in both.
"""

import argparse
import json
import statistics
import time
from collections import Counter

from benchmarks.curation_data import DATA, Gold, ask_peer, bad_texts, gold_texts, ratio_of
from dots_jax.config import ChineseRules, EnglishRules, RulesConfig
from dots_jax.curation.rules.judge import first_failure
from dots_jax.curation.rules.measure import measure
from dots_jax.curation.rules.step import rule, thresholds

_CONFIG = RulesConfig()


def kept(texts: list[Gold]) -> tuple[int, Counter]:
    """How many stay, and the reasons of the others. A language without thresholds is not judged."""
    reasons = Counter()
    for text in texts:
        limits = thresholds(text.language, _CONFIG)
        failure = rule(text.text, limits).failure if limits else None
        reasons[failure.reason if failure else ""] += 1
    return reasons.pop("", 0), reasons


def time_ours(texts: list[Gold]) -> float:
    """CPU seconds for all rules, lines of clutter among them, tokens and all."""
    limits = EnglishRules()
    start = time.process_time()
    for text in texts:
        rule(text.text, limits)
    return time.process_time() - start


def agreement(texts: list[Gold], answers: list[dict]) -> dict:
    """Keep or drop by the shared rules, with the peer's tokens."""
    shared = {"en": EnglishRules(), "zh": ChineseRules(min_characters=None, min_han=None, min_mean_line_length=None)}
    same, differ = 0, []
    for text, answer in zip(texts, answers):
        limits = shared[text.language]
        failure = first_failure(measure(text.text, limits, answer["tokens"]), limits)
        if bool(failure) == bool(answer["verdict"]):
            same += 1
        else:
            differ.append([text.id, failure.reason if failure else "", answer["verdict"]])
    return {"texts": len(texts), "same": same, "share": same / len(texts), "different": differ[:20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--peer", help="a Python in whose environment datatrove is installed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()

    gold = gold_texts(options.data)
    bad = bad_texts(options.data, gold)
    result = {"kept": {}, "dropped": {}}
    groups = {
        "English gold texts": [text for text in gold["zyte"] if text.language == "en"],
        "all 181 of zyte": gold["zyte"],
        "Chinese gold texts": [text for text in gold["zh_articles"] if text.language == "zh"],
        "all 57 of zh_articles": gold["zh_articles"],
    }
    for name, texts in groups.items():
        number, reasons = kept(texts)
        result["kept"][name] = {
            "texts": len(texts),
            "kept": number,
            "share": number / len(texts),
            "reasons": dict(reasons),
        }
    for name, texts in bad.items():
        for language in ("en", "zh"):
            some = [text for text in texts if text.language == language]
            number, reasons = kept(some)
            row = {"texts": len(some), "dropped": len(some) - number, "share": 1 - number / len(some)}
            result["dropped"][f"{name} {language}"] = row | {"reasons": dict(reasons.most_common(5))}
    if options.peer:
        result |= compare(options, gold, bad)
    for part in ("kept", "dropped"):
        for name, row in result[part].items():
            print(f"{part:<8}{name:<28}{row[part]:>5} of {row['texts']:>4}  {row['share']:.1%}")
    for name in ("agreement", "speed"):
        if name in result:
            print(name, json.dumps({key: value for key, value in result[name].items() if key != "different"}))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1, ensure_ascii=False)


def compare(options: argparse.Namespace, gold: dict, bad: dict) -> dict:
    english = [text for text in gold["zyte"] if text.language == "en"]
    chinese = [text for text in gold["zh_articles"] if text.language == "zh"]
    mixed = [*english, *chinese, *(text for texts in bad.values() for text in texts)]
    agree = agreement(mixed, ask_peer(options.peer, "rules", mixed))
    runs = []
    time_ours(english)  # warm
    for _ in range(options.repeats):
        theirs = ask_peer(options.peer, "rules", english)
        theirs = sum(sum(answer["seconds"].values()) for answer in theirs) / len(english)
        ours = time_ours(english) / len(english)
        runs.append({"datatrove_ms": theirs * 1000, "ours_ms": ours * 1000, "ratio": theirs / ours})
    ratio = ratio_of(runs)
    size = statistics.mean(len(text.text) for text in english)
    return {"agreement": agree, "speed": {"ratio": ratio, "runs": runs, "characters": size}}


if __name__ == "__main__":
    main()
