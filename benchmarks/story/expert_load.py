"""Which experts code, prose and sums use, in the last checkpoint of the story: load.json, and load.png as figure 5.

python -m benchmarks.story.expert_load --folder=story
"""

import argparse
import inspect
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.story.arithmetic import document
from dots_jax.storage import atomic_write, write_text

CHARACTERS = 6000  # of a domain
UNSEEN = 1  # a seed of sums that no training data have


def domains() -> dict[str, str]:
    prose = " ".join(inspect.cleandoc(one.__doc__) for one in (argparse, inspect, subprocess, statistics))
    sums = "\n".join(document(UNSEEN, index) for index in range(60))
    return {
        "code": inspect.getsource(argparse)[-CHARACTERS:],
        "prose": prose[:CHARACTERS],
        "arithmetic": sums[:CHARACTERS],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="story", help="the folder of the story")
    options = parser.parse_args(arguments)
    from dots_jax.analysis.expert_load import score_domains, specialisation
    from dots_jax.analysis.figures import load_map
    from dots_jax.analysis.opened import open_checkpoint
    from dots_jax.analysis.text_ids import TextIds

    folder = Path(options.folder)
    words = TextIds(str(folder / "tokenizer.json"))
    model = open_checkpoint(str(folder / "pretrain")).restore()
    scores = score_domains(model, {name: words.encode(text) for name, text in domains().items()})
    with atomic_write(folder / "load.png", "wb") as file:
        load_map(scores).savefig(file, dpi=130, format="png")
    found = {name: {"loss": score.loss, "tokens": score.tokens} for name, score in scores.items()}
    result = {"domains": found, "specialisation": [float(value) for value in specialisation(scores)]}
    write_text(folder / "load.json", json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
