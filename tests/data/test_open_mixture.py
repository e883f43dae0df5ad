"""gin/data/open.gin: what its head claims is what the plan shows, and every corpus is read in its own shape.

Claim: `gin/data/open.gin` carries the four stages on public corpora with no source above 4 passes and none synthetic.
"""

import re
from pathlib import Path

import pytest
from open_corpora import ROWS, write

from dots_jax.cli import gin_config
from dots_jax.config import TrainConfig, UserError
from dots_jax.curriculum.mixture_use import declared_rates, known_sizes, repeats, uses
from dots_jax.curriculum.stages import Schedule
from dots_jax.curriculum.table import plan
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import numbered_texts
from dots_jax.data.sources.record_text import LeftOut

GIN = Path(__file__).parents[2] / "gin"
BOTH = ("open.gin", "open_clean.gin")


def build(name, *bindings) -> TrainConfig:
    files = [GIN / "models/dots_llm1.gin", GIN / "schedules/dots142b.gin", GIN / "data" / name]
    return gin_config.build(TrainConfig, [str(file) for file in files], bindings)[0]


def used(run):
    return uses(Schedule(run.stages), declared_rates(run.data, run.stages), known_sizes(run.data))


def passes(run):
    total = {}
    for use in used(run):
        total[use.source] = total.get(use.source, 0.0) + use.epochs
    return total


def head(name):
    text = re.split(r"\n\n", (GIN / "data" / name).read_text())[0]
    return " ".join(line.lstrip("# ") for line in text.splitlines())


@pytest.mark.parametrize("name", BOTH)
def test_shares_by_language(name):
    """Published: Chinese and English 1 : 1."""
    run = build(name)
    language = {source.name: source.language for source in run.data.sources}
    shares = []
    for stage in run.stages:
        one = declared_rates(run.data, run.stages)[stage.mixture]
        parts = [100 * float(sum(s for n, s in one.items() if language[n] == code)) for code in ("zh", "en", "")]
        shares.append(":".join(f"{part:.3g}" for part in parts))
    assert shares == ["36:36:28", "30:30:40", "12.5:12.5:75", "27:53:20"]
    assert name != "open.gin" or all(one in head(name) for one in shares)


@pytest.mark.parametrize("name", BOTH)
def test_every_mixture_is_written_in_percent(name):
    for mixture in build(name).data.mixtures:
        assert sum(rate for _, rate in mixture.rates) == pytest.approx(100, abs=1e-9)


def test_how_often_a_source_is_read():
    found, text = passes(build("open.gin")), head("open.gin")
    assert (
        max(found, key=found.get) == "web_zh_edu"
        and f"No source is read more than {max(found.values()):.1f} times" in text
    )
    assert f"Chinese web pages come to {found['web_zh']:.1f} and {found['web_zh_edu']:.1f} passes" in text
    assert f"code to {found['code']:.2f}, English web to {found['web_en_edu']:.2f}" in text
    assert found["web_en"] < found["web_en_edu"]
    clean = passes(build("open_clean.gin"))
    assert max(clean.values()) == pytest.approx(4.0, abs=1e-6) and clean["pdf_zh"] == max(clean.values())
    assert f"web_zh_edu, which is read {clean['web_zh_edu']:.1f} times" in head("open_clean.gin")
    for name in BOTH:
        assert "warning" not in plan(build(name))


def test_knowledge_and_reasoning_in_annealing():
    run = build("open.gin")
    group = {source.name: source.group for source in run.data.sources}
    rates = declared_rates(run.data, run.stages)

    def share(mixture, *groups):
        return round(100 * float(sum(s for n, s in rates[mixture].items() if group[n] in groups)), 6)

    knowledge = ("web_edu", "pdf", "encyclopedia", "books", "papers", "exam")
    reasoning = ("code", "mathematics", "qa", "web_reasoning")
    assert (share("dots_anneal1", *knowledge), share("dots_anneal1", *reasoning)) == (50, 40)  # published: 90
    assert share("dots_anneal2", *reasoning) == 75 > share("dots_anneal1", *reasoning)
    encyclopedia = sum(rates["dots_stable"][name] for name in ("wiki_zh", "baike_zh", "baidubaike_zh"))
    assert f"Its share is {100 * float(encyclopedia):.2g} %" in head("open.gin")


@pytest.mark.parametrize("name", BOTH)
def test_nothing_is_synthetic_and_everything_says_where_it_is_from(name):
    run = build(name)
    assert plan(run).splitlines()[-1].startswith("synthetic   none, as DataConfig.allow_synthetic = False")
    for source in run.data.sources:
        assert source.hub and source.licence and source.tokens and source.held_out, source.name
    with pytest.raises(UserError, match="allow_synthetic is False, but finemath is marked synthetic"):
        build(name, "finemath/Source.synthetic = True")


def test_the_clean_one_leaves_out_what_may_not_be_used():
    licences = {source.licence for source in build("open_clean.gin").data.sources}
    assert not {one for one in licences if "NC" in one or one == "none stated"}
    assert {"CC BY-NC-ND 4.0", "none stated"} <= {source.licence for source in build("open.gin").data.sources}


def test_dots142b_uses_it():
    run = gin_config.build(TrainConfig, [str(GIN / "dots142b.gin")])[0]
    assert run.data.sources == build("open.gin").data.sources and run.data.corpora == "gs://my-bucket/corpora"
    text = plan(run)
    assert "web_zh_edu" in text and "licences" in text and "warning" not in text
    assert not repeats(used(run), 4.0)


@pytest.mark.parametrize("name", BOTH)
def test_every_corpus_is_read_in_its_own_shape(name, tmp_path):
    write(tmp_path)
    texts, left_out = {}, {}
    for source in build(name, f"CORPORA = '{tmp_path}'").data.sources:
        files = FileSource(source.file_sets(), source.field)
        for file in files.files("train"):
            for _, text in numbered_texts(file.path, files.file_set("train", file.name).rule, conversations=False):
                assert not isinstance(text, Malformed), (source.name, text)
                if isinstance(text, LeftOut):
                    left_out[source.name] = left_out.get(source.name, 0) + text.records
                else:
                    texts.setdefault(source.name, []).append(text.decode())
    assert texts.keys() == {source.name for source in build(name).data.sources}
    assert len(texts["web_zh"]) == len(texts["web_zh_edu"]) == ROWS and not set(texts["web_zh"]) & set(
        texts["web_zh_edu"]
    )
    assert (len(texts["web_en"]), len(texts["web_en_edu"])) == (4 * ROWS, 2 * ROWS)
    assert not any("adult" in text for text in texts["web_en"] + texts["web_en_edu"])
    assert texts["wiki_zh"][0].startswith("Title 0\n\n")
    assert texts["code"][0].count("# File: ") == (3 if name == "open.gin" else 2)
    assert texts["code"][0].startswith("# File: src/0.py\nx = 0\n")
    assert len(texts["exam_zh"]) == 3 * ROWS
    assert {text[:11] for text in texts["web_reasoning"]} == {"Q&A Forum 4"}
    assert left_out["web_reasoning"] == ROWS - len(texts["web_reasoning"]) == 20
    if name == "open.gin":
        assert texts["baidubaike_zh"][0].startswith("历史\n") and len(texts["books_zh"]) == ROWS
