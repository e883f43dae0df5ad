"""What a run consists of: pieces, phases and their numbered units, and where each leaves its files.

    <output>/work/plan.json
                  records-0/00003.json 00003-docs-000.zst 00003-removed-000.zst 00003-rows.npy ...   piece 3, phase 0
                  score-1/00001.json 00001-verdicts.npy       what a model says of partition 1 after phase 1
                  decide-0/00001.json 00001-decisions.npy 00001-ids.*.npy       verdicts of partition 1 after phase 0
                  records-1/00001.json ...                                      partition 1, phase 1
                  write/00001.json                                              partition 1 of the output is complete

A unit is done when its JSON is there, which is written last and at once. So a run may be killed at any moment, units may run
twice and at the same time, and the output has the same bytes.
"""

import json
from pathlib import Path
from typing import NamedTuple

from dots_jax.config import CurateConfig
from dots_jax.curation import models
from dots_jax.curation.inputs import File, Piece
from dots_jax.curation.protocol import WithModel
from dots_jax.curation.steps import Phase, chosen, phases
from dots_jax.storage import write_text


class Stage(NamedTuple):
    """units: of which each may run anywhere once the stage before is complete."""

    kind: str  # of unit.KINDS
    phase: int
    units: int

    @property
    def name(self) -> str:
        return "write" if self.kind == "write" else f"{self.kind}-{self.phase}"


# After the records of a phase, by the kind of step that closes it.
STAGES = {
    "GlobalStep": ("decide",),
    "ModelStep": ("score",),
    "EmbeddingStep": ("embed", "cluster", "assign", "compare"),
}


class Run(NamedTuple):
    """Everything that a unit needs, small enough to be sent to every worker; the pieces stand in plan.json."""

    output: str
    config: CurateConfig
    only: str | None
    crawl: str
    num_pieces: int
    previous: str = ""  # the output of the crawl before; see state.py
    crawl_number: int = 0

    @property
    def work(self) -> Path:
        return Path(self.output) / "work"

    def phases(self) -> list[Phase]:
        return phases(chosen(self.config, self.only))

    def stages(self) -> list[Stage]:
        found, parts = [], self.config.partitions
        for number, phase in enumerate(self.phases()):
            found.append(Stage("records", number, parts if number else self.num_pieces))
            if phase.closing:
                kinds = STAGES.get(type(phase.closing).__name__, ())
                found += [Stage(kind, number, 1 if kind == "cluster" else parts) for kind in kinds]
        return [*found, Stage("write", 0, parts)]

    def stem(self, stage: str, unit: int) -> Path:
        return self.work / stage / f"{unit:05d}"

    def done(self, stage: str, unit: int) -> dict | None:
        """What a unit wrote about itself, or None if it is not done."""
        path = self.stem(stage, unit).with_suffix(".json")
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None

    def finish(self, stage: str, unit: int, about: dict) -> None:
        path = self.stem(stage, unit).with_suffix(".json")
        write_text(path, json.dumps(about, separators=(",", ":")))

    def unfinished(self, stage: Stage) -> list[int]:
        paths = (self.stem(stage.name, unit).with_suffix(".json") for unit in range(stage.units))
        return [unit for unit, path in enumerate(paths) if not path.exists()]


def write_pieces(work: Path, pieces: list[Piece], identity: dict) -> None:
    rows = [[list(file) for file in piece.files] for piece in pieces]
    write_text(work / "plan.json", json.dumps({"identity": identity, "pieces": rows}) + "\n")


def read_pieces(work: Path) -> list[Piece]:
    pieces = json.loads((work / "plan.json").read_text())["pieces"]
    return [Piece(tuple(File(*row) for row in rows)) for rows in pieces]


def identity_of(run: Run, pieces: list[Piece]) -> dict:
    """What the bytes of a run depend on, to refuse to go on with another one."""
    import dataclasses

    config = dataclasses.asdict(run.config)
    del config["beam"]
    inputs = [[file.name, file.size, file.modified] for piece in pieces for file in piece.files]
    steps = [step for step in chosen(run.config, run.only) if isinstance(step, WithModel)]
    found = {step.name: models.checksum(models.folder_of(step, run.config)) for step in steps}
    about = {"config": config, "models": found, "only": run.only, "crawl": run.crawl, "inputs": inputs}
    return json.loads(json.dumps(about | {"previous": run.previous, "crawl_number": run.crawl_number}))
