"""The table of all steps, and how a run is cut into phases between the global ones.

A new step is one entry of STEPS, its name in `config.CURATION_STEPS` at the same place, and its section in CurateConfig.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation import decode, decontaminate, extract, identity, language, lines, near_duplicates, pii, url
from dots_jax.curation.protocol import GlobalStep, LocalStep, each
from dots_jax.curation.rules import step as rules

STEPS: tuple[LocalStep | GlobalStep, ...] = (
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
    LocalStep("decontamination", "documents that hold benchmark texts", each(decontaminate.opened)),
    LocalStep("pii", "personal data: constants, and documents rich in it", pii.opened),
)
TO_TEXT = ("decoding", "extraction")  # what every other step of documents needs first; texts pass them unchanged


def chosen(config: CurateConfig, only: str | None) -> tuple[LocalStep | GlobalStep, ...]:
    """The steps of a run, in order.

    Raises UserError for an `only` that is no step.
    """
    names = [step.name for step in STEPS]
    if only is not None and only not in names:
        raise UserError(f"--only={only}: there is no such step; the steps are {', '.join(names)}.")
    wanted = config.steps if only is None else (*TO_TEXT, only)
    return tuple(step for step in STEPS if step.name in wanted)


class Phase(NamedTuple):
    """Local steps between two exchanges. opening: the global step whose verdicts are carried out first; closing: the one
    whose rows are written at the end."""

    opening: GlobalStep | None
    local: tuple[LocalStep, ...]
    closing: GlobalStep | None


def phases(steps: Sequence[LocalStep | GlobalStep]) -> list[Phase]:
    found, opening, local = [], None, []
    for step in steps:
        if isinstance(step, LocalStep):
            local.append(step)
        else:
            found.append(Phase(opening, tuple(local), step))
            opening, local = step, []
    return [*found, Phase(opening, tuple(local), None)]
