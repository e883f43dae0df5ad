"""The report of dots.llm1 in small: web pages, a corpus, a tokenizer, pre-training, weights out, and story/report.html.

    python -m benchmarks.story [--output=story] [--seeds=3] [--short]

Stopped or killed, it goes on with the step at which it was. --seeds=3 pre-trains with two more seeds at the end, and the page shows
the range of held-out losses; all else is of seed 0, apart from post-training, which has three seeds of its own.
--short: a few pages and training steps, for a test.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.story.driver import run
from benchmarks.story.page import write_page
from benchmarks.story.steps import FOLDER, steps
from dots_jax.config import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=FOLDER, help="the folder of everything")
    parser.add_argument("--seeds", type=int, default=1, help="of pre-training; default: 1")
    parser.add_argument("--short", action="store_true", help="a few pages and training steps")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds is a number from 1, but is {options.seeds}.")
    folder, chosen = Path(options.output), steps(options.short, options.seeds)
    try:
        with _stoppable():
            run(chosen, folder)
            write_page(folder, chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except _Stopped as stopped:
        print("stopped: start the story again, and it goes on here", file=sys.stderr)
        return 128 + stopped.signal
    print(f"Look at {folder}/report.html")
    return 0


class _Stopped(BaseException):
    """A signal asked for the end; as KeyboardInterrupt, no error that a step may catch."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    def stop(number: int, _) -> None:
        raise _Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
