"""Ranking: which tokens are scored, and their log-probabilities.

Claim: the log-likelihood of a choice is the sum over its tokens behind the prompt, as `dots score` gives them, with the
  prompt fed once for all items.
"""

import json

import pytest

from dots_jax.cli.main import main
from dots_jax.evaluation.suite.requests import encode_pair

MERGES = {
    "Answer": 1,
    " B": 2,
    " A": 3,
    "An": 4,
    "swer": 5,
    ": C": 6,
    ":": 7,
    " C": 8,
    " ": 9,
    "B": 10,
    "is": 11,
    "是": 12,
}


def encode(text: str) -> list[int]:
    """The longest piece first, from the left: boundaries merge, as in a trained tokenizer."""
    ids = []
    while text:
        piece = next(text[:n] for n in range(len(text), 0, -1) if text[:n] in MERGES)
        ids.append(MERGES[piece])
        text = text[len(piece) :]
    return ids


@pytest.mark.parametrize(
    ("prompt", "choice", "tokens", "begin"),
    [
        ("is", " B", [11, 2], 1),
        ("is ", "B", [11, 2], 1),  # the blank belongs to the choice
        ("An", "swer", [1], 1),  # the choice merged into the prompt's token
        ("is:", " C", [11, 6], 1),  # ": C" is one token, of which the choice is a part
        ("", " A", [99, 3], 1),
        (" ", "A", [99, 3], 1),
        ("是", " A", [12, 3], 1),
    ],
)
def test_where_a_choice_begins(prompt, choice, tokens, begin):
    found, start = encode_pair(prompt, choice, encode, 99)
    if prompt == "An":
        tokens = [99, 1]  # nothing of the prompt is before it
    assert (found, start) == (tokens, begin)


def test_choices_score_as_their_tokens_do_alone(checkpoint, data, tmp_path):
    flags = (f"--checkpoint={checkpoint}", f"--data={data}", f"--output={tmp_path / 'out'}", "--rows=mmlu", "--limit=3")
    assert main(["evaluate", "--suite=table2", *flags, "--ranking"]) == 0
    found = [json.loads(line) for line in (tmp_path / "out/items.jsonl").read_text().splitlines()]
    ranked = [line for line in found if line["mode"] == "ranking"]
    assert len(found) == 6 and len(ranked) == 3
    about = "The following are multiple choice questions (with answers) about art.\n\n"
    shot = "Is it?\nA. yes\nB. no\nC. both\nD. none\nAnswer: B\n\n"
    texts = [
        f"{about}{shot}Which is {n}?\nA. {n}\nB. 5\nC. 6\nD. 7\nAnswer: {letter}" for n in range(3) for letter in "ABCD"
    ]
    (tmp_path / "in").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert (
        main(["score", f"--checkpoint={checkpoint}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 's'}"]) == 0
    )
    alone = [sum(json.loads(line)["logprobs"][-2:]) for line in (tmp_path / "s").read_text().splitlines()]
    for n, line in enumerate(ranked):
        assert line["logprobs"] == pytest.approx(alone[4 * n : 4 * n + 4], abs=1e-4)
        assert line["choice"] == max(range(4), key=alone[4 * n : 4 * n + 4].__getitem__)
        assert line["score"] == (line["choice"] == 0)
    row = json.loads((tmp_path / "out/results.json").read_text())["rows"]["mmlu"]
    assert row["ranked"]["score"] == pytest.approx(100 * sum(line["score"] for line in ranked) / 3, abs=1e-3)
