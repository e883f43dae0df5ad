"""Records of other kinds than text that cannot be used: the same rule for all, with file, line and the user's own field."""

import json

import pytest
from golden import make_chat
from registered import gone_afterwards
from test_cache_command import add_task, command, sentence

from dots_jax.data.cache.token_cache import open_stream


@pytest.fixture(autouse=True)
def tasks():
    with gone_afterwards():
        yield


def test_one_bad_conversation(tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text(make_chat.tokenizer_json())
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": talk} for _ in range(300)]
    rows[123] = {"messages": [talk[0], {"role": "assistant", "content": None}]}
    rows[200] = {"conversation": talk}
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    declared = ("CacheConfig.tasks = ('talk',)", "DataConfig.sources = (@Source(),)", "Source.name = 'talk'",
                f"Source.files = (('train', '{tmp_path}/*.jsonl'),)", "Source.kind = 'conversation'",
                "Source.field = 'messages'", f"DataConfig.tokenizer = '{tmp_path}/tokenizer.json'")  # fmt: skip
    assert command(tmp_path / "c", *declared) == 0
    manifest = open_stream("talk", "train", tmp_path / "c").manifest
    assert manifest.documents == 298 and manifest.malformed == {
        "in field 'messages' a message has no text as its content": 1, "no field 'messages'": 1
    }  # fmt: skip
    (samples,) = tmp_path.rglob("malformed.jsonl")
    shown = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: row["line"])
    assert [(row["file"], row["line"], row["field"]) for row in shown] == [
        ("talk.jsonl", 124, "messages"), ("talk.jsonl", 201, "messages")
    ]  # fmt: skip
    assert shown[0]["begins"].startswith("message 1 has no text as its content")
    said = sentence(capsys, tmp_path / "d", *declared, "CacheConfig.max_malformed = 0.001")
    assert "2 of 300 records" in said and "talk.jsonl is line" in said and "'messages'" in said


def test_nothing_of_a_conversation_is_silent(tmp_path, capsys):
    """What cannot be learned from is left out by reason, and what is learned otherwise than it stood is counted by name."""
    (tmp_path / "tokenizer.json").write_text(make_chat.tokenizer_json())
    human, gpt = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
    rows = [{"conversations": [human, gpt]} for _ in range(390)]
    rows += [{"conversations": [human, human, gpt]}] * 4 + [{"conversations": [gpt, human, gpt | {"weight": 1}]}] * 2
    rows += [{"conversations": [human, gpt, human]}] + [{"conversations": [human, {"from": "tool", "value": "3"}, gpt]}]
    rows += [{"conversations": [human, gpt | {"value": ""}]}, {"conversations": [human]}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "talk.jsonl").write_text(text)
    declared = ("CacheConfig.tasks = ('talk',)", "DataConfig.sources = (@Source(),)", "Source.name = 'talk'",
                f"Source.files = (('train', '{tmp_path}/talk.jsonl'),)", "Source.format = 'auto'",
                f"DataConfig.tokenizer = '{tmp_path}/tokenizer.json'")  # fmt: skip
    assert command(tmp_path / "c", *declared) == 0
    said = capsys.readouterr()
    assert "talk.jsonl has conversations of format 'sharegpt' in the field 'conversations'" in said.err
    assert "4 conversations: two messages of user in a row" in said.out
    manifest = open_stream("talk", "train", tmp_path / "c").manifest
    assert manifest.documents == 397 and manifest.malformed == {
        "in field 'conversations' a message is of a tool, which the template lacks": 1,
        "in field 'conversations' every answer is empty": 1,
        "in field 'conversations' it has no turn of the assistant, so there is nothing to learn": 1,
    }  # fmt: skip
    assert manifest.noted == {
        "an answer before the first question is not learned": 2,
        "format sharegpt in field 'conversations', as format = 'auto' took it": 397,
        "the last message is the user's": 1,
        "two messages of user in a row": 4,
    }
    (samples,) = tmp_path.rglob("malformed.jsonl")
    shown = [json.loads(line) for line in samples.read_text().splitlines()]
    assert sorted(row["line"] for row in shown) == [398, 399, 400]
    lost = [json.dumps({"conversations": [human, gpt | {"value": None}]})] * 3 + ["{"] * 2 + ["[]"]
    (tmp_path / "talk.jsonl").write_text(text + "\n".join(lost) + "\n")
    said = sentence(capsys, tmp_path / "d", *declared)
    assert (
        "9 of 406 records of split 'train' are malformed, more than CacheConfig.max_malformed = 0.01 allows: " in said
    )
    assert "3 times in field 'conversations' a message has no text as its value, 2 times not JSON, 1 times in" in said
    assert "3 for other reasons" in said and "talk.jsonl is line 401" in said and "\n" not in said


def test_structs_are_no_text(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": [{"path": "x.py", "content": "pass"}]}\n' * 3)
    add_task(tmp_path / "a.jsonl")
    assert "field 'text' is a list of objects and no text in a.jsonl, line 1" in sentence(capsys, tmp_path / "c")
