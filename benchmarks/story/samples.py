"""Answers to the story's fixed prompts by each kept checkpoint of a run: `dots generate`, once a milestone.

python -m benchmarks.story.samples --checkpoint=story/pretrain --output=story/samples
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.story.steps import PROMPTS
from dots_jax.storage import write_text

NEW_TOKENS = 32


def kept(checkpoint: str) -> list[int]:
    """The steps of milestones and the last one."""
    from dots_jax.analysis.opened import open_checkpoint

    opened = open_checkpoint(checkpoint)
    return sorted({*opened.milestones, opened.step})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="story/pretrain", help="a training workdir")
    parser.add_argument("--output", default="story/samples", help="folder of the answers")
    options = parser.parse_args(arguments)
    from dots_jax.cli.main import main as dots

    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    write_text(prompts, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    for step in kept(options.checkpoint):
        words = [f"--checkpoint={options.checkpoint}", f"--step={step}", f"--input={prompts}", "--temperature=0"]
        words += [f"--max_new_tokens={NEW_TOKENS}", "--dtype=float32", f"--output={folder}/{step}.jsonl"]
        if status := dots(["generate", *words]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
