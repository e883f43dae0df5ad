"""The files between the steps: questions, samples, and a file that grows and survives a kill."""

import json
import os

import pytest

from dots_jax.config import UserError
from dots_jax.posttraining.appended import open_appended
from dots_jax.posttraining.questions import read_questions
from dots_jax.posttraining.samples import read_samples

TWO = ({"id": "q1", "prompt": "2+2?", "answer": 4}, {"prompt": "3+3?", "answer": "#### 6"})
SAMPLE = {"id": "q1", "sample": 0, "text": "4", "finish_reason": "stop"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_questions(tmp_path):
    first, second = read_questions(write(tmp_path / "q.jsonl", *TWO))
    assert (first.id, first.answer, second.answer) == ("q1", "4", "#### 6")
    assert second.id == second.prompt_sha256  # no id: a hash of the prompt
    (code,) = read_questions(
        write(tmp_path / "c.jsonl", {"problem": "add", "tests": ["assert 1", "assert 2"], "entry_point": "f"})
    )
    assert code.answer is None and code.tests.code == "assert 1\nassert 2" and code.tests.entry_point == "f"


@pytest.mark.parametrize(
    "row, sentence",
    [
        ("[1]", "line 2 is no JSON object: each line is one question"),
        ("{", "line 2 is "),
        ({"prompt": "a"}, "line 2 has no answer: it needs `answer`"),
        ({"prompt": "a", "answer": " "}, "line 2 has no answer"),
        ({"prompt": "a", "answer": True}, "line 2 has no answer"),
        ({"answer": "4"}, "line 2 needs one prompt, in one of messages, prompt, question, problem, but has none"),
        ({"prompt": "a", "problem": "b", "answer": "4"}, "but has prompt and problem"),
        ({"prompt": "", "answer": "4"}, "the last message is no text of the user"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "answer": "4"},
            "line 2 cannot be asked, since in messages",
        ),
        ({"id": "q1", "prompt": "b", "answer": "4"}, "line 2 has the id 'q1' of line 1: ids must differ"),
        ({"id": 1.5, "prompt": "b", "answer": "4"}, "an id is a text or an integer"),
        ({"prompt": "a", "tests": 3}, "tests that are no Python text"),
    ],
)
def test_what_is_no_question(tmp_path, row, sentence):
    with pytest.raises(UserError, match="q.jsonl") as caught:
        read_questions(write(tmp_path / "q.jsonl", TWO[0], row))
    assert sentence in str(caught.value)


def test_no_questions(tmp_path):
    with pytest.raises(UserError, match="has no questions"):
        read_questions(write(tmp_path / "q.jsonl", ""))


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({"id": "other", "sample": 0, "text": "4"}, "is of the question 'other', which is not among --questions"),
        (SAMPLE, "has the id 'q1' and the sample 0 of line 1"),
        (SAMPLE | {"sample": "1"}, "needs `sample`, an integer, and `text`, a text"),
        (SAMPLE | {"sample": 1, "text": "\ud800"}, "half of a surrogate pair"),
        (SAMPLE | {"sample": 1, "prompt_sha256": "0"}, "question 'q1' had another prompt when it was sampled"),
        (SAMPLE | {"sample": 1, "finish_reason": 3}, "has the finish_reason 3"),
    ],
)
def test_what_is_no_sample(tmp_path, row, sentence):
    questions = read_questions(write(tmp_path / "q.jsonl", *TWO))
    with pytest.raises(UserError) as caught:
        read_samples(write(tmp_path / "s.jsonl", SAMPLE, row), questions, uneven=True)
    assert sentence in str(caught.value)


def test_uneven_and_unverified_samples(tmp_path):
    questions = read_questions(write(tmp_path / "q.jsonl", *TWO))
    path = write(tmp_path / "s.jsonl", SAMPLE)
    assert len(read_samples(path, questions, uneven=True)) == 1
    with pytest.raises(UserError, match="has 0 samples where others have 1: finish the sampling, or add --uneven"):
        read_samples(path, questions)
    with pytest.raises(UserError, match="line 1 has no verdict, one of correct, wrong, no_answer, timeout, error"):
        read_samples(path, questions, verified=True, uneven=True)


RECORD = {"command": "test", "seed": 1}
ROWS = [{"n": n} for n in range(10)]


def append(path, upto, stop=None):
    """As a command that dies after `stop` batches of 4."""
    with open_appended(path, RECORD, 4) as file:
        for count, begin in enumerate(range(file.rows, upto, 4)):
            if count == stop:
                return
            file.add(ROWS[begin : begin + 4])
        file.finish()


def test_a_killed_writer_goes_on_at_its_last_batch(tmp_path):
    path = str(tmp_path / "s.jsonl")
    append(path, 10, stop=1)
    assert not os.path.exists(path)
    with open(f"{path}.partial", "ab") as file:
        file.write(b'{"n": 4}\n{"n": 5')  # killed within a batch
    append(path, 10)
    other = str(tmp_path / "other.jsonl")
    append(other, 10)
    with open(path, "rb") as one, open(other, "rb") as two:
        assert one.read() == two.read()
    assert not os.path.exists(f"{path}.partial")
    with open_appended(path, RECORD, 4) as file:
        assert file.complete


def test_what_other_settings_made_is_kept(tmp_path):
    path = str(tmp_path / "s.jsonl")
    append(path, 10, stop=1)
    with (
        pytest.raises(UserError, match=r"was begun with other settings \(seed\): give another --output"),
        open_appended(path, RECORD | {"seed": 2}, 4),
    ):
        pass
    os.remove(f"{path}.run.json")
    with (
        pytest.raises(UserError, match="is there, but not .*run.json, which says what made it"),
        open_appended(path, RECORD, 4),
    ):
        pass
    with (
        pytest.raises(UserError, match="must be a file of this machine"),
        open_appended("gs://bucket/s.jsonl", RECORD, 4),
    ):
        pass
