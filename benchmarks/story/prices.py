"""What the story costs at full size: chip-hours of each part for dots.llm1 and for its sibling with 1 B parameters.

    python -m benchmarks.story.prices     # writes benchmarks/results/story_prices.json; afterwards python docs/tables.py

Nothing is compiled or measured here. FLOPs are those of a part's tokens, in the run files of gin/; the speed is the MFU, with its
range, of the row of benchmarks/results/planner.json that plans that step. Generated tokens are priced by the planner's bound of
serving, which no program can pass: such figures are the least that a part can take.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path

from dots_jax.cli.gin_config import build
from dots_jax.config import ModelConfig, TrainConfig
from dots_jax.curriculum.mixture_use import Size as Tokens
from dots_jax.curriculum.mixture_use import with_estimated_tokens
from dots_jax.evaluation.ruler.prompts import BUDGETS, ITEMS, LENGTHS
from dots_jax.model.flops import flops_per_token
from dots_jax.parallel.topology import CHIPS
from dots_jax.planning.serving_bounds import plan_serving
from dots_jax.storage import write_text

RESULTS = Path(__file__).parents[1] / "results"
PLANNER, PRICES = RESULTS / "planner.json", RESULTS / "story_prices.json"
CHIP = "v5p"
ROWS = 16  # rows that are generated at a time: the default of `dots evaluate`
DRAWN = 1e6  # new tokens of the price of sampling


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the story. The gin files of each part; the files of planner.json's rows that plan their steps.

    serving: chips that hold the weights for evaluation and sampling.
    """

    name: str
    gin: dict[str, tuple[str, ...]]
    planned: dict[str, str]
    serving: int


MODELS = (
    Model(
        "1B",
        {
            "pre-training": ("gin/dots1b.gin",),
            "SFT, phase 1": ("gin/sft_phase1.gin", "gin/story/sft_1b.gin", "gin/models/dots_1b.gin"),
            "SFT, phase 2": ("gin/sft_phase2_rft.gin", "gin/story/sft_1b.gin", "gin/models/dots_1b.gin"),
        },
        {part: "gin/dots1b.gin" for part in ("pre-training", "SFT, phase 1", "SFT, phase 2")},
        4,
    ),
    Model(
        "142B",
        {
            "pre-training": ("gin/dots142b.gin", "gin/meshes/v5p_4x4x8.gin"),
            "SFT, phase 1": ("gin/sft_phase1.gin", "gin/models/dots_llm1.gin"),
            "SFT, phase 2": ("gin/sft_phase2_rft.gin", "gin/models/dots_llm1.gin"),
        },
        {
            "pre-training": "gin/meshes/v5p_4x4x8.gin",
            "SFT, phase 1": "gin/sft_phase1.gin",
            "SFT, phase 2": "gin/sft_phase1.gin",
        },
        8,
    ),
)


def training(size: Model, part: str, planner: dict) -> tuple[dict, ModelConfig]:
    """The price of a part that trains, and its model. A row that is not planned yet gives no hours."""
    config, _, _ = build(TrainConfig, size.gin[part])
    declared = {source.name: Tokens(source.tokens, exact=False) for source in config.data.sources if source.tokens}
    stages = with_estimated_tokens(config.stages, config.data, declared)
    row = row_of(size.planned[part], planner)
    flops = sum(stage.tokens * flops_per_token(config.model, stage.seq_len) for stage in stages)
    found = {
        "model": size.name, "part": part, "gin": list(size.gin[part]), "planned": size.planned[part],
        "chips": row["num_chips"], "tokens": sum(stage.tokens for stage in stages),
        "stages": {stage.name: stage.tokens for stage in stages}, "bound": False,
    }  # fmt: skip
    if "calibrated" in row:
        found["hours"] = [
            flops / (row["num_chips"] * CHIPS[CHIP].flops * share / 100) / 3600
            for share in row["calibrated"]["mfu"][::-1]
        ]
    return found, config.model


def ruler(size: Model, model: ModelConfig, planner: dict) -> dict:
    """The 13 tasks of table 3 at the lengths that the model has, all prompts as long as they may be."""
    row = row_of(size.planned["pre-training"], planner)
    lengths = [length for length in LENGTHS if length <= model.max_seq_len]
    found = {
        "model": size.name, "part": f"evaluation, table 3 to {lengths[-1] // 1024}K", "gin": list(size.gin["pre-training"]),
        "planned": size.planned["pre-training"], "chips": size.serving, "bound": True,
        "tokens": sum(ITEMS * length for _ in BUDGETS for length in lengths),
    }  # fmt: skip
    if "calibrated" not in row:
        return found
    decode = sum(ITEMS * sum(BUDGETS.values()) / _serving(size, model, length).decode for length in lengths)
    read = sum(ITEMS * len(BUDGETS) * length / _serving(size, model, length).prefill for length in lengths)
    found["hours"] = [(read / (share / 100) + decode) / 3600 for share in row["calibrated"]["mfu"][::-1]]
    return found


def sampling(size: Model, model: ModelConfig) -> dict:
    """DRAWN new tokens of answers for phase 2, at the bound, in the middle of a context of 4,096 tokens."""
    hours = DRAWN / _serving(size, model, 2048).decode / 3600
    return {
        "model": size.name, "part": "sampling for phase 2, a million new tokens", "gin": list(size.gin["pre-training"]),
        "planned": "", "chips": size.serving, "tokens": DRAWN, "hours": [hours], "bound": True,
    }  # fmt: skip


def _serving(size: Model, model: ModelConfig, context: int):
    rows = min(ROWS, plan_serving(model, CHIPS[CHIP], size.serving, ROWS, context).max_batch)
    return plan_serving(model, CHIPS[CHIP], size.serving, rows, context)


def row_of(file: str, planner: dict) -> dict:
    """The first row of that file."""
    return next(row for row in planner["rows"] if row["file"] == file)


def prices(planner: dict) -> dict:
    """All parts of both models. hours: fast end, centre, slow end, to four digits; one figure where it is a bound alone."""
    rows = []
    for size in MODELS:
        trained = [training(size, part, planner) for part in size.gin]
        model = trained[0][1]
        (first, _), *later = trained
        rows += [first, *(row for row, _ in later[:1]), sampling(size, model), *(row for row, _ in later[1:])]
        rows.append(ruler(size, model, planner))
    for row in rows:
        row["hours"] = [_digits(hours) for hours in row.get("hours", ())]
        row["chip_hours"] = [_digits(hours * row["chips"]) for hours in row["hours"]]
    return {
        "kind": planner["kind"],
        "statement": planner["statement"],
        "command": "python -m benchmarks.story.prices",
        "rows": rows,
    }


def _digits(value: float) -> float:
    return round(value, 3 - math.floor(math.log10(value)))


def main() -> int:
    found = prices(json.loads(PLANNER.read_text()))
    lines = ",\n".join("    " + json.dumps(row) for row in found["rows"])
    text = json.dumps(found | {"rows": []}, indent=2).replace('"rows": []', '"rows": [\n' + lines + "\n  ]")
    write_text(PRICES, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
