"""A byte model of random weights, and files of a few rows in the published forms."""

import json

import pytest
from two_steps import save_two_steps


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """Of steps 1 and 2, which have other weights."""
    return save_two_steps(str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data")
    files = {
        "mmlu/test/art_test.csv": "".join(f"Which is {n}?,{n},5,6,7,A\n" for n in range(5)),
        "mmlu/dev/art_dev.csv": "Is it?,yes,no,both,none,B\n",
        "gsm8k/test.jsonl": "".join(json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(3)),
        "gsm8k/train.jsonl": json.dumps({"question": "1 + 1?", "answer": "One and one. #### 2"}) + "\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)
