"""Text as it comes: complete characters, cut off where a stop string begins."""

from types import SimpleNamespace

from dots_jax.inference.text import RowText, stop_ids

BYTES = [bytes([i]) for i in range(256)]


def shown(text: str, *stop: str) -> tuple[list[str], RowText]:
    row, parts = RowText(BYTES, stop), []
    for byte in text.encode():
        row.add([byte])
        parts.append(row.show())
    row.end()
    return [*parts, row.show(ended=True)], row


def test_characters_are_shown_when_they_are_whole():
    parts, row = shown("aé你🦊")
    assert [p for p in parts if p] == list("aé你🦊") and parts[2] == "é" and parts[1] == ""
    row = RowText(BYTES)
    row.add("🦊".encode()[:2])
    assert row.show() == ""
    row.end()
    assert row.show(ended=True) == "\ufffd"


def test_what_may_become_a_stop_string_waits():
    parts, row = shown("a STOPX", "STOPY", "\n\n")
    assert parts[:3] == ["a", " ", ""] and "".join(parts) == "a STOPX" and not row.stopped
    parts, row = shown("one\n\ntwo", "STOP", "\n\n")
    assert "".join(parts) == row.text == "one" and row.stopped and row.kept == 5
    parts, row = shown("abab", "bab")  # overlaps with itself
    assert row.text == "a"
    parts, row = shown("ends ST", "STOP")
    assert "".join(parts) == "ends ST"


def test_several_tokens_at_once_and_ids_without_text():
    row = RowText([b"", b"he", b"llo"], ["lo"])
    row.add([1, 0, 7, 2, 1])
    assert (row.text, row.kept, row.stopped) == ("hel", 4, True)


def test_ids_that_end_a_text():
    def special_id(name):
        return {"<|endofresponse|>": 9}[name]

    assert stop_ids(SimpleNamespace(eos_id=1, special_id=special_id)) == {1, 9}
    assert stop_ids(None) == set()
