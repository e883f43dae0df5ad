"""Documents that have to go are found in the caches, and the steps that learned them are named.

Claim: the sequences and steps that `dots takedown` names are those whose rows hold the document, over sources and epochs.
"""

import json

import numpy as np
import pytest

from dots_jax.cli.main import main
from dots_jax.config import TrainConfig
from dots_jax.curriculum.stages import Schedule
from dots_jax.data import takedown
from dots_jax.data.corpus import resolve
from dots_jax.data.sequences.order import BLOCK, MixtureOrder, Place, permute, unpermute

MARK = "Ω"  # in no other document: a row with its bytes holds the document

GIN = """
include 'gin/tiny.gin'
TrainConfig.seed = 7
TrainConfig.validation = ()
TrainConfig.stages = (@stable/Stage(), @anneal/Stage())
stable/Stage.tokens = {tokens}
stable/Stage.mixture = 'both'
stable/Stage.seq_len = 32
stable/Stage.batch_tokens = ((0, 128), (1_024, 256))
anneal/Stage.name = 'anneal'
anneal/Stage.tokens = 2_048
anneal/Stage.mixture = '{second}'
anneal/Stage.seq_len = 64
anneal/Stage.learning_rate_start = 1e-3
anneal/Stage.learning_rate_end = 1e-3
anneal/Stage.untie = None
anneal/Stage.batch_tokens = ((0, 256),)
DataConfig.tasks_modules = ()
DataConfig.cache_dir = '{folder}/cache'
DataConfig.sources = (@web/Source(), @books/Source())
web/Source.name = 'web'
web/Source.files = (('train', '{folder}/web-*.jsonl'),)
books/Source.name = 'books'
books/Source.files = (('train', '{folder}/books.jsonl'),)
DataConfig.mixtures = (@both/Mixture(),)
both/Mixture.name = 'both'
both/Mixture.rates = (('web', 0.75), ('books', 0.25))
"""


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run_file(tmp_path, repo_root, monkeypatch):
    """Two sources; the document to take down is in both, and long enough to lie in several sequences."""
    monkeypatch.chdir(repo_root)
    text = MARK * 40
    web = [{"url": f"https://a.org/{n}", "text": f"page {n} " * (n % 7)} for n in range(60)]
    web[17]["text"] = text
    write(tmp_path / "web-0.jsonl", web[:30])
    write(tmp_path / "web-1.jsonl", web[30:])
    write(
        tmp_path / "books.jsonl",
        [{"title": n, "url": None, "text": f"book {n} " * 9} for n in range(20)] + [{"url": "", "text": text}],
    )
    path = tmp_path / "run.gin"
    path.write_text(GIN.format(folder=tmp_path, tokens=39_936, second="books"))
    return path


def config_of(path) -> TrainConfig:
    from dots_jax.cli.gin_config import build

    return build(TrainConfig, (str(path),), (), None)[0]


def run(capfd, *words):
    status = main(["takedown", *words])
    out = capfd.readouterr()
    return status, out.out, out.err


def test_steps_are_those_whose_rows_hold_the_document(run_file, tmp_path, capfd):
    config = config_of(run_file)
    corpus = resolve(config).open()
    (tmp_path / "list.txt").write_text("https://a.org/17\nhttps://nowhere.org\n")
    found = takedown.find(takedown.splits_of(corpus), (("url", str(tmp_path / "list.txt")),))
    assert found.records == {"books": 0, "web": 1} and len(found.texts) == 1
    spots = takedown.spots(takedown.splits_of(corpus), corpus.cache_dir, found.hashes)
    assert [spot.task for spot in spots] == ["books", "web"]
    schedule, marked = Schedule(config.stages), [3 + byte for byte in MARK.encode()]
    lessons = takedown.lessons(corpus, schedule, spots)
    for number, (data, sequences) in enumerate(zip(corpus.stages, corpus.sequences)):
        length = schedule.stage_sequences_before(number, schedule.num_steps)
        rows = sequences.rows(range(length))
        held = np.isin(rows["tokens"], marked).any(1) | np.isin(rows["targets"], marked).any(1)
        named = [
            sequences.indices(spot.task, spot.start, spot.end, length) for spot in spots if spot.task in data.rates
        ]
        assert sorted(set(sum(named, []))) == np.flatnonzero(held).tolist() != []
        steps = [step for step in range(schedule.num_steps) if schedule.at(step).stage_index == number]
        first = next(
            step + 1 for step in steps if held[schedule.at(step).sequence :][: schedule.at(step).batch_size].any()
        )
        of_stage = [lesson for lesson in lessons if lesson.stage == data.stage.name]
        assert min(lesson.first_step for lesson in of_stage) == first
        assert sum(lesson.times for lesson in of_stage) == sum(map(len, named))
    of_stable = schedule.stage_sequences_before(0, schedule.num_steps)
    assert corpus.sequences[0].epochs(of_stable)["books"] > 1


def test_the_command_names_checkpoints_and_the_list_that_rebuilds_the_caches(run_file, tmp_path, capfd):
    resolve(config_of(run_file)).open()
    (tmp_path / "list.txt").write_text("https://a.org/17\n")
    for step in (1, 50, 86):
        (tmp_path / "run" / "checkpoints" / str(step)).mkdir(parents=True)
    words = [f"--gin_file={run_file}", f"--list=url={tmp_path}/list.txt", f"--output={tmp_path}/down.json"]
    status, out, err = run(capfd, *words, f"--workdir={tmp_path}/run")
    assert status == 0, err
    record = json.loads((tmp_path / "down.json").read_text())
    assert record["checkpoints"] == [1, 50, 86] and 50 in record["checkpoints_that_learned"]
    assert record["checkpoints_that_learned"] == [step for step in (1, 50, 86) if step >= record["first_step"]]
    assert len(record["documents"]) == 2 and "tokens-00000.array_record chunk 0" in out
    # The list makes caches without the document, in both sources.
    text = run_file.read_text()
    for source in ("web", "books"):
        text += f"{source}/Source.exclude = (('sha256(text)', '{tmp_path}/down.sha256'),)\n"
    run_file.write_text(text)
    corpus = resolve(config_of(run_file)).open()
    hashes = {takedown.fmt.document_hash(np.array([3 + b for b in (MARK * 40).encode()] + [1]), "<u2")}
    assert takedown.spots(takedown.splits_of(corpus), corpus.cache_dir, hashes) == []


def test_one_long_list_of_mistakes(run_file, tmp_path, capfd):
    (tmp_path / "list.txt").write_text("x\n")
    words = [f"--gin_file={run_file}", f"--output={tmp_path}/down.json"]
    listed = f"--list=url={tmp_path}/list.txt"
    assert "There is no token cache" in run(capfd, *words, listed)[2]
    corpus = resolve(config_of(run_file)).open()
    assert "--list=url is not FIELD=FILE" in run(capfd, *words, "--list=url")[2]
    assert "No file matches" in run(capfd, *words, "--list=url=nothing.txt")[2]
    sentence = run(capfd, *words, listed)[2]
    assert "No record is listed by url=" in sentence
    sentence = run(capfd, *words, f"--list=title={tmp_path}/list.txt")[2]
    assert "60 records of web have no such field" in sentence
    assert "holds no run" in run(capfd, *words, listed, f"--workdir={tmp_path}")[2]
    (ledger,) = (tmp_path / "cache").rglob("tokens/books/*/train/documents-00000.u8")
    ledger.unlink()
    assert "has no documents-00000.u8" in run(capfd, *words, listed)[2]
    assert not (tmp_path / "down.json").exists() and corpus


def test_the_order_backwards():
    for size in (1, 2, 5, 64, 1000):
        assert [unpermute(permute(i, size, 7), size, 7) for i in range(size)] == list(range(size))
    for length in (0, 59):
        order = MixtureOrder({"a": 1, "b": 5, "c": 3}, {"a": 3, "b": 11, "c": 7}, seed=3, salt="s", length=length)
        for index in range(length or 20 * BLOCK):
            assert order.index(order.place(index)) == index
    assert order.index(Place("b", 9, 0)) >= 59
