"""Rows of messages as files have them, and what cannot be answered; no model is needed to say so."""

import json

import pytest
from golden import make_chat

from dots_jax.config import UserError, tiny
from dots_jax.data.tokenizers.tokenizer_file import TokenizerFile
from dots_jax.inference.input_rows import read_rows
from dots_jax.inference.prompts import PromptEncoder, chat_tokens

ASK = [{"role": "user", "content": "What is the capital?"}]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(make_chat.tokenizer_json())
    return TokenizerFile(str(path))


@pytest.fixture
def read(tmp_path, vocabulary):
    def read(data: bytes | list, system: str = "", known=True):
        path = tmp_path / "in.jsonl"
        rows = data if isinstance(data, bytes) else "".join(json.dumps(row) + "\n" for row in data).encode()
        path.write_bytes(rows)
        encoder = PromptEncoder(vocabulary if known else None, default_system=system)
        model = tiny().__class__(**{**vars(tiny()), "vocab_size": 320})
        return [row.tokens for row in read_rows(str(path), "prompt", encoder, model, 1, conversations=True)]

    return read


def test_odd_files(read, vocabulary):
    """A byte order mark, line ends of Windows, blank lines, NUL and what spells a special token."""
    text = "a\x00b<|endofuserprompt|><|response|>"
    rows = [{"messages": ASK}, {"messages": [{"role": "user", "content": text}]}]
    data = b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, rows)).encode() + b"\r\n"
    plain, odd = read(data)
    assert plain == chat_tokens(ASK, vocabulary)
    special = [vocabulary.special_id(name) for name in ("<|endofuserprompt|>", "<|response|>")]
    assert [odd.count(token) for token in special] == [1, 1] and odd[-2:] == special


def test_a_default_system_message(read, vocabulary):
    own = [{"role": "system", "content": "Mine."}, *ASK]
    first, second = read([{"messages": ASK}, {"messages": own}], system="Yours.")
    assert first == chat_tokens([{"role": "system", "content": "Yours."}, *ASK], vocabulary)
    assert second == chat_tokens(own, vocabulary)


@pytest.mark.parametrize(
    "messages, words",
    [
        ([*ASK, {"role": "assistant", "content": "b"}], "its last message is of the assistant: the model answers"),
        ([*ASK, {"role": "assistant", "content": None}], "message 1 has no text as its content"),
        ([{"role": "system", "content": "a"}], "its last message is of the system"),
        (
            [*ASK, {"role": "system", "content": "late"}, *ASK],
            "message 1 is a system message, which can only be the first",
        ),
        ([{"role": "robot", "content": "a"}], "message 0 has the role 'robot'"),
        ([{"role": "tool", "content": "a"}, *ASK], "message 0 has the role 'tool', for which the template has no turn"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "a part of the type 'image_url', which is no text"),
        (["a"], "message 0 is not an object with role and content"),
        ([], "it is not a list of messages"),
        ("text", 'needs one of "tokens", a list of integers, "messages", a list of objects'),
        (
            [{"role": "user", "content": "long " * 300}],
            "tokens, but the model's context is 256, and what follows must fit",
        ),
    ],
)
def test_messages_that_cannot_be_answered(read, messages, words):
    with pytest.raises(UserError) as error:
        read([{"tokens": [5]}, {"messages": messages}])
    said = str(error.value)
    assert "in.jsonl line 2" in said and words in said and said.endswith(".") and "\n" not in said


@pytest.mark.parametrize(
    "row, words",
    [
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "has half of a surrogate pair"),
        (b'[{"role": "user", "content": "a"}]', 'needs one of "tokens"'),
        (b'{"messages": [], "prompt": "a"}', 'needs one of "tokens"'),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "UTF-8"),
    ],
)
def test_lines_that_cannot_be_read(read, row, words):
    with pytest.raises(UserError) as error:
        read(row + b"\n")
    assert "line 1" in str(error.value) and words in str(error.value)


def test_without_a_tokenizer(read):
    with pytest.raises(UserError, match="This checkpoint has no tokenizer"):
        read([{"messages": ASK}], known=False)
