"""Records of conversations in the shapes of public data sets: twenty golden files of invented rows.

Claim: records in the shapes of twenty public data sets of conversations become the expected messages, byte for byte.

    python -m tests.data.test_conversation_formats      # writes the expected lines again; read the difference
"""

import json
from pathlib import Path

import pytest

from dots_jax.config import Source, UserError
from dots_jax.config.records import RecordRule
from dots_jax.data.sources.conversations import formats
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import format_of, numbered_texts

GOLDEN = Path(__file__).parents[1] / "golden" / "conversations"
FILES = sorted(path for path in GOLDEN.iterdir() if not path.name.endswith(".expected"))
EXPLICIT = {
    "openai": "messages", "sharegpt": "sharegpt", "alpaca": "alpaca", "belle_multiturn": "belle", "moss": "moss",
    "coig_exam": "coig", "coig_conversations": "coig", "oasst_trees": "oasst", "dolly": "dolly", "gsm8k": "gsm8k",
    "trl_prompt_completion": "prompt_completion",
}  # fmt: skip


def lines(path, rule):
    """Of each record a line: what is learned (+) or given, or why it is left out; and what is noted of it."""
    shown = []
    for number, text in numbered_texts(path, rule, conversations=True):
        if isinstance(text, Malformed):
            shown.append(json.dumps([number, "left out", text.reason], ensure_ascii=False))
            continue
        found = formats.from_text(text)
        turns = [[("+" if one["learn"] else "") + one["role"], one["content"]] for one in found.messages]
        noted = [one for one in found.noted if "format = 'auto'" not in one]
        shown.append(json.dumps([number, turns, noted], ensure_ascii=False))
    return "\n".join(shown) + "\n"


def test_there_are_twenty_of_at_most_five_rows():
    assert len(FILES) == 20
    assert all(expected(path).count("\n") <= 5 for path in FILES)


def expected(path):
    return path.with_suffix(".expected").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path):
    assert lines(path, RecordRule(format="auto")) == expected(path)
    if path.stem in EXPLICIT:
        assert lines(path, RecordRule(format=EXPLICIT[path.stem])) == expected(path)


def test_auto_names_what_it_took(tmp_path):
    assert format_of(GOLDEN / "role_content_conversations.jsonl") == ("messages", "conversations")
    (tmp_path / "a.jsonl").write_text('{"title": "x", "body": "y"}\n')
    with pytest.raises(UserError, match="fields are title, body: set it to one of messages, sharegpt.*field_map"):
        list(numbered_texts(tmp_path / "a.jsonl", RecordRule(format="auto"), conversations=True))


def test_a_map_of_fields(tmp_path):
    rows = [
        {"meta": {"sys": "Be brief."}, "q": "Hi", "a": "Hello."},
        {"q": "Bye", "a": "See you."},
        {"q": "x", "a": " "},
        {"a": "x"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(
        name="mine",
        files=(("train", f"{tmp_path}/a.jsonl"),),
        field_map=(("system", "meta.sys"), ("user", "q"), ("assistant", "a")),
    )
    assert source.kind == "conversation"
    (files,) = source.file_sets()["train"]
    assert lines(tmp_path / "a.jsonl", files.rule).splitlines() == [
        '[1, [["system", "Be brief."], ["user", "Hi"], ["+assistant", "Hello."]], []]',
        '[2, [["user", "Bye"], ["+assistant", "See you."]], []]',
        '[3, "left out", "field \'a\' is empty"]',
        '[4, "left out", "no field \'q\'"]',
    ]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_key_that_stands_twice(tmp_path, ending):
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    twice = good.replace('"content": "b"', '"content": "b", "content": "c"')
    records = [good, twice, good]
    path = tmp_path / f"a.{ending}"
    path.write_text("[" + ",\n".join(records) + "]" if ending == "json" else "\n".join(records) + "\n")
    found = list(numbered_texts(path, RecordRule(format="messages"), conversations=True))
    assert [number for number, one in found if isinstance(one, Malformed)] == [2]
    assert found[1][1].reason == "a key stands twice in an object" and "'content'" in found[1][1].shown


def test_parquet_has_null_for_what_is_not_there(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [json.loads(line) for line in (GOLDEN / "openai.jsonl").read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert lines(tmp_path / "a.parquet", RecordRule(format="auto")) == expected(GOLDEN / "openai.jsonl")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"format": "vicuna"}, "format must be one of messages, sharegpt"),
        ({"format": "field_map"}, "needs field_map"),
        ({"field_map": (("user", "q"),)}, "with one of assistant at least"),
        ({"field_map": (("user", "q"), ("system", "s"), ("assistant", "a"))}, "the first alone"),
        ({"format": "auto", "field": "talk"}, "leave out field"),
        ({"format": "alpaca", "field_map": (("assistant", "a"),)}, "needs field_map"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        Source(name="mine", files=(("train", "a.jsonl"),), **settings)


if __name__ == "__main__":
    for one in FILES:
        one.with_suffix(".expected").write_text(lines(one, RecordRule(format="auto")))
