"""Groups, caps and what sources say about themselves: shares as a pure function of the config, and the plan's tables."""

import dataclasses
from fractions import Fraction

import pytest
import seqio

from dots_jax.config import DataConfig, Group, Mixture, Source, Stage, TrainConfig, UserError
from dots_jax.curriculum.groups import resolved
from dots_jax.curriculum.mixture_use import declared_rates
from dots_jax.curriculum.table import plan


def source(name, tokens=0, **more):
    return Source(name=name, files=(("train", f"{name}/*.jsonl"),), tokens=tokens, **more)


A, B, C, D = (source(name, tokens) for name, tokens in (("a", 100), ("b", 300), ("c", 400), ("d", 0)))


def data(*sources, groups=(), rates=(("web", 60), ("c", 40)), **more):
    return DataConfig(sources=sources, groups=groups, mixtures=(Mixture(name="mix", rates=rates),), **more)


def shares(one, stages=(), name="mix"):
    return {source: float(share) for source, share in declared_rates(one, stages)[name].items()}


def stage(name, tokens, mixture="mix"):
    return Stage(
        name=name, tokens=tokens, mixture=mixture, seq_len=100, batch_tokens=((0, 100),), learning_rate_start=1e-3,
        learning_rate_end=1e-3,
    )  # fmt: skip


WEB = Group(name="web", sources=("a", "b"))


def test_a_group_shares_its_rate_by_tokens():
    one = data(A, B, C, groups=(WEB,))
    assert shares(one) == pytest.approx({"a": 0.15, "b": 0.45, "c": 0.4}, abs=1e-12)
    assert sum(declared_rates(one)["mix"].values()) == 1
    assert declared_rates(one)["web"] == {"a": Fraction(1, 4), "b": Fraction(3, 4)}  # a stage may name it


@pytest.mark.parametrize("more, expected", [
    ({"weights": (3, 1)}, {"a": 0.75, "b": 0.25}),
    ({"maximum": 200}, {"a": 1 / 3, "b": 2 / 3}),
    ({"temperature": 2.0}, {"a": 1 / (1 + 3**0.5), "b": 3**0.5 / (1 + 3**0.5)}),
    ({"weights": "bytes"}, {"a": 0.9, "b": 0.1}),
])  # fmt: skip
def test_other_weights(more, expected):
    sources = (dataclasses.replace(A, bytes=900), dataclasses.replace(B, bytes=100))
    one = DataConfig(sources=sources, groups=(dataclasses.replace(WEB, **more),))
    assert shares(one, name="web") == pytest.approx(expected, abs=1e-12)


def test_groups_in_groups():
    everything = Group(name="everything", sources=("web", "c"))
    one = data(A, B, C, groups=(WEB, everything), rates=(("everything", 1), ("a", 1)))
    assert shares(one) == pytest.approx({"a": 1 / 16 + 1 / 2, "b": 3 / 16, "c": 1 / 4}, abs=1e-12)


def test_a_cap_moves_the_rest_in_every_stage():
    capped = dataclasses.replace(A, max_epochs=2, overflow="c")
    one = data(capped, B, C, rates=(("a", 50), ("b", 50)))
    stages = (stage("first", 500), stage("second", 300))  # 400 of a, of which 200 may be read
    assert shares(one, stages) == pytest.approx({"a": 0.25, "b": 0.5, "c": 0.25})
    assert shares(one, (stage("first", 400),)) == {"a": 0.5, "b": 0.5}
    assert shares(one) == {"a": 0.5, "b": 0.5}  # without a run there is nothing to cap
    chained = data(capped, B, dataclasses.replace(C, max_epochs=0.25, overflow="b"), rates=(("a", 50), ("b", 50)))
    assert shares(chained, stages) == pytest.approx({"a": 0.25, "b": 0.625, "c": 0.125})


def test_a_cap_goes_to_a_group_too():
    one = data(dataclasses.replace(C, max_epochs=0.5, overflow="web"), A, B, groups=(WEB,), rates=(("c", 1),))
    assert shares(one, (stage("only", 800),)) == pytest.approx({"c": 0.25, "a": 0.1875, "b": 0.5625})


def test_caps_that_cannot_be_kept():
    there, back = dataclasses.replace(A, max_epochs=1, overflow="b"), dataclasses.replace(B, max_epochs=1, overflow="a")
    one = data(there, back, rates=(("a", 1), ("b", 1)))
    with pytest.raises(UserError, match="Source '.': what is above its max_epochs comes back to it by way of"):
        resolved(one, (stage("only", 10_000),))


@pytest.mark.parametrize("make, message", [
    (lambda: data(A, B, C, groups=(Group(name="web", sources=("a", "x")),)), "Group 'web' names x, which no source"),
    (lambda: data(A, B, C, groups=(Group(name="a", sources=("b",)),)), "a is the name of a source and of a group"),
    (lambda: Group(name="web", sources=("a", "a")), "each once"),
    (lambda: Group(name="web", sources=("a",), weights="size"), "Group.weights must be one of tokens, bytes, documents"),
    (lambda: Group(name="web", sources=("a", "b"), weights=(1,)), "a number above 0 for each"),
    (lambda: resolved(data(A, D, C, groups=(Group(name="web", sources=("a", "d")),))), "Source 'd' has none: set d/Source"),
    (lambda: resolved(data(A, groups=(Group(name="web", sources=("g",)), Group(name="g", sources=("web",))))), "holds itself"),
    (lambda: dataclasses.replace(A, max_epochs=1), "a cap needs max_epochs, tokens, and overflow"),
    (lambda: dataclasses.replace(A, max_epochs=1, overflow="a"), "overflow must name another source"),
    (lambda: data(dataclasses.replace(A, max_epochs=1, overflow="x")), "overflow names 'x', which no source"),
    (lambda: data(dataclasses.replace(A, synthetic=True), allow_synthetic=False), "but a is marked synthetic: take it out"),
])  # fmt: skip
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_plan_says_languages_and_licences():
    sources = (
        dataclasses.replace(A, language="zh", licence="ODC-By"), dataclasses.replace(B, language="en", licence="CC0"), C
    )  # fmt: skip
    config = TrainConfig.__new__(TrainConfig)
    for name, value in (("stages", (stage("only", 1000),)), ("data", data(*sources, groups=(WEB,), max_epochs=0.0))):
        object.__setattr__(config, name, value)
    text = plan(config)
    lines = [line.split() for line in text.splitlines()]
    assert ["en", "45.00%", "450", "45.00%"] in lines and ["zh", "15.00%", "150", "15.00%"] in lines
    assert ["CC0", "45.00%", "450", "45.00%"] in lines and lines.count(["none", "40.00%", "400", "40.00%"]) == 2
    assert text.splitlines()[-1] == "synthetic   none"


def test_paths_start_from_the_corpora():
    files = (("train", "a/*"), ("train", "/b/*"), ("train", "gs://c/*", ("field", "x")))
    one = DataConfig(sources=(Source(name="s", files=files),), corpora="gs://bucket/all/")
    assert one.sources[0].files == (("train", "gs://bucket/all/a/*"), *files[1:])
    assert DataConfig(sources=one.sources, corpora="gs://bucket/all/") == one  # again changes nothing
    assert dataclasses.replace(one, cache_dir="x").sources == one.sources


def test_the_registry_has_the_same_shares():
    from dots_jax.data import mixtures
    from dots_jax.data.registry import get_rates

    names = ("groups_a", "groups_b", "groups_web", "groups_mix")
    a, b = (dataclasses.replace(one, name=name) for one, name in zip((A, B), names))
    one = DataConfig(
        sources=(dataclasses.replace(a, max_epochs=1, overflow="groups_b"), b),
        groups=(Group(name="groups_web", sources=("groups_a", "groups_b")),),
        mixtures=(Mixture(name="groups_mix", rates=(("groups_web", 1), ("groups_a", 2))),), tasks_modules=(),
    )  # fmt: skip
    stages = (stage("only", 1000, "groups_mix"),)
    try:
        mixtures.register(one, stages)
        assert get_rates("groups_mix") == declared_rates(one, stages)["groups_mix"]
        assert float(get_rates("groups_mix")["groups_a"]) == pytest.approx(0.1)
        assert get_rates("groups_web") == declared_rates(one, stages)["groups_web"]
    finally:
        for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
            for name in set(registry.names()) & set(names):
                registry.remove(name)
                mixtures._OURS.pop(name, None)
