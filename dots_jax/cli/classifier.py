"""Train a model of curation on your labels: web type, quality, or clutter line by line.

    dots classifier --labels=quality.jsonl --output=runs/quality
    dots classifier --labels=lines.jsonl --kind=line --length=96 --output=runs/clutter

A row has text, label, language, and site or url; with --kind=line one label for each line.
Folds share neither a site nor near-duplicates. A head that does not beat chance is refused.
"""

import importlib.util

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.options import ClassifierOptions
from dots_jax.config import UserError

OPTIONS = ClassifierOptions


def main(options: ClassifierOptions) -> int:
    for name, example in (("labels", "labels.jsonl"), ("output", "runs/quality")):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: as in --{name}={example}.")
    missing = [name for name in ("rjieba", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"Training a classifier needs {', '.join(missing)}: pip install -r requirements-curation.txt matplotlib."
        )
    load_tensorflow(options.debug)
    from dots_jax.curation_models.command import train_classifier

    return train_classifier(options)
