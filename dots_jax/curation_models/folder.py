"""A trained model on the disk: `classifier.json`, `weights.npz`, `tokenizer.json`, and what report.py says of it.

The folder appears at once, when everything is in it. Equal models have equal bytes.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tokenizers

from dots_jax.config import ModelConfig, UserError, model_from_dict, to_dict
from dots_jax.curation_models.encoder import Encoder
from dots_jax.curation_models.examples import load_tokenizer
from dots_jax.curation_models.labels import KINDS

FORMAT = 1
SETTINGS, WEIGHTS, TOKENIZER, REPORT, PICTURE = (
    "classifier.json", "weights.npz", "tokenizer.json", "report.json", "report.png",
)  # fmt: skip


class Classifier(NamedTuple):
    """kind: `document` or `line`. classes: the labels, in the order of the head. length: tokens of an example."""

    kind: str
    classes: tuple[str, ...]
    length: int
    model: ModelConfig
    tokenizer: tokenizers.Tokenizer
    params: dict
    bias_LE: jax.Array

    def encoder(self) -> Encoder:
        return Encoder(self.model, len(self.classes))


def check_new(output: str) -> None:
    """Raises UserError for a path that holds something."""
    if os.path.isdir(output) and not os.listdir(output):
        return
    if os.path.lexists(output):
        raise UserError(f"--output={output} is there already: give a new folder, or remove it.")


def save(output: str, classifier: Classifier, report: dict, draw) -> None:
    """draw(path): makes the picture."""
    target = Path(os.path.abspath(output))
    scratch = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        settings = {
            "format": FORMAT, "kind": classifier.kind, "classes": classifier.classes, "length": classifier.length,
            "model": to_dict(classifier.model),
        }  # fmt: skip
        (scratch / SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        np.savez(scratch / WEIGHTS, **_named(classifier.params), bias_LE=np.asarray(classifier.bias_LE))
        (scratch / TOKENIZER).write_text(classifier.tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        (scratch / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draw(str(scratch / PICTURE))
        os.replace(scratch, target)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}): choose another folder.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(path: str, setting: str, kind: str | None = None) -> Classifier:
    """setting: what names the folder, for messages. kind: the one that is needed.

    Raises UserError for a folder that is missing, incomplete or damaged, of a later version, or of another kind.
    """
    where = f"{setting} = {path!r}"
    try:
        settings = json.loads((Path(path) / SETTINGS).read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise UserError(
                f"{where} was written by a later version of this project: update it, or train the model again."
            )
        if kind is not None and settings["kind"] != kind:
            raise UserError(f"{where} is a model of kind {settings['kind']}, but this step needs one of --kind={kind}.")
        model, classes = model_from_dict(settings["model"]), tuple(settings["classes"])
        shapes = Encoder(model, len(classes)).abstract()
        with np.load(Path(path) / WEIGHTS) as arrays:
            params, bias_LE = _unnamed(arrays, shapes[0]), arrays["bias_LE"]
        tokenizer = load_tokenizer((Path(path) / TOKENIZER).read_text(encoding="utf-8"))
        if settings["kind"] not in KINDS or bias_LE.shape != shapes[1].shape:
            raise ValueError("shape")
    except FileNotFoundError as error:
        missing = os.path.basename(error.filename or "")
        raise UserError(f"{where} has no {missing}: name a folder that `dots classifier` wrote.") from None
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries say
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where} is damaged ({type(error).__name__}: {reason}): train the model again.") from None
    return Classifier(settings["kind"], classes, int(settings["length"]), model, tokenizer, params, bias_LE)


def _name(path: tuple) -> str:
    return "/".join(str(key.key) for key in path)


def _named(params: dict) -> dict[str, np.ndarray]:
    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _unnamed(arrays, shapes: dict) -> dict:
    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        array = arrays[_name(path)]
        if array.shape != shape.shape:
            raise ValueError(f"{_name(path)} has the shape {array.shape}")
        return array

    return jax.tree_util.tree_map_with_path(leaf, shapes)
