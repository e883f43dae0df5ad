"""Time that RULER's prompts take on one core, and how full they are.

    python benchmarks/ruler.py --tokenizer=FILE.json [--data=DIR] [--length=32768] [--items=500] [--tasks=vt,qa_1] [--output=F]

Without --data the essays, SQuAD and HotpotQA are stand-ins of the same form and about the same size, from the texts of the Python
library. Prints a line a task: CPU seconds, the least and the most full prompt, and the hash of all prompts.
"""

import argparse
import glob
import hashlib
import json
import os
import random
import re
import sys
import sysconfig
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ["RAYON_NUM_THREADS"] = "1"  # the tokenizer's threads
from dots_jax.evaluation.ruler.prompts import BUDGETS, prompts  # noqa: E402
from dots_jax.evaluation.tasks.files import Files  # noqa: E402


def stand_ins(folder: str) -> None:
    """Texts in the published forms: 700 KB of essays, 1,200 paragraphs of SQuAD, 20,000 documents of HotpotQA."""
    os.makedirs(f"{folder}/ruler")
    files = sorted(glob.glob(f"{sysconfig.get_path('stdlib')}/*.py"))
    texts = [text for path in files for text in re.findall(r'"""(.*?)"""', open(path, errors="replace").read(), re.S)]
    words, rng = [word for word in " ".join(texts).split() if len(word) <= 20], random.Random(0)

    def passage(low: int, high: int) -> str:
        size = rng.randint(low, high)
        begin = rng.randrange(len(words) - size)
        return " ".join(words[begin : begin + size])

    def write(name: str, content) -> None:
        with open(f"{folder}/ruler/{name}", "w", encoding="utf-8") as file:
            json.dump(content, file)

    ask = lambda: [
        {"question": "What is described here?", "answers": [{"text": passage(1, 3)}], "is_impossible": False}
    ]
    write("PaulGrahamEssays.json", {"text": " ".join(words)[:700_000]})
    write("squad.json", {"data": [{"paragraphs": [{"context": passage(60, 180), "qas": ask()} for _ in range(35)]}
                                  for _ in range(35)]})  # fmt: skip
    write("hotpotqa.json", [{"question": "Which came first?", "answer": passage(1, 3),
                             "context": [[f"Title {n} {i}", [passage(40, 120)]] for i in range(10)]}
                            for n in range(2000)])  # fmt: skip


class Counted:
    """A tokenizer that counts its calls."""

    def __init__(self, tokenizer):
        self._tokenizer, self.calls = tokenizer, 0

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data")
    parser.add_argument("--length", type=int, default=32_768)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--tasks", default=",".join(BUDGETS))
    parser.add_argument("--output")
    options = parser.parse_args()
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(options.tokenizer)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            stand_ins(folder)
        files = Files(options.data or folder, "ruler")
        for task in options.tasks.split(","):
            digest, began, made, fullness = hashlib.sha256(), time.process_time(), 0, []
            counted = Counted(tokenizer)
            for prompt in prompts(task, files, options.length, options.items, 0, counted.encode):
                counting = time.process_time()
                tokens = len(tokenizer.encode(prompt.text, add_special_tokens=False).ids)
                began += time.process_time() - counting  # the check is no part of making prompts
                fullness.append((tokens + BUDGETS[task]) / options.length)
                digest.update(json.dumps(prompt).encode())
                made += 1
            seconds = time.process_time() - began
            results[task] = {
                "items": made,
                "cpu_seconds": round(seconds, 1),
                "least_full": round(min(fullness), 4),
                "most_full": round(max(fullness), 4),
                "counts": counted.calls,
                "sha256": digest.hexdigest(),
            }
            print(f"{task:16} {made} prompts of {options.length:,} tokens: {seconds:6.1f} CPU s, {100 * min(fullness):.1f} to "
                  f"{100 * max(fullness):.1f} % full, {counted.calls} counts, {digest.hexdigest()[:12]}", flush=True)  # fmt: skip
    print(f"all: {sum(each['cpu_seconds'] for each in results.values()):.0f} CPU s")
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump({"length": options.length, "tasks": results}, file, indent=1)


if __name__ == "__main__":
    main()
