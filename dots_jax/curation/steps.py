"""The table of all steps, and how a run is cut into phases between the global ones.

A new step is one entry of STEPS, its name in `config.CURATION_STEPS` at the same place, and its section in CurateConfig.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation import (
    decode,
    decontaminate,
    extract,
    identity,
    language,
    lines,
    models,
    near_duplicates,
    pii,
    url,
)
from dots_jax.curation.embedding_step import STEP as SEMANTIC
from dots_jax.curation.model_steps import MODEL_STEPS
from dots_jax.curation.protocol import GlobalStep, LocalStep, Step, WithModel, each
from dots_jax.curation.rules import step as rules

STEPS: tuple[Step, ...] = (
    LocalStep("url", "blocked domains and words", each(url.opened)),
    LocalStep("decoding", "bytes to characters; what is no HTML", each(decode.opened)),
    LocalStep("extraction", "HTML to text, in a process of its own", each(extract.opened)),
    LocalStep("language", "language and its probability", each(language.opened)),
    GlobalStep(
        "identity",
        "documents with the same normalised text",
        identity.ROW,
        identity.rows,
        identity.decide,
        identity.condense,
        identity.apply,
    ),
    GlobalStep(
        "lines",
        "lines that begin or end many documents",
        lines.ROW,
        lines.rows,
        lines.decide,
        lines.condense,
        lines.apply,
    ),
    LocalStep("rules", "rules of sites, lines of clutter, Gopher, RefinedWeb, FineWeb, FineWeb-2", rules.opened),
    GlobalStep(
        "minhash",
        "near-duplicates: 2048 values, 128 bands of 16",
        near_duplicates.ROW,
        near_duplicates.rows,
        near_duplicates.decide,
        near_duplicates.condense,
        near_duplicates.apply,
    ),
    *(step for step in MODEL_STEPS if step.name != "classes"),
    SEMANTIC,
    *(step for step in MODEL_STEPS if step.name == "classes"),
    LocalStep("decontamination", "documents that hold benchmark texts", each(decontaminate.opened)),
    LocalStep("pii", "personal data: constants, and documents rich in it", pii.opened),
)
TO_TEXT = ("decoding", "extraction")  # what every other step of documents needs first; texts pass them unchanged


def chosen(config: CurateConfig, only: str | None) -> tuple[Step, ...]:
    """The steps of a run, in order; those without their model are `without_model`.

    Raises UserError for an `only` that is no step, or has no model.
    """
    names = [step.name for step in STEPS]
    if only is not None and only not in names:
        raise UserError(f"--only={only}: there is no such step; the steps are {', '.join(names)}.")
    wanted = config.steps if only is None else (*TO_TEXT, only)
    idle = without_model(config, wanted)
    if only in idle:
        raise UserError(f"--only={only} needs {idle[only]}: name the folder of a model.")
    return tuple(step for step in STEPS if step.name in wanted and step.name not in idle)


def without_model(config: CurateConfig, names: Sequence[str]) -> dict[str, str]:
    """Those of these steps that do not run since the config names no model for them, each with the setting that would."""
    steps = [step for step in STEPS if isinstance(step, WithModel) and step.name in names]
    return {step.name: models.setting_of(step, config) for step in steps if not models.folder_of(step, config)}


class Phase(NamedTuple):
    """Local steps between two others. opening: the step of all documents, or of a model, whose verdicts are carried out first;
    closing: the one that looks at what they leave."""

    opening: GlobalStep | WithModel | None
    local: tuple[LocalStep, ...]
    closing: GlobalStep | WithModel | None


def phases(steps: Sequence[Step]) -> list[Phase]:
    found, opening, local = [], None, []
    for step in steps:
        if isinstance(step, LocalStep):
            local.append(step)
        else:
            found.append(Phase(opening, tuple(local), step))
            opening, local = step, []
    return [*found, Phase(opening, tuple(local), None)]
