"""Compares expressions in a process of its own, which the verifier kills when a pair takes too long.

One JSON line [answer, gold] in, one line `true` or `false` out. math-verify's own time limits need signals of the main thread and
do not end every pair; they are off.
"""

import json
import resource
import sys

MEMORY_BYTES = 4 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import logging

    logging.disable(logging.CRITICAL)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    kinds = [LatexExtractionConfig(boxed_match_priority=-1), ExprExtractionConfig()]
    read = lambda text: parse(f"${text}$", extraction_config=kinds, parsing_timeout=None)
    out = sys.stdout
    sys.stdout = sys.stderr
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        answer, gold = json.loads(line)
        try:
            same = any(verify(read(g), read(a), timeout_seconds=None) for a, g in ((answer, gold),))
        except (RecursionError, MemoryError, OverflowError, ZeroDivisionError, ValueError, TypeError, AttributeError):
            same = None
        print(json.dumps(same), file=out, flush=True)


if __name__ == "__main__":
    main()
