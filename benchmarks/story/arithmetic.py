"""The arithmetic of the story: documents of sums, differences and products, each a function of (seed, index).

python -m benchmarks.story.arithmetic --output=story/arithmetic.jsonl
"""

import argparse
import json
import random
import sys

from dots_jax.storage import write_text

LINES = 12  # of a document


def document(seed: int, index: int) -> str:
    draw = random.Random(f"{seed} {index}")
    lines = []
    for _ in range(LINES):
        sign = draw.choice("+-*")
        most = 12 if sign == "*" else 99
        left, right = draw.randint(0, most), draw.randint(0, most)
        result = {"+": left + right, "-": left - right, "*": left * right}[sign]
        lines.append(f"{left} {sign} {right} = {result}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="story/arithmetic.jsonl", help="the .jsonl to write")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rows = (json.dumps({"text": document(options.seed, index)}) for index in range(options.documents))
    write_text(options.output, "\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
