"""Compares expressions in a process of its own, which the verifier kills when a pair takes too long.

One JSON line [answer, gold] in, one line `true` or `false` out. math-verify's own time limits need signals of the main thread and
do not end every pair; they are off.
"""

import json
import re
import resource
import sys

MEMORY_BYTES = 4 << 30
ARITHMETIC = re.compile(r"[-+*/^().,\d\s%]+")
WARM_UP = (
    ("x^2+2x+1", "(x+1)^2"),
    (r"\sqrt{8}", r"2\sqrt{3}"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    ("[1, x)", "(1, 2)"),
    ("x>2", "x<2"),
)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import logging

    logging.disable(logging.CRITICAL)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    latex = LatexExtractionConfig(boxed_match_priority=-1)

    def read(text: str) -> list:
        # The other kind takes any number out of a text that is no LaTeX, and two texts with one number in common are not equal.
        kinds = [latex, ExprExtractionConfig()] if ARITHMETIC.fullmatch(text) else [latex]
        return parse(f"${text}$", extraction_config=kinds, parsing_timeout=None)

    for one, other in WARM_UP:  # the first of each kind loads parts of sympy, which is no pair's fault
        verify(read(one), read(other), timeout_seconds=None)
    out = sys.stdout
    sys.stdout = sys.stderr
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        answer, gold = json.loads(line)
        try:
            same = bool(verify(read(gold), read(answer), timeout_seconds=None))
        except (RecursionError, MemoryError, OverflowError, ZeroDivisionError, ValueError, TypeError, AttributeError):
            same = None
        print(json.dumps(same), file=out, flush=True)


if __name__ == "__main__":
    main()
