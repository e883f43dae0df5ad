"""Conversations in sequences: what is too long, how little padding there is, and sessions that see each other.

Claim: no packed sequence holds a learned token without its prompt in front of it, whatever is done with long conversations.
Claim: packing conversations leaves at most 2 % padding for lengths lognormal(median 900, sigma 1) at 4,096 tokens.
"""

import numpy as np
import pytest

from dots_jax.data.sequences.best_fit import best_fit
from dots_jax.data.sequences.conversation_layout import LayoutRule, lay_out
from dots_jax.data.sequences.packing import pack_weighted

SYSTEM, QUESTION, ANSWER, END, EOS = 1, 2, 3, 4, 0
FIRST = 10  # contents are larger ids, each of them once


def conversations(rng, number):
    """Random ones, as (tokens, weights, exchange of each token): systems, answers in a row, answers that are not learned."""
    found, content = [], iter(range(FIRST, 10**9))
    for _ in range(number):
        tokens, weights, exchange = [], [], []

        def say(kind, length, learn, at, tokens=tokens, weights=weights, exchange=exchange):
            tokens.extend([kind, *(next(content) for _ in range(length)), END])
            weights.extend([0, *[int(learn)] * (length + 1)])
            exchange.extend([at] * (length + 2))

        if rng.random() < 0.3:
            say(SYSTEM, int(rng.integers(0, 6)), False, 0)
        for at in range(int(rng.integers(1, 6))):
            for _ in range(int(rng.integers(1, 3))):
                say(QUESTION, int(rng.integers(0, 12)), False, at)
            for _ in range(int(rng.integers(1, 3))):
                say(ANSWER, int(rng.integers(1, 25)), rng.random() < 0.8, at)
        if any(weights):
            found.append((np.array([*tokens, EOS]), np.array([*weights, 0]), np.array([*exchange, at])))
    return found


def rows_of(documents, seq_len, rule):
    tokens, weights = (np.concatenate([one[i] for one in documents]) for i in (0, 1))
    layout = lay_out(
        np.cumsum([len(one[0]) for one in documents]),
        seq_len,
        rule,
        lambda start, length: (tokens[start : start + length], weights[start : start + length]),
        QUESTION,
    )
    rows = []
    for index in range(len(layout)):
        here = slice(*layout.rows[index : index + 2])
        places = np.concatenate(
            [np.arange(s, s + n) for s, n in zip(layout.starts[here], layout.lengths[here], strict=True)]
        )
        ends = (np.cumsum(layout.lengths[here]) - 1)[layout.ends_segment[here]]
        rows.append(pack_weighted(np.append(tokens[places], EOS), np.append(weights[places], 0), ends, seq_len))
    return layout, rows


@pytest.mark.parametrize("too_long", ["drop", "truncate", "split"])
@pytest.mark.parametrize("sessions", [1, 3])
def test_no_learned_token_without_its_prompt(too_long, sessions):
    rng = np.random.default_rng(7)
    for seq_len in (20, 45, 90, 400):
        documents = conversations(rng, 150)
        home = {}  # content token -> (document, place); markers are found by their neighbours
        for number, (tokens, _, _) in enumerate(documents):
            home |= {int(token): (number, place) for place, token in enumerate(tokens) if token >= FIRST}
        layout, rows = rows_of(documents, seq_len, LayoutRule(too_long, sessions))
        learned = 0
        for row in rows:
            for place in np.flatnonzero(row["weights"]):
                segment = np.flatnonzero(row["segments"] == row["segments"][place])
                before = row["tokens"][segment[0] : place + 1].tolist()  # all that the model reads before this target
                # The content of an answer precedes its end token, so one of these is a content token of the document.
                here = int(row["targets"][place])
                number, at = home[here] if here in home else (home[before[-1]][0], home[before[-1]][1] + 1)
                tokens, weights, exchange = documents[number]
                assert weights[at] == 1
                own = tokens[:at].tolist()
                if too_long == "split":
                    own = tokens[:at][exchange[:at] == exchange[at]].tolist()
                    own = own[own.index(QUESTION) :]
                assert before[-len(own) :] == own, (too_long, seq_len)
                learned += 1
        total = sum(int(weights.sum()) for _, weights, _ in documents)
        fits = [weights for _, weights, _ in documents if len(weights) <= seq_len]
        assert learned >= sum(int(weights.sum()) for weights in fits) and (learned == total) == (layout.left_out == {})
        if too_long == "drop":
            assert sum(layout.left_out.values()) == len(documents) - len(fits)


def one(*turns):
    """(length of a message, whether it is learned) of each."""
    tokens, weights = [], []
    for length, learned in turns:
        tokens += [ANSWER if learned else QUESTION, *[FIRST] * length, END]
        weights += [0, *[learned] * (length + 1)]
    return np.array([*tokens, EOS]), np.array([*weights, 0]), None


def test_by_hand():
    talk = one((3, 0), (4, 1), (3, 0), (10, 1))  # 5 + 6 + 5 + 12 and the end token: 29
    assert len(talk[0]) == 29
    cases = {
        ("drop", 28): ([], {"longer than a sequence": 1}),
        ("truncate", 28): ([(0, 28)], {}),
        ("truncate", 27): ([(0, 11)], {"cut behind the last answer that fits": 1}),
        ("truncate", 10): ([], {"longer than a sequence, their first answer included": 1}),
        ("split", 28): ([(0, 11), (11, 18)], {}),
        ("split", 17): ([(0, 11)], {"an exchange longer than a sequence": 1}),
        ("split", 10): ([], {"longer than a sequence, their first answer included": 1}),
    }
    for (too_long, seq_len), (pieces, left_out) in cases.items():
        layout, _ = rows_of([talk], seq_len, LayoutRule(too_long))
        assert sorted(zip(layout.starts.tolist(), layout.lengths.tolist())) == pieces, (too_long, seq_len)
        assert layout.left_out == left_out


def test_sessions_see_each_other_up_to_the_length():
    documents = [one((1, 0), (n, 1)) for n in (1, 2, 3, 30, 1)]  # 7, 8, 9, 36 and 7 tokens
    layout, rows = rows_of(documents, 40, LayoutRule(sessions=2))
    segments = [np.bincount(row["segments"][row["segments"] > 0])[1:].tolist() for row in rows]
    assert segments == [[36], [7 + 8, 9 + 7]]  # in the order of the stream
    row = rows[1]
    for segment in (1, 2):
        here = row["segments"] == segment
        assert row["positions"][here].tolist() == list(range(here.sum()))
    learned = sum(int(row["weights"].sum()) for row in rows)
    assert learned == sum(int(weights.sum()) for _, weights, _ in documents)


def lognormal(number, seed=0):
    lengths = np.exp(np.random.default_rng(seed).normal(np.log(900), 1, number)).astype(int)
    return np.maximum(8, lengths)


@pytest.mark.parametrize("number, too_long", [(2000, "drop"), (50_000, "drop")])
def test_padding(number, too_long):
    lengths = lognormal(number)
    layout = lay_out(np.cumsum(lengths), 4096, LayoutRule(too_long), None, -1)
    real = int(layout.lengths.sum())
    assert real == lengths[lengths <= 4096].sum()
    assert 1 - real / (4096 * len(layout)) <= 0.02
    again = lay_out(np.cumsum(lengths), 4096, LayoutRule(too_long), None, -1)
    np.testing.assert_array_equal(layout.starts, again.starts)


def test_best_fit_places_every_item_once():
    rng = np.random.default_rng(1)
    for _ in range(200):
        seq_len = int(rng.integers(1, 60))
        lengths = rng.integers(1, seq_len + 1, int(rng.integers(1, 80)))
        rows = best_fit(lengths, seq_len)
        held = np.bincount(rows, weights=lengths)
        assert held.min() > 0 and held.max() <= seq_len
        # Any two sequences hold more than one: at most twice as many as needed.
        assert len(held) <= 2 * -(-lengths.sum() // seq_len)
    assert best_fit(np.array([3, 3, 2, 10, 1, 4]), 10).tolist() == [1, 1, 2, 0, 2, 1]
