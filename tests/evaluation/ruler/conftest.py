"""Texts of RULER's published forms, made up: essays, SQuAD, HotpotQA."""

import json
import random

import pytest

WORDS = "the sea was calm and a small boat came slowly home with fish for all who waited on its old stone pier".split()


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


@pytest.fixture(scope="session")
def ruler_data(tmp_path_factory) -> str:
    rng, data = random.Random(0), tmp_path_factory.mktemp("ruler_data")
    folder = data / "ruler"
    folder.mkdir()
    text = " ".join(sentence(rng, rng.randint(5, 12)) for _ in range(120))
    (folder / "PaulGrahamEssays.json").write_text(json.dumps({"text": text}))
    paragraph = lambda n: {
        "context": f"Paragraph {n}. {sentence(rng, rng.randint(4, 60))}",
        "qas": [
            {"question": f"What is number {n}?", "answers": [{"text": f"{n}"}, {"text": f"no. {n}"}], "is_impossible": False},
            {"question": "What is not here?", "answers": [], "is_impossible": True},
        ],
    }  # fmt: skip
    articles = [{"paragraphs": [paragraph(10 * article + n) for n in range(10)]} for article in range(4)]
    (folder / "squad.json").write_text(json.dumps({"data": articles}))
    rows = [
        {"question": f"Which is {n}?", "answer": f"answer {n}",
         "context": [[f"Title {n} {i}", [sentence(rng, rng.randint(4, 20)), " More."]] for i in range(10)]}
        for n in range(8)
    ]  # fmt: skip
    (folder / "hotpotqa.json").write_text(json.dumps(rows))
    return str(data)
