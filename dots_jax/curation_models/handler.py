"""What `curation` loads by name: a trained model as a function from texts to probabilities, an embedder as one to vectors."""

import functools
import os
from collections.abc import Sequence

import numpy as np

from dots_jax.curation_models import folder
from dots_jax.curation_models.encoder import Predictor
from dots_jax.curation_models.examples import of_kind
from dots_jax.curation_models.xlm_roberta import Embedder


class Model:
    """A classifier, jitted. Probabilities of a text do not depend on the texts that come with it."""

    def __init__(self, classifier: folder.Classifier):
        self._classifier = classifier
        self._predict = Predictor(classifier.encoder(), classifier.length)

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """float32 [1, C] of each text, or with kind `line` [lines, C]."""
        one = self._classifier
        examples = of_kind(one.kind, one.tokenizer, texts, one.length)
        found_NC = self._predict(one.params, one.bias_LE, [each for some in examples for each in some])
        ends = np.cumsum([len(some) for some in examples])
        return np.split(found_NC, ends[:-1]) if len(ends) else []


@functools.lru_cache(maxsize=1)
def load_embedder(path: str, length: int) -> Embedder:
    """Raises UserError for a folder that is no XLM-RoBERTa. A process loads it once."""
    return Embedder(path, length)


def load(path: str, setting: str, kind: str) -> Model:
    """Raises UserError as folder.load does. A process loads and compiles a model once."""
    changed = os.path.getmtime(path) if os.path.isdir(path) else 0.0
    return _load(path, setting, kind, changed)


@functools.lru_cache(maxsize=4)
def _load(path: str, setting: str, kind: str, changed: float) -> Model:
    return Model(folder.load(path, setting, kind))
