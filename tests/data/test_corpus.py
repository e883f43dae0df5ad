"""The data of a run as one object: names are looked up once, streams are opened once."""

from fractions import Fraction

import pytest
import small_run  # noqa: F401  registers the tasks
from stage_config import stage

from dots_jax.config import DataConfig, TrainConfig, UserError, tiny
from dots_jax.data import corpus as module
from dots_jax.data.corpus import resolve


def config(tmp_path, *mixtures, **more):
    stages = tuple(stage(name=f"stage{i}", mixture=mixture) for i, mixture in enumerate(mixtures))
    return TrainConfig(
        model=tiny(), stages=stages, data=DataConfig(cache_dir=str(tmp_path), tasks_modules=("small_run",)), **more
    )


def test_resolved_and_opened(tmp_path, monkeypatch):
    corpus = resolve(config(tmp_path, "small_plain", "small_mixed", "small_prose", validation=("small_prose",)))
    assert corpus.rates["small_plain"] == {"small_prose": Fraction(7, 10), "small_numbers": Fraction(3, 10)}
    assert [data.vocab_size for data in corpus.stages] == [259] * 3
    assert corpus.sizes == {} and corpus.sequences == () and not list(tmp_path.iterdir())  # nothing is read or made

    opened, open_stream = [], module.open_stream
    monkeypatch.setattr(module, "open_stream", lambda *task: opened.append(task[:2]) or open_stream(*task))
    corpus = corpus.open()
    assert sorted(opened) == [("small_numbers", "train"), ("small_prose", "train"), ("small_prose", "validation")]
    first, second, alone = corpus.sequences
    assert corpus.sizes["small_prose"].tokens == first.tokens["small_prose"] == alone.tokens["small_prose"] > 0
    assert corpus.sizes["small_prose"].exact
    # Stages share streams, not their order.
    assert (first.rows(range(8))["tokens"] != second.rows(range(8))["tokens"]).any()
    # Sizes of caches that are there are known before they are opened.
    assert resolve(config(tmp_path, "small_plain")).sizes["small_prose"] == corpus.sizes["small_prose"]


@pytest.mark.parametrize(
    "names, more, words",
    [
        (("small_plain", "nowhere"), {}, "No seqio mixture or task is named 'nowhere'"),
        (("small_plain",), {"validation": ("nowhere",)}, "No seqio task is named 'nowhere'"),
    ],
)
def test_names_that_are_not_there(tmp_path, names, more, words):
    with pytest.raises(UserError, match=words):
        resolve(config(tmp_path, *names, **more))
