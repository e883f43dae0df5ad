"""Sources and mixtures of a config as seqio Tasks and Mixtures; the gin files of gin/data."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import seqio
from registered import gone_afterwards

from dots_jax.cli import gin_config
from dots_jax.config import DataConfig, Mixture, Source, TrainConfig, UserError
from dots_jax.curriculum.mixture_use import declared_rates, known_sizes, repeats, uses
from dots_jax.curriculum.stages import Schedule
from dots_jax.data.cache.token_cache import cache_directory, source_identity
from dots_jax.data.mixtures import register
from dots_jax.data.registry import get_rates
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.data.sequences.order import MixtureOrder

GIN = Path(__file__).parents[2] / "gin"
LIBRARY = Source(name="library", tfds="python_stdlib")
TESTED = Source(name="tested", tfds="python_stdlib", splits=(("train", "validation"),), where=("name", r"[a-d].*"))
BOTH = Mixture(name="both", rates=(("library", 0.7), ("tested", 0.3)))


@pytest.fixture(autouse=True)
def registries():
    """What a test registers is gone after it."""
    with gone_afterwards():
        yield


def config(*sources, mixtures=(), **more):
    return DataConfig(sources=sources, mixtures=mixtures, **more)


def test_a_run_on_declared_sources(tmp_path):
    register(config(LIBRARY, TESTED, mixtures=(BOTH,)))
    assert get_rates("both") == {"library": Fraction(7, 10), "tested": Fraction(3, 10)}
    sequences = MixtureSequences("both", 128, seed=0, cache_dir=tmp_path)
    assert sequences.tokens["library"] > 20 * sequences.tokens["tested"] > 0
    names = [
        e["name"].decode() for e in seqio.TaskRegistry.get("tested").source.get_dataset("train").as_numpy_iterator()
    ]
    assert not all(name[0] in "abcd" for name in names)  # the source holds all, the task keeps what `where` says
    stream = sequences._streams["tested"]
    assert 0 < stream.num_documents == sum(name[0] in "abcd" for name in names)
    # the plan knows the sizes from the caches
    data = config(LIBRARY, TESTED, mixtures=(BOTH,), cache_dir=str(tmp_path))
    assert {name: size.tokens for name, size in known_sizes(data).items()} == sequences.tokens
    assert all(size.exact for size in known_sizes(data).values())


def test_registering_again_changes_nothing_and_another_definition_replaces():
    register(config(LIBRARY, TESTED, mixtures=(BOTH,)))
    tasks = [seqio.TaskRegistry.get(name) for name in ("library", "tested")], seqio.MixtureRegistry.get("both")
    register(config(LIBRARY, TESTED, mixtures=(BOTH,)))
    register(config(dataclasses.replace(LIBRARY, language="en", group="code", tokens=5), mixtures=()))
    assert (
        [seqio.TaskRegistry.get(name) for name in ("library", "tested")],
        seqio.MixtureRegistry.get("both"),
    ) == tasks
    other = dataclasses.replace(TESTED, where=("name", "e.*"))
    register(config(LIBRARY, other, mixtures=(BOTH,)))
    assert seqio.TaskRegistry.get("tested") is not tasks[0][1] and seqio.TaskRegistry.get("library") is tasks[0][0]
    assert seqio.TaskRegistry.get("tested") in seqio.MixtureRegistry.get("both").tasks
    register(config(LIBRARY, other, mixtures=(dataclasses.replace(BOTH, rates=(("library", 1.0),)),)))
    assert get_rates("both") == {"library": 1}


def test_uses_of_one_data_set_have_caches_of_their_own(tmp_path):
    plain, folders = Source(name="one", tfds="wikipedia/20230601.zh:1.0.0"), set()
    for change in ({}, {"splits": (("train", "train[:9%]"),)}, {"where": ("title", "A.*")}, {"field": "title"}):
        register(config(dataclasses.replace(plain, **change)))
        folders.add(cache_directory(seqio.TaskRegistry.get("one"), "train", tmp_path))
    assert len(folders) == 4
    register(config(plain))
    assert source_identity(seqio.TaskRegistry.get("one"), "train") == "wikipedia/20230601.zh:1.0.0"


def test_tfds_that_is_not_there_is_named_and_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    register(config(Source(name="wiki", tfds="wikipedia/20230601.zh:1.0.0", splits=(("train", "train"),))))
    with pytest.raises(UserError, match="'wiki': the TFDS data set .* is not in .*tfds build wikipedia/20230601.zh"):
        MixtureSequences("wiki", 64, seed=0, cache_dir=tmp_path)
    register(config(Source(name="wiki", tfds="wikipedia/20230601.zh:1.0.0")))
    with pytest.raises(UserError, match="'wiki': the TFDS data set"):
        MixtureSequences("wiki", 64, seed=0, cache_dir=tmp_path)


@pytest.mark.parametrize(
    "data, message",
    [
        (
            config(Source(name="python_stdlib", tfds="python_stdlib")),
            "name 'python_stdlib' .* is taken .*tasks_modules",
        ),
        (
            config(LIBRARY, mixtures=(Mixture(name="tiny_stable", rates=(("library", 1),)),)),
            "'tiny_stable' .* is taken",
        ),
        (config(LIBRARY, mixtures=(Mixture(name="library", rates=(("library", 1),)),)), "a source and of a mixture"),
        (config(LIBRARY, mixtures=(Mixture(name="m", rates=(("libary", 1),)),)), "Mixture 'm' names libary, .*library"),
        (config(Source(name="wiki", tfds="wikipedia")), "'wiki': tfds must be a name with its version"),
    ],
)
def test_mistakes(data, message):
    with pytest.raises(UserError, match=message):
        register(data)


# --- gin/data ---------------------------------------------------------------------------------------------------------


def build(data: str) -> TrainConfig:
    files = [GIN / "models/dots_llm1.gin", GIN / "schedules/dots142b.gin", GIN / "data" / data]
    return gin_config.build(TrainConfig, [str(file) for file in files])[0]


OTHERS = ("mixtures.gin", "open.gin", "open_clean.gin")  # test_open_mixture.py has the open ones
BINDINGS = sorted(file.name for file in (GIN / "data").glob("*.gin") if file.name not in OTHERS)


@pytest.mark.parametrize("name", BINDINGS)
def test_the_curriculum(name):
    run = build(name)
    sources = {source.name: source for source in run.data.sources}
    rates = declared_rates(run.data)
    assert {stage.mixture for stage in run.stages} == {mixture.name for mixture in run.data.mixtures}
    for mixture in run.data.mixtures:
        assert sum(rate for _, rate in mixture.rates) == 100  # percent, to be read
        assert {source for source, _ in mixture.rates} <= sources.keys()
        assert sum(rates[mixture.name].values()) == 1

    def share(mixture, keep):
        return sum(rate for source, rate in rates[mixture].items() if keep(sources[source]))

    chinese, english = (share("dots_stable", lambda s, w=w: s.language == w) for w in ("zh", "en"))
    assert chinese == english == Fraction(2, 5)  # published: 1 : 1
    knowledge = lambda s: s.group in ("encyclopedia", "books", "papers")
    reasoning = lambda s: s.group in ("code", "mathematics", "reasoning")
    assert share("dots_anneal1", lambda s: knowledge(s) or reasoning(s)) == Fraction(9, 10)  # published
    for group in ("code", "mathematics", "reasoning"):  # published: more of them
        assert share("dots_anneal2", lambda s, g=group: s.group == g) > share(
            "dots_anneal1", lambda s, g=group: s.group == g
        )
    assert Schedule(run.stages).num_tokens > 11.328e12
    assert [stage.untie is not None for stage in run.stages] == [False, False, False, True]


@pytest.mark.parametrize("name", BINDINGS)
def test_the_curriculum_registers_without_the_network(name):
    data = build(name).data
    if any(source.files for source in data.sources):
        pytest.importorskip("dots_jax.data.sources.file_source")
    register(data)
    for mixture in data.mixtures:
        assert get_rates(mixture.name) == declared_rates(data)[mixture.name]


def test_public_data_exist_in_the_installed_tfds():
    """Names, configs, versions and fields, from the builders' code."""
    import tensorflow_datasets as tfds

    for source in build("public.gin").data.sources:
        name, version = source.tfds.split(":")
        name, _, wanted = name.partition("/")
        builder = tfds.builder_cls(name)
        configs = {config.name: config for config in builder.BUILDER_CONFIGS}
        assert not wanted or wanted in configs, source
        versions = [builder.VERSION, getattr(configs.get(wanted), "version", None)]
        assert version in [str(v) for v in versions if v is not None], (source, versions)


def test_every_line_of_the_curriculum_says_where_it_is_from():
    for file in (GIN / "data/mixtures.gin", GIN / "schedules/dots142b.gin"):
        for line in file.read_text().splitlines():
            setting = line.split("#")[0].strip()
            if not any(character.isdigit() for character in setting.split("=")[-1]) or "@" in setting:
                continue
            if "'dots_" in setting or ".name" in setting:
                continue
            assert "[P]" in line or "[A]" in line, f"{file.name}: {line}"


def test_repeats_are_named():
    run = build("public.gin")
    warnings = repeats(uses(Schedule(run.stages), declared_rates(run.data), known_sizes(run.data)), 4.0)
    assert any(
        line.startswith("warning     web_zh is read about 96.9 times (stable 94.9, anneal1 1.3,") for line in warnings
    )
    assert not repeats(uses(Schedule(run.stages), declared_rates(run.data), known_sizes(run.data)), 0.0)


def test_every_10_000_sequences_of_the_curriculum_hold_its_shares():
    for name, rates in declared_rates(build("public.gin").data).items():
        order = MixtureOrder(rates, dict.fromkeys(rates, 1000), seed=0, salt=name)
        for start in (0, 1, 7, 12_345, 10**9 + 3, 1_220_000_000):
            first, last = order.counts(start), order.counts(start + 10_000)
            for source, rate in rates.items():
                assert abs(Fraction(last[source] - first[source], 10_000) - rate) <= Fraction(1, 1000), (name, source)
