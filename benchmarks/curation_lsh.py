"""Whether near-duplicates meet as often as theory says, and how fast a signature is, on real texts.

    python -m benchmarks.curation_lsh --data=../shared/data/web [--pairs=2000] [--peer=/path/to/datatrove/bin/python] [--json=FILE]

Pairs: windows of real articles, with words replaced by other words of the same language until the exact Jaccard similarity of
the 5-gram shingles, computed and not assumed, is within .004 of .5, .6, .7, .8 or .9. Hits are compared with the sum of each
pair's own probability 1 - (1 - J^16)^128; sigma is that of the sum of independent trials. Speed is CPU seconds of a signature
with its normalisation, words and bands, right after datatrove's on the same texts, `--repeats` times; the ratio is of the least
times, since load only adds.
"""

import argparse
import json
import random
import statistics
import time

import numpy as np

from benchmarks.curation_data import DATA, Gold, ask_peer, gold_texts, ratio_of
from dots_jax.config import MinHashConfig
from dots_jax.curation import minhash

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
NEAR, WINDOW = 0.004, 300  # distance from the target; words of a window
SETTINGS = MinHashConfig()


def edited(
    words: list[str], vocabulary: list[str], target: float, draw: random.Random
) -> tuple[np.ndarray, np.ndarray, float]:
    """Shingles of a window and of its edited form, and their exact similarity."""
    original = minhash.shingles_of(" ".join(words))
    order, low, high = draw.sample(range(len(words)), len(words)), 0, len(words)
    replaced = [draw.choice(vocabulary) for _ in words]
    best = (original, original, 1.0)
    while high - low > 1:  # more edits, less similar
        middle = (low + high) // 2
        changed = list(words)
        for place in order[:middle]:
            changed[place] = replaced[place]
        other = minhash.shingles_of(" ".join(changed))
        found = minhash.jaccard(original, other)
        if abs(found - target) < abs(best[2] - target):
            best = (original, other, found)
        low, high = (middle, high) if found > target else (low, middle)
    return best


def hit_rates(texts: list[Gold], pairs: int) -> list[dict]:
    pools = {"en": [], "zh": []}
    for text in texts:
        if text.language in pools:
            pools[text.language].append(minhash.tokens(text.text).split())
    vocabularies = {language: sorted({word for words in pool for word in words}) for language, pool in pools.items()}
    chosen = {language: [words for words in pool if len(words) >= 150] for language, pool in pools.items()}
    result = []
    for target in TARGETS:
        hits, chance, variance, similar, number, seed = 0, 0.0, 0.0, [], 0, 0
        while number < pairs:
            draw = random.Random(f"{target} {seed}")
            language = ("en", "en", "zh")[seed % 3]
            seed += 1
            words = draw.choice(chosen[language])
            start = draw.randrange(max(len(words) - WINDOW, 0) + 1)
            words = words[start : start + draw.randint(150, WINDOW)]
            if len(words) < 100:
                continue
            a, b, found = edited(words, vocabularies[language], target, draw)
            if abs(found - target) > NEAR:
                continue
            # Signatures of another seed each time: trials with one family of functions on one text would not be independent.
            pair = np.stack([minhash.signature(each, 2048, SETTINGS.seed + number) for each in (a, b)])
            keys = minhash.band_keys(pair, SETTINGS.bands)
            hits += bool((keys[0] == keys[1]).any())
            probability = minhash.hit_probability(found)
            chance, variance = chance + probability, variance + probability * (1 - probability)
            similar.append(found)
            number += 1
        sigma = variance**0.5
        row = {"jaccard": target, "pairs": number, "mean_jaccard": statistics.mean(similar), "hit_rate": hits / number}
        row |= {"theory_of_these_pairs": chance / number, "theory_at_target": minhash.hit_probability(target)}
        result.append(row | {"sigmas": (hits - chance) / sigma if sigma > 1e-6 else 0.0})
        print(json.dumps(row | {"sigmas": round(result[-1]["sigmas"], 2)}), flush=True)
    return result


def time_ours(texts: list[Gold]) -> float:
    start = time.process_time()
    minhash.band_keys_of([text.text for text in texts], SETTINGS)
    return time.process_time() - start


def speed(peer: str, texts: list[Gold], repeats: int) -> dict:
    runs = []
    time_ours(texts)  # warm
    for _ in range(repeats):
        theirs = sum(sum(answer["seconds"].values()) for answer in ask_peer(peer, "minhash", texts)) / len(texts)
        ours = time_ours(texts) / len(texts)
        runs.append({"datatrove_ms": theirs * 1000, "ours_ms": ours * 1000, "ratio": theirs / ours})
    size = statistics.mean(len(text.text) for text in texts)
    return {"ratio": ratio_of(runs), "runs": runs, "characters": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--pairs", type=int, default=2000, help="of each similarity; 0: none")
    parser.add_argument("--peer", help="a Python in whose environment datatrove is installed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    gold = gold_texts(options.data)
    result = {}
    if options.peer:
        english = [text for text in gold["zyte"] if text.language == "en"]
        result["speed"] = speed(options.peer, english, options.repeats)
        print("speed", json.dumps(result["speed"]), flush=True)
    if options.pairs:
        result["hit_rates"] = hit_rates([text for texts in gold.values() for text in texts], options.pairs)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
