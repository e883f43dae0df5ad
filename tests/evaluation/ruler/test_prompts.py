"""RULER's prompts: their lengths, their answers, and that a prompt depends on its seed and number alone.

Claim: prompt and budget of every RULER task fit the length that is asked for and fill at least 97 % of it.
Claim: the same seed makes the same RULER prompts, byte for byte, whatever number of them is made.
"""

import json
import re

import pytest

from dots_jax.cli.main import main
from dots_jax.config import UserError
from dots_jax.evaluation.ruler.prompts import BUDGETS, NIAH, prompts
from dots_jax.evaluation.tasks.files import Files, NoData

LENGTH = 4096
PIECES = re.compile(r" ?[A-Za-z]{1,4}| ?[0-9]{1,3}|\s|[^\sA-Za-z0-9]")


def pieces(text: str) -> list[str]:
    """About as many tokens as a trained tokenizer makes."""
    return PIECES.findall(text)


def made(task: str, data: str, items: int, seed: int = 0, length: int = LENGTH, encode=pieces):
    return list(prompts(task, Files(data, "ruler"), length, items, seed, encode))


@pytest.mark.parametrize("task", BUDGETS)
def test_prompts_fill_their_length_and_hold_their_answers(task, ruler_data):
    found = made(task, ruler_data, 3)
    assert len(found) == 3 and len({prompt.text for prompt in found}) == 3
    for prompt in found:
        tokens = len(pieces(prompt.text)) + BUDGETS[task]
        assert 0.97 * LENGTH <= tokens <= LENGTH
        assert not prompt.text.endswith(" ") and prompt.outputs
        if not task.startswith("qa"):
            assert all(output in prompt.text for output in prompt.outputs)
    assert found[2] == made(task, ruler_data, 5)[2], "a prompt depends on its number, not on those before it"
    assert made(task, ruler_data, 1, seed=1) != found[:1]


@pytest.mark.parametrize("task", ["niah_single_1", "vt", "fwe", "qa_1"])
def test_other_tokenizers_and_lengths(task, ruler_data):
    for length in (3000, 9000):
        (prompt,) = made(task, ruler_data, 1, length=length, encode=str.encode)
        assert 0.97 * length <= len(prompt.text) + BUDGETS[task] <= length


def test_counts_of_needles_are_those_of_the_original(ruler_data):
    needles = lambda prompt: re.findall(r"One of the special magic \w+ for (\S+) is: (\S+)\.", prompt.text)
    for task, keys, values in (("niah_single_2", 1, 1), ("niah_multikey_1", 4, 1), ("niah_multivalue", 1, 4),
                               ("niah_multiquery", 4, 1)):  # fmt: skip
        (prompt,) = made(task, ruler_data, 1)
        assert len(needles(prompt)) == keys * values and len({key for key, _ in needles(prompt)}) == keys
        assert len(prompt.outputs) == values * NIAH[task].queries
    for task in ("niah_multikey_2", "niah_multikey_3"):
        (prompt,) = made(task, ruler_data, 1)
        assert len(needles(prompt)) > 40 and len({key for key, _ in needles(prompt)}) == len(needles(prompt))
    (prompt,) = made("vt", ruler_data, 1)
    lines = dict(re.findall(r"VAR (\w{5}) = (?:VAR )?(\w+)", prompt.text))
    (value,) = (lines[name] for name in prompt.outputs if lines[name].isdecimal())
    for name in prompt.outputs:
        while not name.isdecimal():
            name = lines[name]
        assert name == value
    (prompt,) = made("cwe", ruler_data, 1)
    listed = re.findall(r"\d+\. (\S+)", prompt.text.rpartition("Memorize")[2])
    assert [listed.count(word) for word in prompt.outputs] == [30] * 10
    assert {listed.count(word) for word in set(listed) - set(prompt.outputs)} == {3}
    (prompt,) = made("fwe", ruler_data, 1)
    text = prompt.text.partition("coded words. ")[2].partition("\nQuestion")[0].split(" ")
    counts = sorted({word: text.count(word) for word in set(text) - {"..."}}.items(), key=lambda pair: -pair[1])
    assert [word for word, _ in counts[:3]] == prompt.outputs and counts[2][1] > counts[3][1]


def test_depths_spread_evenly(ruler_data):
    for task in ("niah_single_1", "niah_multikey_2"):
        depths = [p.text.index(p.outputs[0]) / len(p.text) for p in made(task, ruler_data, 20, length=3000)]
        assert [sum(low <= depth < low + 0.25 for depth in depths) for low in (0, 0.25, 0.5, 0.75)] == pytest.approx(
            [5] * 4, abs=2
        )


def test_the_needed_documents_are_there(ruler_data):
    for task, wanted in (("qa_1", "Paragraph 0."), ("qa_2", "Title 0 7")):
        (prompt,) = made(task, ruler_data, 1)
        assert wanted in prompt.text and "Document 1:\n" in prompt.text and prompt.text.endswith("Answer:")
    assert made("qa_1", ruler_data, 1)[0].outputs == ["0", "no. 0"]
    assert len(made("qa_2", ruler_data, 500)) == 8, "as many as the file has questions"


def test_missing_and_bad_sources_are_one_sentence(tmp_path, ruler_data):
    (tmp_path / "ruler").mkdir()
    for task, name in (("niah_single_2", "PaulGrahamEssays.json"), ("qa_1", "squad.json"), ("qa_2", "hotpotqa.json")):
        with pytest.raises(NoData, match=name):
            made(task, str(tmp_path), 1)
    (tmp_path / "ruler/squad.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="squad.json has no 'data'"):
        made("qa_1", str(tmp_path), 1)
    with pytest.raises(UserError, match="needs more than 256 tokens"):
        made("niah_single_1", ruler_data, 1, length=256)
    with pytest.raises(UserError, match="vt of 600 tokens does not fit"):
        made("vt", ruler_data, 1, length=600, encode=str.encode)
    with pytest.raises(UserError, match="take a longer length"):
        made("qa_2", ruler_data, 1, length=900, encode=str.encode)


def test_the_command_writes_the_same_bytes(ruler_data, tmp_path, capfd):
    flags = (
        "--suite=table3",
        f"--data={ruler_data}",
        "--lengths=4096,6000",
        "--rows=ruler_niah_single_1,ruler_qa_1",
        "--limit=2",
    )
    for name in "ab":
        assert main(["evaluate", *flags, f"--prompts={tmp_path / name}"]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [(line["row"][6:], line["id"]) for line in lines] == [
        (row, f"{length}/{n}") for row in ("niah_single_1", "qa_1") for length in (4096, 6000) for n in range(2)
    ]  # fmt: skip
    assert all(
        0.97 * int(line["group"]) < line["tokens"] + line["max_new_tokens"] <= int(line["group"]) for line in lines
    )
    capfd.readouterr()
    assert main(["evaluate", *flags, f"--prompts={tmp_path / 'c'}", "--lengths=4k"]) == 2
    assert "--lengths is numbers of tokens" in capfd.readouterr().err
