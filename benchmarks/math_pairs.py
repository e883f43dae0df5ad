"""A thousand pairs of solution and reference answer through the verifier of mathematics, start of its processes included.

    python -m benchmarks.math_pairs [--pairs=1000] [--json=FILE]

The pairs are made from a seed: integers, decimals, fractions, roots, powers, intervals, matrices, letters, Chinese sentences;
half of them equal in another form, half of them wrong. The verdict of each is known, and a wrong one ends the benchmark.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path


def make_pairs(number: int) -> list[tuple[str, str, str]]:
    """(solution, reference answer, verdict), `number` of them; a function of the number alone."""
    forms = (_integer, _decimal, _fraction, _percent, _root, _power, _interval, _matrix, _chinese, _polynomial)
    return [forms[n % len(forms)](random.Random(n)) for n in range(number)]


def _pair(answer: str, gold: str, same: bool, form: str = "So the answer is $\\boxed{{{}}}$.") -> tuple[str, str, str]:
    return form.format(answer), gold, "correct" if same else "wrong"


def _two(draw: random.Random) -> tuple[int, int, bool]:
    """A number, the one to compare it with, and whether they are equal."""
    one, same = draw.randrange(1000, 99999), draw.random() < 0.5
    return one, one if same else one + draw.randrange(1, 9), same


def _integer(draw):
    one, other, same = _two(draw)
    return _pair(f"{one:,}", str(other), same, "It sums to that.\n#### {}")


def _decimal(draw):
    one, other, same = _two(draw)
    return _pair(f"{one / 8}", f"\\frac{{{other}}}{{8}}", same)


def _fraction(draw):
    one, other, same = _two(draw)
    return _pair(f"\\dfrac{{{3 * one}}}{{21}}", f"\\frac{{{other}}}{{7}}", same)


def _percent(draw):
    one, other, same = _two(draw)
    return _pair(f"{one}\\%", f"{other}\\%", same)


def _root(draw):
    one, other, same = _two(draw)
    return _pair(f"2\\sqrt{{{one}}}", f"\\sqrt{{{4 * other}}}", same)


def _power(draw):
    one, other, same = _two(draw)
    return _pair(f"{one}^2", str(other * other), same)


def _interval(draw):
    one, other, same = _two(draw)
    return _pair(f"({-one}, {one}]", f"({-other}, {other}]", same)


def _matrix(draw):
    one, other, same = _two(draw)
    begin, end = "\\begin{pmatrix}", "\\end{pmatrix}"
    return _pair(f"{begin} 1 & {one} \\\\ 0 & 2 {end}", f"{begin} 1 & {other} \\\\ 0 & 2 {end}", same)


def _chinese(draw):
    one, other, same = _two(draw)
    return _pair(str(one), str(other), same, "计算可得，所以答案是{}。")


def _polynomial(draw):
    one, other, same = _two(draw)
    return _pair(f"(x+{one})(x-1)", f"x^2+{other - 1}x-{other}", same)


def main() -> int:
    from dots_jax.evaluation.scoring.math_verifier import MathVerifier
    from dots_jax.storage import write_text

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pairs = make_pairs(arguments.pairs)
    began = time.perf_counter()
    with MathVerifier() as verifier:
        found = [one.verdict for one in verifier.verify([pair[:2] for pair in pairs])]
    seconds = time.perf_counter() - began
    wrong = [(pair, verdict) for pair, verdict in zip(pairs, found) if pair[2] != verdict]
    for pair, verdict in wrong[:10]:
        print(f"expected {pair[2]}, found {verdict}: {pair[0]!r} against {pair[1]!r}", file=sys.stderr)
    print(f"{len(pairs)} pairs in {seconds:.1f} s, {len(wrong)} verdicts not as they must be")
    if arguments.json:
        write_text(
            str(arguments.json),
            json.dumps({"pairs": len(pairs), "seconds": round(seconds, 2), "other_verdicts": len(wrong)}) + "\n",
        )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
