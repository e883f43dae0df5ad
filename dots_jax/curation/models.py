"""The models of steps 8 to 10, seen from this room, which never imports jax: the folder's settings as JSON, and the room
curation_models by name, loaded where a step has a model.

A folder is what `dots classifier` writes; see curation_models/folder.py.
"""

import functools
import importlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation.protocol import ModelStep

ROOM = "dots_jax.curation_models.handler"  # it stands on a higher floor, and this room must run without jax
FILES = ("classifier.json", "weights.npz", "tokenizer.json")
Model = Callable[[Sequence[str]], list[np.ndarray]]  # from texts to probabilities, [lines or 1, classes] each


class About(NamedTuple):
    """kind: `document` or `line`."""

    kind: str
    classes: tuple[str, ...]


def setting_of(step: ModelStep, config: CurateConfig) -> str:
    """The name of the setting that names the folder."""
    return f"{type(step.section(config)).__name__}.model"


def folder_of(step: ModelStep, config: CurateConfig) -> str:
    """Empty: the step does not run."""
    return step.section(config).model


@functools.lru_cache(maxsize=16)
def _about(folder: str, modified: float) -> About:
    settings = json.loads((Path(folder) / FILES[0]).read_text(encoding="utf-8"))
    return About(str(settings["kind"]), tuple(map(str, settings["classes"])))


def about(step: ModelStep, config: CurateConfig) -> About:
    """Raises UserError for a folder that is none of `dots classifier`, or of another kind than the step's."""
    folder, where = folder_of(step, config), f"{setting_of(step, config)} = {folder_of(step, config)!r}"
    for name in FILES:
        if not (Path(folder) / name).is_file():
            raise UserError(f"{where} has no {name}: name a folder that `dots classifier` wrote.")
    try:
        found = _about(folder, (Path(folder) / FILES[0]).stat().st_mtime)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged ({type(error).__name__} in {FILES[0]}): train the model again.") from None
    if found.kind != step.kind:
        raise UserError(f"{where} is a model of kind {found.kind}, but this step needs one of --kind={step.kind}.")
    return found


def check(step: ModelStep, config: CurateConfig) -> None:
    """Before a run: raises UserError for what cannot work, without loading jax."""
    step.check(about(step, config).classes, config)


def checksum(folder: str) -> str:
    """Of what the scores depend on: a run does not go on with another model of the same name."""
    found = []
    for name in FILES:
        crc = 0
        with open(Path(folder) / name, "rb") as file:
            while block := file.read(1 << 20):
                crc = zlib.crc32(block, crc)
        found.append(f"{crc:08x}")
    return "-".join(found)


def load(step: ModelStep, config: CurateConfig) -> Model:
    """The model, compiled at its first call and kept by this process."""
    return importlib.import_module(ROOM).load(folder_of(step, config), setting_of(step, config), step.kind)


def beam_handler(step: ModelStep, config: CurateConfig):
    """The same as a ModelHandler of Beam's RunInference."""
    room = importlib.import_module(ROOM.replace("handler", "beam_handler"))
    return room.Handler(folder_of(step, config), setting_of(step, config), step.kind)
