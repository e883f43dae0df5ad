"""Untie the knots: nothing of the source is lost, the answers are right, and what is no target is none.

Claim: removing the inserted tokens restores the documents exactly, and every backtrace answer is correct.
"""

import dataclasses

import numpy as np
import pytest

from dots_jax.config import ModelConfig, Stage, Untie, UserError, check_ids
from dots_jax.data.sequences import packing
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.data.sequences.packing import FEATURES, pack
from dots_jax.data.sequences.untie import ID_CHARACTERS, Marks, Untier, alphabet_of
from dots_jax.data.sources import text_task

EOS, FIRST = 1, 300
T = 512
UNTIE = Untie(first_id=FIRST, probability=1.0, reserve=0.4)
VARIANTS = {
    "published": {},
    "two": {"max_chunks": 2},
    "many": {"min_chunks": 3, "max_chunks": 6, "reserve": 0.6},
    "any order": {"keep_order": False},
    "no backtrace": {"backtrace": False},
    "neither": {"keep_order": False, "backtrace": False},
    "tight": {"reserve": 0.13},
}


def untier(untie=UNTIE, seq_len=T, seed=0, salt="long"):
    return Untier(untie, seq_len, text_task.BYTES, seed, salt)


def window(rng, size, short=False):
    """A packed window of random documents, of which the first and the last may be cut, and the documents in it."""
    documents, total = [], 0
    while total < size + 1:
        length = int(rng.integers(1, 6 if short else 200))
        documents.append(np.append(rng.integers(3, 259, length), EOS))
        total += length + 1
    stream = np.concatenate(documents)
    ends = np.cumsum([len(document) for document in documents]) - 1
    start = int(rng.integers(0, len(documents[0])))
    tokens = stream[start : start + size]
    inside = ends[(ends >= start) & (ends < start + size)] - start
    if len(tokens) < size:
        size = len(tokens)
    row = pack(np.concatenate([[EOS], tokens]), inside, UNTIE.window(T) if size > T else size)
    return row, [part for part in np.split(tokens, inside + 1) if len(part)]


def windows(untie, count=40):
    for trial in range(count):
        rng = np.random.default_rng([trial, untie.max_chunks])
        yield trial, *window(rng, untie.window(T), short=trial % 4 == 0)


def read(targets, weights, untie):
    """Chunks [(id or None, knot before, tokens, knot after)], answers [[id]], and the weights that the rules give."""
    marks = Marks.of(untie)
    chunks, answers, expected, i = [], [], [], 0
    targets = targets.tolist()

    def take(count, weight):
        nonlocal i
        taken = targets[i : i + count]
        i += count
        expected.extend([weight] * count)
        return taken

    while i < len(targets):
        if targets[i] == marks.open_answer:
            take(1, 0)
            names = [tuple(take(ID_CHARACTERS, 1))]
            while take(1, 1) == [marks.next_id]:
                names.append(tuple(take(ID_CHARACTERS, 1)))
            assert targets[i - 1] == marks.close_answer
            answers.append(names)
            continue
        name = before = after = None
        if targets[i] == marks.open_id:
            take(1, 0)
            name = tuple(take(ID_CHARACTERS, 0))
            assert take(1, 0) == [marks.close_id]
        if targets[i] in marks.knots:
            (before,) = take(1, 0)
        tokens = take(1, 0 if before is not None else 1)
        while i < len(targets) and targets[i] < FIRST and tokens[-1] != EOS:
            tokens += take(1, 1)
        if i < len(targets) and targets[i] in marks.knots:
            (after,) = take(1, 0)
        chunks.append((name, before, tokens, after))
    np.testing.assert_array_equal(weights, expected)
    return chunks, answers


@pytest.mark.parametrize("variant", VARIANTS)
def test_sorting_the_chunks_gives_back_the_documents(variant):
    untie = dataclasses.replace(UNTIE, **VARIANTS[variant])
    cut = 0
    for index, row, documents in windows(untie):
        one = untier(untie)
        rng = np.random.default_rng(index)
        ends = np.cumsum([len(document) for document in documents])
        chunks = one.shuffle(one.cut(ends, rng), rng)
        source = np.concatenate(documents)
        assert (
            chunks[-1].document == len(documents) - 1 and chunks[-1].number == chunks[-1].of - 1
        )  # the last stays last
        for number, document in enumerate(documents):
            own = [chunk for chunk in chunks if chunk.document == number]
            if untie.keep_order:
                assert own == sorted(own, key=lambda chunk: chunk.number)
            own = sorted(own, key=lambda chunk: chunk.number)
            cut += len(own) > 1
            assert len(own) == 1 or untie.min_chunks <= len(own) <= untie.max_chunks
            assert [chunk.number for chunk in own] == list(range(own[0].of)) and all(c.end > c.start for c in own)
            np.testing.assert_array_equal(np.concatenate([source[c.start : c.end] for c in own]), document)
        assert row["weights"].sum() == len(source)
    assert cut > 20


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "backtrace" not in VARIANTS[name]])
def test_the_text_alone_says_how_to_put_it_together(variant):
    """Read as a model does: ids and knots tell which chunks belong together, and masks follow from the text."""
    untie = dataclasses.replace(UNTIE, **VARIANTS[variant])
    marks = Marks.of(untie)
    for index, row, documents in windows(untie):
        out = untier(untie).row(row, index)
        n = int((out["segments"] > 0).sum())
        chunks, answers = read(out["targets"][:n], out["weights"][:n], untie)
        by_name = {chunk[0]: chunk for chunk in chunks if chunk[0]}
        assert len(by_name) == sum(len(names) for names in answers)  # every cut chunk is asked for, once
        rebuilt = [chunk[2] for chunk in chunks if chunk[0] is None]
        for names in answers:
            parts = [by_name[name] for name in names]
            for place, (_, before, _, after) in enumerate(parts):  # in the order of the document
                assert before == (marks.knots[2 * place - 1] if place else None)
                assert after == (marks.knots[2 * place] if place < len(parts) - 1 else None)
            rebuilt.append(sum((part[2] for part in parts), []))
        assert sorted(rebuilt) == sorted(document.tolist() for document in documents)


def test_attention_spans_the_sequence_and_inputs_are_the_targets_shifted():
    for index, row, _ in windows(UNTIE):
        out = untier().row(row, index)
        n = int((out["segments"] > 0).sum())
        assert n <= T and (out["segments"][:n] == 1).all()
        np.testing.assert_array_equal(out["positions"][:n], np.arange(n))
        np.testing.assert_array_equal(out["tokens"][:n], np.concatenate([[EOS], out["targets"][: n - 1]]))
        assert all(not values[n:].any() for values in out.values())
        assert all(out[name].dtype == dtype and out[name].shape == (T,) for name, dtype in FEATURES.items())


def test_answers_follow_the_last_chunk_of_their_document():
    for index, row, _ in windows(UNTIE, 10):
        out, marks = untier().row(row, index), Marks.of(UNTIE)
        targets = out["targets"][: int((out["segments"] > 0).sum())].tolist()
        open_names = {
            tuple(targets[i + 1 : i + 1 + ID_CHARACTERS]): i for i, t in enumerate(targets) if t == marks.open_id
        }
        for i in (i for i, t in enumerate(targets) if t == marks.open_answer):
            first = tuple(targets[i + 1 : i + 1 + ID_CHARACTERS])
            after = i + 1 + ID_CHARACTERS
            names = [first]
            while targets[after] == marks.next_id:
                names.append(tuple(targets[after + 1 : after + 1 + ID_CHARACTERS]))
                after += 1 + ID_CHARACTERS
            last = max(open_names[name] for name in names)
            between = targets[last:i]
            assert all(open_names[name] < i for name in names) and marks.open_id not in between[1:]


def test_one_document_by_hand():
    one = untier(dataclasses.replace(UNTIE, min_chunks=3))
    rng = np.random.default_rng(0)
    ((a, b, c),) = one.cut(np.array([9]), rng)
    assert (a.start, c.end, a.end, b.end) == (0, 9, b.start, c.start)
    marks = Marks.of(UNTIE)
    assert dataclasses.astuple(marks) == ((300, 301, 302, 303), 304, 305, 306, 307, 308)
    targets, counts = one.write(np.arange(10, 19), np.ones(9), [b, a, c], rng)
    text = [t if t >= 10 else t for t in targets.tolist()]
    names = {}
    for chunk in (b, a, c):  # read the ids from the text
        at = text.index(304)
        names[chunk.number] = text[at + 1 : at + 7]
        text[at] = -1
    expected, weights = [], []
    for chunk in (b, a, c):
        body = list(range(10 + chunk.start, 10 + chunk.end))
        expected += [304, *names[chunk.number], 305, *([299 + 2 * chunk.number] if chunk.number else []), *body]
        weights += [0] * 8 + [0] * bool(chunk.number) + [int(not chunk.number)] + [1] * (len(body) - 1)
        if chunk.number < 2:
            expected.append(300 + 2 * chunk.number)
            weights.append(0)
    expected += [306, *names[0], 307, *names[1], 307, *names[2], 308]
    weights += [0] + [1] * 21
    assert targets.tolist() == expected
    assert counts.tolist() == weights
    assert len(expected) == 9 + one.cost(3)


def test_deterministic_and_another_for_every_index():
    ((_, row, _),) = windows(UNTIE, 1)
    rows = [untier().row(row, index)["targets"].tolist() for index in range(8)]
    assert [untier().row(row, index)["targets"].tolist() for index in reversed(range(8))] == rows[::-1]
    assert len({tuple(r) for r in rows}) == 8
    assert untier(seed=1).row(row, 0)["targets"].tolist() != rows[0]
    assert untier(salt="other").row(row, 0)["targets"].tolist() != rows[0]


def test_targets_that_do_not_count_stay_so():
    """As in conversations, where only the answers are learnt."""
    for index, row, _ in windows(UNTIE, 10):
        plain = untier().row(row, index)
        silent = untier().row(row | {"weights": np.zeros_like(row["weights"])}, index)
        np.testing.assert_array_equal(silent["targets"], plain["targets"])
        marks = Marks.of(UNTIE)
        answer, inside = [], False
        for target in plain["targets"].tolist():
            answer.append(inside)
            inside = (inside or target == marks.open_answer) and target != marks.close_answer
        np.testing.assert_array_equal(silent["weights"], plain["weights"] * answer)
        assert silent["weights"].any()


def test_the_probability_is_that_of_a_sequence():
    untie = dataclasses.replace(UNTIE, probability=0.8)
    ((_, row, _),) = windows(untie, 1)
    one = untier(untie)
    plain = packing.empty(T)
    for name, values in row.items():
        plain[name][: len(values)] = values
    knotted = 0
    for index in range(1000):
        out = one.row(row, index)
        left_alone = all((out[name] == plain[name]).all() for name in FEATURES)
        assert left_alone or (out["segments"] <= 1).all()
        knotted += not left_alone
    assert abs(knotted - 800) < 50


TEXTS = [f"document {i}: " + "abcdefghij" * (i % 40) for i in range(80)]


@pytest.fixture(scope="module")
def notes():
    import seqio

    text_task.register_text_task("untie_notes", {"train": TEXTS})
    yield "untie_notes"
    seqio.TaskRegistry.remove("untie_notes")


def test_probability_0_is_the_plain_packing(notes, tmp_path):
    def open_(untie):
        return MixtureSequences(notes, 128, seed=0, cache_dir=tmp_path, salt="long", untie=untie)

    plain, none = open_(None), open_(dataclasses.replace(UNTIE, probability=0.0))
    assert plain.windows == none.windows
    for name, values in plain.rows(range(20)).items():
        np.testing.assert_array_equal(values, none.rows(range(20))[name])


def test_a_pass_over_the_source_holds_each_of_its_tokens_once(notes, tmp_path):
    untie = dataclasses.replace(UNTIE, probability=0.8, reserve=0.5)
    sequences = MixtureSequences(notes, 128, seed=0, cache_dir=tmp_path, salt="long", untie=untie)
    assert sequences.windows[notes] == -(-sequences.tokens[notes] // 64)
    near = range(sequences.windows[notes] + 8)  # the order shuffles blocks of 8, so a pass may end a little later
    batch = sequences.rows([index for index in near if sequences._order.place(index).epoch == 0])
    marks, letters = Marks.of(untie), []
    for targets, segments in zip(batch["targets"], batch["segments"]):
        targets, inside = targets[segments > 0].tolist(), False
        for target in targets:  # without ids and marks
            inside = {
                marks.open_id: True,
                marks.open_answer: True,
                marks.close_id: False,
                marks.close_answer: False,
            }.get(target, inside)
            letters += [target] if target < FIRST and not inside else []
    complete = np.concatenate(
        [np.append(np.frombuffer(text.encode(), np.uint8).astype(int) + 3, EOS) for text in TEXTS]
    )
    np.testing.assert_array_equal(np.bincount(letters), np.bincount(complete))
    assert (batch["targets"] >= FIRST).any()


def test_mistakes():
    model = ModelConfig(vocab_size=268)
    check_ids("Stage 'long'", Untie(first_id=259), 259, model)
    for first, size in ((258, 259), (260, 259)):
        with pytest.raises(
            UserError, match="must lie outside the vocabulary.*set Untie.first_id to 259 and vocab_size to 268"
        ):
            check_ids("Stage 'long'", Untie(first_id=first), size, model)
    with pytest.raises(
        UserError, match="keeps 6 of 512 tokens free, but cutting one document inserts 33: raise it to 0.064"
    ):
        untier(dataclasses.replace(UNTIE, reserve=0.01))
    for fields in ({"probability": 1.5}, {"min_chunks": 1}, {"min_chunks": 4}, {"reserve": 0.0}, {"reserve": 1.0}):
        with pytest.raises(UserError, match="Untie"):
            dataclasses.replace(UNTIE, **fields)
    with pytest.raises(UserError, match="reserve leaves no room"):
        Stage(
            name="long", tokens=10, mixture="m", seq_len=2, batch_tokens=((0, 2),), learning_rate_start=1.0,
            learning_rate_end=1.0, untie=dataclasses.replace(UNTIE, reserve=0.9),
        )  # fmt: skip


def test_ids_are_written_with_letters_and_digits_of_the_vocabulary():
    assert alphabet_of(text_task.BYTES) == sorted(ord(c) + 3 for c in "0123456789" + "".join(map(chr, range(65, 91))) + "".join(map(chr, range(97, 123))))  # fmt: skip # noqa: E501

    class Deaf:
        def encode(self, text):
            return [2]

    with pytest.raises(UserError, match="Deaf writes only 1 of the 62 differently"):
        alphabet_of(Deaf())
