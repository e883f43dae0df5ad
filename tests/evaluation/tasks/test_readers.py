"""Files in the published forms, and bad ones: one sentence each."""

import json
from pathlib import Path

import pytest

from dots_jax.cli.main import main
from dots_jax.config import UserError
from dots_jax.evaluation.tasks.files import Files, NoData, read_table
from dots_jax.evaluation.tasks.table import TASKS


def write(folder, name: str, content: str, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return str(path)


def load(folder, row: str) -> list:
    """(prompt, item) of all items."""
    task = TASKS[row]
    return [(task.prompt(g, item), item) for g in task.load(Files(str(folder), row)) for item in g.items]


def test_mmlu_has_no_header_and_ends_before_the_letter(tmp_path):
    write(tmp_path, "mmlu/test/high_school_art_test.csv", '\ufeff"2, or 3?",1,2,3,4,B\r\nLast?,p,q,r,s,D\r\n')
    write(tmp_path, "mmlu/dev/high_school_art_dev.csv", "Shot?,a,b,c,d,A\nLast?,p,q,r,s,D\n")
    (first, item), (last, _) = load(tmp_path, "mmlu")
    assert first == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "Shot?\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\nLast?\nA. p\nB. q\nC. r\nD. s\nAnswer: D\n\n"
        "2, or 3?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert item.choices == (" A", " B", " C", " D") and item.right == 1
    assert last.count("Last?") == 1, "an item is never a shot of itself"


def test_arc_has_numbers_for_letters_and_three_to_five_options(tmp_path):
    choices = [{"label": str(n), "text": text} for n, text in enumerate("xyz", 1)]
    row = {"id": "a", "question": {"stem": "Which?", "choices": choices}, "answerKey": "3"}
    write(tmp_path, "arc_challenge/ARC-Challenge-Test.jsonl", json.dumps(row) + "\n")
    ((prompt, item),) = load(tmp_path, "arc_challenge")
    assert prompt == "Question: Which?\nA. x\nB. y\nC. z\nAnswer:" and item.answer == " C" and len(item.choices) == 3


def test_hellaswag_keeps_the_capitals_of_the_second_part(tmp_path):
    row = {
        "ind": 4,
        "activity_label": "Space",
        "ctx_a": "A rocket.",
        "ctx_b": "then NASA",
        "endings": list("pqrs"),
        "label": "3",
    }
    write(tmp_path, "hellaswag/hellaswag_val.jsonl", json.dumps(row))
    ((prompt, item),) = load(tmp_path, "hellaswag")
    assert "Space: A rocket. Then NASA\nA) p" in prompt and item.answer == " D"


def test_xiezhi_takes_the_shots_that_share_labels(tmp_path):
    row = lambda question, labels: json.dumps(
        {"question": question, "options": 'p\nq\nr\ns"\n', "answer": "s", "labels": labels}
    )
    write(tmp_path, "xiezhi/test/xiezhi_spec_eng/xiezhi.v1.1.json", row("Q", ["law"]) + "\n")
    train = [row("far", ["art"])] * 5 + [row("near", ["law"])]
    write(tmp_path, "xiezhi/train/xiezhi_train_eng/xiezhi.v1.1.json", "\n".join(train) + "\n")
    ((prompt, item),) = load(tmp_path, "xiezhi")
    assert prompt.startswith("Question: near\nA. p") and "D. s\nAnswer: D\n" in prompt and item.right == 3


def test_mbpp_code_loses_its_carriage_returns(tmp_path):
    row = lambda n: json.dumps({"task_id": n, "text": f"Do {n}.", "code": "a\r\nb", "test_list": ["assert x"]})
    write(tmp_path, "mbpp/mbpp.jsonl", "\n".join(map(row, (1, 2, 3, 4, 11, 510, 511))) + "\n")
    found = load(tmp_path, "mbpp")
    assert [item.id for _, item in found] == ["11", "510"]
    assert found[0][0].count("[BEGIN]\na\nb\n[DONE]") == 3 and "\r" not in found[0][0]


def test_agieval_numbers_its_problems_behind_the_shots(tmp_path):
    row = {"passage": None, "question": "Q?", "options": ["(A)x", "(B)y"], "label": "B"}
    write(tmp_path, "agieval/v1/lsat-ar.jsonl", json.dumps(row) + "\n")
    ((zero, item),) = load(tmp_path, "agieval")
    assert zero == "Q: Q? Answer Choices: (A)x (B)y\nA: Among A through B, the answer is" and item.right == 1
    cell = repr(row).replace('"', '""')
    write(tmp_path, "agieval/few_shot_prompts.csv", f'lsat-ar\n"{cell}"\nwhy\n"{cell}"\nwhy\n')
    ((few, item),) = load(tmp_path, "agieval")
    assert few.count("The answer is therefore B\n\n") == 2 and "Problem 3.    Q?" in few and item.choices == ()


BAD = {
    "another number of columns": ("mmlu", "a_test.csv", "Q,1,2,3,B\n", "has 5 columns, but 6"),
    "an answer that is no option": ("mmlu", "a_test.csv", "Q,1,2,3,4,E\n", "the answer 'E'"),
    "no answer": ("gsm8k", "test.jsonl", '{"question": "?"}\n', "line 1 has no 'answer'"),
    "no JSON": ("gsm8k", "test.jsonl", "question\n{}\n", "line 1 is not JSON"),
    "a header that lacks a column": ("ceval", "a_val.csv", "id,question,A,B,C,answer\n", "no column 'D'"),
    "one option": ("arc_challenge", "arc_challenge.jsonl", '{"query": "?", "choices": ["x"], "gold": 0}\n', "1 options"),
    "not UTF-8": ("c3", "c3-m-dev.json", None, "is not UTF-8"),
    "an answer that is no choice": ("c3", "c3-m-dev.json",
                                    '[[["p"], [{"question": "?", "choice": ["x", "y"], "answer": "z"}], "1"]]',
                                    "the answer 'z'"),
    "a test without its label": ("cluewsc", "test_public.json", '{"target": {}, "text": "t", "label": "maybe"}\n', "'maybe'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence(tmp_path, case):
    row, name, content, message = BAD[case]
    write(tmp_path, f"{row}/{name}", "中" if content is None else content, "gb18030" if content is None else "utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, row)
    assert not isinstance(caught.value, NoData)


def test_as_many_labels_as_items(tmp_path):
    write(tmp_path, "piqa/valid.jsonl", '{"goal": "g", "sol1": "a", "sol2": "b"}\n')
    write(tmp_path, "piqa/valid-labels.lst", "0\n1\n")
    with pytest.raises(UserError, match="has 2 labels, but .* has 1 items"):
        load(tmp_path, "piqa")


def test_quotes_stay_in_their_fields(tmp_path):
    path = write(tmp_path, "t.csv", 'q,a\n"say ""x"", twice",1\n')
    assert list(read_table(path, ("q", "a"), True)) == [{"q": 'say "x", twice', "a": "1"}]


def test_list_says_which_files_are_present(tmp_path, capfd):
    write(tmp_path, "mmlu/art_test.csv", "Q,1,2,3,4,A\nR,1,2,3,4,B\n")
    write(tmp_path, "nq/NQ-open.dev.jsonl", "{}\n")
    assert main(["evaluate", "--list", f"--data={tmp_path}"]) == 0
    said = capfd.readouterr().out
    present = lambda row: said.split(f"\n{row} (")[1].split("present    ")[1].split("\n")[0]
    assert present("mmlu") == "2 items in 1 groups"
    assert present("gsm8k").startswith("no data: ") and present("simpleqa").startswith("no data: ")
    assert present("nq").startswith("cannot be used: ") and "line 1 has no 'question'" in present("nq")


def test_the_rows_of_the_demo_are_read():
    folder = Path(__file__).parents[3] / "benchmarks/evaluation_demo"
    rows = [path.name for path in folder.iterdir() if path.is_dir()]
    assert len(rows) > 15
    for row in rows:
        assert load(folder, row), row
