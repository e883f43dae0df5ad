"""Mixtures as lists of sequences; the built-in data set; mistakes in names and rates."""

import concurrent.futures
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import seqio

from dots_jax.config import UserError
from dots_jax.data import registry, tasks
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sequences.mixture_sequences import MixtureSequences, SplitSequences
from dots_jax.data.sequences.packing import FEATURES
from dots_jax.data.sources import text_task
from dots_jax.data.sources.python_stdlib import library_files, split_of

TEXTS = {
    "notes_a": [f"document {i} of a: " + "a" * (i % 50) for i in range(60)],
    "notes_b": [f"document {i} of b: " + "b" * (i % 90) for i in range(20)],
}
MIXTURES = {"notes_mixed": [("notes_a", 0.7), ("notes_b", 0.3)], "notes_zero": [("notes_a", 1.0), ("notes_b", 0.0)]}


@pytest.fixture(scope="module", autouse=True)
def notes():
    for name, texts in TEXTS.items():
        text_task.register_text_task(name, {"train": texts, "validation": texts[:3]})
    for name, rates in MIXTURES.items():
        seqio.MixtureRegistry.add(name, rates)
    yield
    for name in MIXTURES:
        seqio.MixtureRegistry.remove(name)
    for name in TEXTS:
        seqio.TaskRegistry.remove(name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_rows(cache):
    sequences = MixtureSequences("notes_mixed", 64, seed=0, cache_dir=cache, salt="s")
    batch = sequences.rows(range(10, 15))
    for name, dtype in FEATURES.items():
        assert batch[name].shape == (5, 64) and batch[name].dtype == dtype
    assert sequences.rates == {"notes_a": Fraction(7, 10), "notes_b": Fraction(3, 10)}
    assert (sequences.vocab_size, sequences.eos_id) == (259, 1)
    text = {task: sum(len(t) + 1 for t in texts) for task, texts in TEXTS.items()}
    assert sequences.tokens == text
    assert sequences.windows == {task: -(-n // 64) for task, n in text.items()}
    assert_same(sequences.rows([12, 10]), {name: values[[2, 0]] for name, values in batch.items()})


def test_one_epoch_holds_the_whole_text(cache):
    sequences = MixtureSequences("notes_a", 64, seed=5, cache_dir=cache)
    batch = sequences.rows(range(sequences.windows["notes_a"]))
    assert batch["weights"].sum() == sequences.tokens["notes_a"]
    assert sequences.epochs(sequences.windows["notes_a"]) == {"notes_a": 1.0}
    expected = np.bincount(np.concatenate([[1, *(np.array(list(t.encode())) + 3)] for t in TEXTS["notes_a"]]))
    np.testing.assert_array_equal(np.bincount(batch["targets"][batch["weights"] > 0]), expected)


@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
def test_any_number_of_hosts_reads_the_same_batches(cache, hosts):
    batch_size = 24
    reference = MixtureSequences("notes_mixed", 32, seed=0, cache_dir=cache, salt="s")
    # each host opens the data for itself and reads nothing but its own rows
    opened = [MixtureSequences("notes_mixed", 32, seed=0, cache_dir=cache, salt="s") for _ in range(hosts)]
    for step in (0, 3, 10**9):
        complete = reference.rows(range(step * batch_size, (step + 1) * batch_size))
        share = batch_size // hosts
        parts = [
            host.rows(range(step * batch_size + rank * share, step * batch_size + (rank + 1) * share))
            for rank, host in enumerate(opened)
        ]
        assert_same({name: np.concatenate([part[name] for part in parts]) for name in FEATURES}, complete)


def test_threads_read_the_same(cache):
    sequences = MixtureSequences("notes_mixed", 32, seed=0, cache_dir=cache)
    expected = [sequences.rows(range(i, i + 8)) for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(lambda i: sequences.rows(range(i, i + 8)), range(40)), expected):
            assert_same(got, want)


def test_salt_and_seed_change_the_order_and_identity_only_follows_the_data(cache):
    def open_(name="notes_mixed", seed=0, salt="s", seq_len=32):
        return MixtureSequences(name, seq_len, seed=seed, cache_dir=cache, salt=salt)

    base = open_()
    for other in (open_(seed=1), open_(salt="t")):
        assert any((other.rows([i])["targets"] != base.rows([i])["targets"]).any() for i in range(4))
        assert other.identity == base.identity
    assert open_(seq_len=16).identity == base.identity
    assert open_("notes_a").identity != base.identity


def test_a_split_in_order(cache):
    split = SplitSequences("notes_a", "validation", 16, cache)
    batch = split.rows(range(len(split)))
    assert batch["weights"].sum() == split.num_tokens == split.num_bytes + 3
    assert len(split) == -(-split.num_tokens // 16)


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "no_such",
            "No seqio mixture or task is named 'no_such': known mixtures are .*tiny_stable.*known tasks are .*notes_a",
        ),
        ("notes_zero", "rate of 'notes_b' must be above 0"),
    ],
)
def test_mistakes_in_names_and_rates(cache, name, message):
    with pytest.raises(UserError, match=message):
        MixtureSequences(name, 32, seed=0, cache_dir=cache)


def test_tasks_of_one_mixture_share_a_vocabulary():
    text_task.register_text_task("odd_one", {"train": ["x"]}, seqio.ByteVocabulary(extra_ids=5))
    seqio.MixtureRegistry.add("odd_mixture", [("odd_one", 1.0), ("notes_a", 1.0)])
    try:
        with pytest.raises(UserError, match="mixes vocabularies"):
            registry.get_rates("odd_mixture")
    finally:
        seqio.MixtureRegistry.remove("odd_mixture")
        seqio.TaskRegistry.remove("odd_one")


def test_tasks_modules_must_exist():
    registry.import_tasks(("dots_jax.data.tasks",))
    for module in ("dots_jax.data.no_such", "no_such_package.tasks"):
        with pytest.raises(UserError, match=module):
            registry.import_tasks((module,))


def test_registering_again_changes_nothing():
    before = seqio.TaskRegistry.get("python_stdlib"), seqio.MixtureRegistry.get("tiny_anneal")
    text_task.add_text_task("python_stdlib", tasks._SOURCE)
    tasks._add_mixture("tiny_anneal", [("python_stdlib", 1.0)])
    assert (seqio.TaskRegistry.get("python_stdlib"), seqio.MixtureRegistry.get("tiny_anneal")) == before


def test_the_library_is_split_by_file_and_holds_no_tests():
    files = dict(library_files())
    assert len(files) > 300
    assert {"json/decoder.py", "asyncio/tasks.py"} <= files.keys()
    assert not any("test" in name.split("/")[:-1] or "site-packages" in name for name in files)
    held_out = [name for name in files if split_of(name) == "validation"]
    assert 0.02 < len(held_out) / len(files) < 0.1


def test_the_built_in_mixtures(tmp_path):
    sequences = MixtureSequences("tiny_anneal", 128, seed=0, cache_dir=tmp_path)
    assert sequences.rates == {"python_stdlib": Fraction(2, 5), "python_stdlib_network": Fraction(3, 5)}
    assert sequences.tokens["python_stdlib"] > 4 * sequences.tokens["python_stdlib_network"] > 1_000_000
    texts = [text for name, text in library_files() if split_of(name) == "train"]
    stream = open_stream("python_stdlib", "train", tmp_path)
    assert stream.num_documents == len(texts)
    assert stream.num_bytes == sum(len(text.encode()) for text in texts)
    tokens, ends = stream.window(0, 200_000)
    first = bytes((tokens[: ends[0]] - 3).tolist()).decode()
    assert first in texts
    assert open_stream("python_stdlib", "validation", tmp_path).num_tokens > 100_000
    # every example of the smaller task is one of the larger
    names = set()
    for example in tasks._SOURCE.get_dataset("train", shuffle=False).as_numpy_iterator():
        if bool(tasks._about_networks(example)):
            names.add(example["name"].decode())
    assert {"json/decoder.py", "asyncio/tasks.py"} & names and "argparse.py" not in names


@pytest.mark.subprocess
def test_data_imports_no_model_and_the_pure_modules_no_tensorflow():
    code = (
        "import sys; import dots_jax.data, dots_jax.data.sequences.order, dots_jax.data.sequences.packing;"
        "import dots_jax.parallel.prefetch;"
        "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules), sys.modules.keys();"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
