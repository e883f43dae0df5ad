"""Stages in epochs and mixtures with repeats: every conversation exactly as often as they say.

Claim: a stage of two epochs reads every conversation exactly twice, and its last step has the final learning rate.
"""

import json
from collections import Counter

import numpy as np
import pytest
import seqio
from golden import make_chat
from registered import gone_afterwards
from stage_config import stage

from dots_jax.config import DataConfig, Mixture, Source, UserError
from dots_jax.curriculum.mixture_use import Size, declared_rates, declared_repeats, uses, with_estimated_tokens
from dots_jax.curriculum.stages import Schedule
from dots_jax.curriculum.token_ledger import TokenLedger
from dots_jax.data.corpus import Corpus, StageData
from dots_jax.data.mixtures import register
from dots_jax.data.registry import find_mixture

SEQ_LEN, BATCH = 64, 8
NUMBERS = {"talk": 401, "maths": 37}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("epochs")
    (folder / "tokenizer.json").write_text(make_chat.tokenizer_json())
    for name, number in NUMBERS.items():
        rows = (
            [
                {"role": "user", "content": f"{name} {i}?"},
                {"role": "assistant", "content": f"<{name}{i}>" + "x" * (i % 9)},
            ]
            for i in range(number)
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    data = DataConfig(
        cache_dir=str(folder / "cache"),
        tokenizer=str(folder / "tokenizer.json"),
        sources=tuple(
            Source(name=name, files=(("train", f"{folder}/{name}.jsonl"),), format="messages") for name in NUMBERS
        ),
        mixtures=(
            Mixture(name="phase_one", repeats=(("maths", 3), ("talk", 1))),
            Mixture(name="by_rate", rates=(("maths", 1.0), ("talk", 1.0))),
        ),
    )
    with gone_afterwards():
        register(data)
        yield data


def opened(data, **changes):
    one = stage(
        tokens=0, seq_len=SEQ_LEN, batch_tokens=((0, BATCH * SEQ_LEN),), learning_rate_start=5e-6,
        learning_rate_end=1e-6, learning_rate_shape="cosine", **changes,
    )  # fmt: skip
    corpus = Corpus((StageData(one, find_mixture(one.mixture)),), (), 0, data.cache_dir, {}).with_lengths()
    (found,) = corpus.stages
    return found.stage, corpus.open()


def answers(sequences, steps, vocabulary):
    """How often each answer is learned in the first steps."""
    counts = Counter()
    for row in range(steps * BATCH):
        batch = sequences.rows([row])
        targets, weights = batch["targets"][0], batch["weights"][0]
        for segment in range(1, int(batch["segments"].max()) + 1):
            here = (batch["segments"][0] == segment) & (weights > 0)
            text = vocabulary.decode(targets[here].tolist())
            counts[text[text.index("<") + 1 : text.index(">")]] += 1
    return counts


@pytest.mark.parametrize("sessions", [1, 2])
def test_every_conversation_exactly_twice(data, sessions):
    one, corpus = opened(data, mixture="talk", epochs=2.0, sessions=sessions)
    (sequences,), schedule = corpus.sequences, Schedule((one,))
    assert sequences.length == 2 * sequences.windows["talk"] and sequences.length % BATCH  # the last batch has padding
    assert schedule.num_steps == -(-sequences.length // BATCH)
    if sessions == 1:
        found = answers(
            sequences, schedule.num_steps, seqio.TaskRegistry.get("talk").output_features["targets"].vocabulary
        )
        assert found == Counter({f"talk{i}": 2 for i in range(401)})
    end = sequences.rows(range(sequences.length, schedule.num_steps * BATCH))
    assert all(not values.any() for values in end.values())
    rates = [schedule.at(step).learning_rate for step in range(schedule.num_steps)]
    assert rates[0] == 5e-6 and rates[-1] == pytest.approx(1e-6, rel=1e-12) and rates == sorted(rates, reverse=True)
    ledger = TokenLedger(schedule, corpus.sequences).total(schedule.num_steps)
    (use,) = uses(schedule, corpus.rates, corpus.sizes, declared_repeats(data))
    assert ledger["talk"]["epochs"] == use.epochs == 2.0


def test_repeats_are_exact(data):
    one, corpus = opened(data, mixture="phase_one", epochs=2.0)
    (sequences,), schedule = corpus.sequences, Schedule((one,))
    windows = sequences.windows
    assert sequences.length == 2 * (3 * windows["maths"] + windows["talk"])
    assert sequences.counts(sequences.length) == {"maths": 6 * windows["maths"], "talk": 2 * windows["talk"]}
    found = answers(sequences, schedule.num_steps, find_mixture("phase_one").vocabulary)
    assert found == Counter({f"maths{i}": 6 for i in range(37)} | {f"talk{i}": 2 for i in range(401)})
    used = uses(schedule, corpus.rates, corpus.sizes, declared_repeats(data))
    assert {use.source: use.epochs for use in used} == {"maths": 6.0, "talk": 2.0}
    total = sequences.length / 2
    assert {use.source: use.share for use in used} == {
        "maths": 3 * windows["maths"] / total,
        "talk": windows["talk"] / total,
    }
    ledger = TokenLedger(schedule, corpus.sequences).total(schedule.num_steps)
    assert {source: part["epochs"] for source, part in ledger.items()} == {"maths": 6.0, "talk": 2.0}
    again = opened(data, mixture="phase_one", epochs=2.0)[1].sequences[0]
    for name, values in sequences.rows(range(40)).items():  # a function of (seed, index)
        np.testing.assert_array_equal(values, again.rows(range(40))[name])


def test_half_an_epoch_and_a_first_half_of_repeats(data):
    one, corpus = opened(data, mixture="phase_one", epochs=0.5)
    (sequences,) = corpus.sequences
    pass_length = 3 * sequences.windows["maths"] + sequences.windows["talk"]
    assert sequences.length == -(-pass_length // 2)
    assert abs(sequences.epochs(sequences.length)["maths"] - 1.5) < 0.2


def test_a_plan_before_the_data(data):
    one = stage(tokens=0, epochs=2.0, mixture="phase_one")
    sizes = {"maths": Size(100, exact=False), "talk": Size(1000)}
    (planned,) = with_estimated_tokens((one,), data, sizes)
    assert planned.tokens == 2 * (3 * 100 + 1000)
    rates = declared_rates(data, sizes=sizes)
    assert float(rates["phase_one"]["maths"]) == pytest.approx(3 / 13)
    used = uses(Schedule((planned,)), rates, sizes, declared_repeats(data))
    assert [(use.source, use.epochs) for use in used] == [("maths", 6.0), ("talk", 2.0)]
    with pytest.raises(UserError, match="not known before the size of talk is: make the token cache"):
        with_estimated_tokens((one,), data, {"maths": Size(1)})


def test_mistakes(data):
    with pytest.raises(UserError, match="tokens or epochs must be above 0"):
        stage(tokens=0)
    with pytest.raises(UserError, match="Mixture 'by_rate' has rates, so no number of epochs"):
        opened(data, mixture="by_rate", epochs=1.0)
    with pytest.raises(UserError, match="rates must name at least one task, or repeats"):
        Mixture(name="both", rates=(("a", 1.0),), repeats=(("a", 1),))
    with pytest.raises(UserError, match="'a' must be repeated at least 1 time"):
        Mixture(name="none", repeats=(("a", 0),))
    corpus = Corpus(
        (StageData(stage(tokens=7 * SEQ_LEN, epochs=1.0, mixture="talk", seq_len=SEQ_LEN, batch_tokens=((0, SEQ_LEN),)),
                   find_mixture("talk")),), (), 0, data.cache_dir, {},
    )  # fmt: skip
    with pytest.raises(UserError, match="1 epochs are .* tokens says 448: leave out one of the two"):
        corpus.with_lengths()
    with pytest.raises(UserError, match="all 401 conversations of split 'train' are longer than a sequence of 8"):
        opened_short(data)


def opened_short(data):
    one = stage(tokens=80, mixture="talk", seq_len=8, batch_tokens=((0, 8),))
    return Corpus((StageData(one, find_mixture("talk")),), (), 0, data.cache_dir, {}).open()
