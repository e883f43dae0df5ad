"""Whether the exported weights answer as the run does: by our own reader, or by transformers.

    python -m benchmarks.story.reread --folder=story [--transformers]

It writes reread.json or transformers.json: prompts, and those whose greedy tokens are equal; parameters and bytes of the export.
"""

import argparse
import json
import math
import struct
import sys
from pathlib import Path

from benchmarks.story.samples import NEW_TOKENS, kept
from dots_jax.storage import write_text


def counted(export: Path) -> dict[str, int]:
    """Parameters and bytes, from the heads of the safetensors files."""
    parameters = size = 0
    for path in export.glob("*.safetensors"):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            arrays = json.loads(file.read(length))
        parameters += sum(math.prod(one["shape"]) for name, one in arrays.items() if name != "__metadata__")
        size += path.stat().st_size
    return {"parameters": parameters, "bytes": size}


def by_transformers(export: Path, rows: list[dict], words) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, local_files_only=True)
    found = []
    for row in rows:
        ids = words.encode(row["prompt"])
        made = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False)
        found.append(made[0, len(ids) :].tolist())
    return found


def by_ours(folder: Path, rows: list[dict]) -> list[list[int]]:
    from dots_jax.cli.main import main as dots

    answers = folder / "reread.jsonl"
    words = [f"--checkpoint={folder}/imported", f"--input={folder}/samples/prompts.jsonl", f"--output={answers}"]
    if status := dots(["generate", *words, "--temperature=0", f"--max_new_tokens={NEW_TOKENS}", "--dtype=float32"]):
        sys.exit(status)
    found = read_rows(answers)
    assert len(found) == len(rows)
    return [row["new_tokens"] for row in found]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="story", help="the folder of the story")
    parser.add_argument("--transformers", action="store_true", help="read the export with transformers")
    options = parser.parse_args(arguments)
    from dots_jax.analysis.text_ids import TextIds

    folder = Path(options.folder)
    export, rows = folder / "export", read_rows(folder / "samples" / f"{kept(str(folder / 'pretrain'))[-1]}.jsonl")
    words = TextIds(str(folder / "tokenizer.json"))
    answers = by_transformers(export, rows, words) if options.transformers else by_ours(folder, rows)
    equal = sum(answer == row["new_tokens"] for answer, row in zip(answers, rows, strict=True))
    result = {"prompts": len(rows), "equal": equal} | counted(export)
    name = "transformers.json" if options.transformers else "reread.json"
    write_text(folder / name, json.dumps(result) + "\n")
    print(f"{equal} of {len(rows)} prompts have equal tokens; {result['parameters']:,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
