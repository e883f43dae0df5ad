"""The models of steps 8 to 12, seen from this room, which never imports jax: the folder's settings as JSON, and the room
curation_models by name, loaded where a step has a model.

A folder is what `dots classifier` writes; see curation_models/folder.py.
"""

import functools
import importlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation.protocol import ModelStep, WithModel

ROOM = "dots_jax.curation_models.handler"  # it stands on a higher floor, and this room must run without jax
FILES = ("classifier.json", "weights.npz", "tokenizer.json")
EMBEDDER_FILES = (("config.json",), ("tokenizer.json",), ("model.safetensors", "pytorch_model.bin"))
# From texts to probabilities, [lines or 1, classes] each, or to vectors, [texts, size].
Model = Callable[[Sequence[str]], Any]


class About(NamedTuple):
    """kind: `document` or `line`."""

    kind: str
    classes: tuple[str, ...]


def setting_of(step: WithModel, config: CurateConfig) -> str:
    """The name of the setting that names the folder."""
    return f"{type(step.section(config)).__name__}.model"


def folder_of(step: WithModel, config: CurateConfig) -> str:
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


def check(step: WithModel, config: CurateConfig) -> None:
    """Before a run: raises UserError for what cannot work, without loading jax."""
    if isinstance(step, ModelStep):
        step.check(about(step, config).classes, config)
        return
    folder = Path(folder_of(step, config))
    for names in EMBEDDER_FILES:
        if not any((folder / name).is_file() for name in names):
            where = f"{setting_of(step, config)} = {str(folder)!r}"
            raise UserError(f"{where} has no {' or '.join(names)}: name the folder of BGE-M3 as it is published.")


def checksum(folder: str) -> str:
    """Of what the model computes: a run does not go on with another model of the same name."""
    found = []
    for name in sorted({*FILES, *(name for names in EMBEDDER_FILES for name in names)}):
        if (Path(folder) / name).is_file():
            crc = 0
            with open(Path(folder) / name, "rb") as file:
                while block := file.read(1 << 20):
                    crc = zlib.crc32(block, crc)
            found.append(f"{crc:08x}")
    return "-".join(found)


def loader(step: WithModel, config: CurateConfig) -> Callable[[], Model]:
    """What gives the model, on this machine or another."""
    room = importlib.import_module(ROOM)
    if isinstance(step, ModelStep):
        return functools.partial(room.load, folder_of(step, config), setting_of(step, config), step.kind)
    return functools.partial(room.load_embedder, folder_of(step, config), config.semantic.length)


def load(step: WithModel, config: CurateConfig) -> Model:
    """The model, compiled at its first call and kept by this process."""
    return loader(step, config)()


def beam_handler(step: WithModel, config: CurateConfig):
    """The same as a ModelHandler of Beam's RunInference."""
    return importlib.import_module(ROOM.replace("handler", "beam_handler")).Handler(loader(step, config))
