"""The report of dots.llm1 in small: web pages, a corpus, a tokenizer, pre-training, weights out, and story/report.html.

    python -m benchmarks.story [--output=story] [--short]

Stopped, it goes on with the step at which it was. --short: a few pages and training steps, for a test.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.story.driver import run
from benchmarks.story.page import write_page
from benchmarks.story.steps import FOLDER, steps
from dots_jax.config import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=FOLDER, help="the folder of everything")
    parser.add_argument("--short", action="store_true", help="a few pages and training steps")
    options = parser.parse_args(arguments)
    folder, chosen = Path(options.output), steps(options.short)
    try:
        run(chosen, folder)
        write_page(folder, chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: start the story again, and it goes on here", file=sys.stderr)
        return 130
    print(f"Look at {folder}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
