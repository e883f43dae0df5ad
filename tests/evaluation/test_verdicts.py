"""`dots evaluate --row --verdicts`: every row has a name and judges, and bad files are one sentence each."""

import json

import pytest

from dots_jax.cli.main import main
from dots_jax.evaluation.rows.gold import letter_of
from dots_jax.evaluation.rows.row import Tools
from dots_jax.evaluation.rows.table import LAMBADA, ROWS, TABLE2, TABLE3, get_row

QUESTION = {
    "question": {"stem": "?", "choices": [{"label": "1", "text": "a"}, {"label": "2", "text": "b"}]},
    "answerKey": "2",
}
REDUX = {"choices": "['p', 'q', 'r', 's']", "answer": 0, "error_type": "ok"}
RIGHT = {  # row: prediction that is right, one that is wrong, gold
    "ceval": ("答案：B", "答案：C", "B"),
    "cmmlu": ("B", "C", "B"),
    "cluewsc": ("A", "B", "true"),
    "c3": ("C", "A", {"question": "?", "choice": ["x", "y", "z"], "answer": "z"}),
    "xiezhi": ("B", "A", {"options": 'p\nq\nr\ns"\n', "answer": "q"}),
    "triviaqa": (" The Onion", "Leek", {"aliases": ["onion"]}),
    "bbh": ("So the answer is (B).", "So the answer is (A).", "(B)"),
    "mmlu": ("B", "A", "B"),
    "mmlu_pro": ("the answer is (J)", "J", "J"),
    "supergpqa": ("Answer: H", "Answer: A", {"options": list("stuvwxyzpq"), "answer_letter": "H"}),
    "drop": ("12.5", "13", {"number": "12.5"}),
    "arc_challenge": ("B", "A", QUESTION),
    "agieval": ("答案：AC", "答案：A", ["A", "C"]),
    "hellaswag": ("D", "C", "3"),
    "piqa": ("A", "B", 0),
    "nq": ("1972", "1973", ["December 1972", "1972"]),
    "gsm8k": ("The answer is 18.", "19", "... #### 18"),
    "cmath": ("是18个", "是19个", "18"),
    "lambada": (" signs", " sign", "signs"),
    "ruler_niah_single_1": ("it is 123", "it is 12", ["123"]),
    "ruler_qa_1": ("Paris", "Rome", ["Paris", "City of Paris"]),
    "mmlu_redux": ("A", "B", REDUX),
    "mmlu_pro_inst": ("Answer: **J**", "Answer: A", "J"),
    "gpqa_diamond": ("Answer: C", "Answer: A", "C"),
    "simpleqa": ("A", "B", None),
    "c_simpleqa": ("CORRECT", "INCORRECT", None),
    "ifeval": ("no comma", "a, comma", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}),
    "alpacaeval2": (2, 1, None),
    "arena_hard": (["[[B>A]]", "[[A>B]]"], ["[[A>B]]", "[[B>A]]"], None),
}


def judge(tmp_path, row: str, rows: list) -> list[dict]:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["evaluate", f"--row={row}", f"--verdicts={source}", f"--output={target}"]) == 0
    return [json.loads(line) for line in target.read_text().splitlines()]


def refusal(capfd, tmp_path, text: str, row="gsm8k") -> str:
    (tmp_path / "in.jsonl").write_text(text)
    assert main(["evaluate", f"--row={row}", f"--verdicts={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl"]) == 2
    assert not (tmp_path / "out.jsonl").exists()
    return capfd.readouterr().err


def test_every_row_of_the_tables_has_a_name():
    assert (len(TABLE2), len(TABLE3)) == (23, 13) and LAMBADA.name in ROWS
    assert sum(5 in row.tables for row in ROWS.values()) == 19
    for row in ROWS.values():
        assert row.metric and row.reference and row.files and row.licence


@pytest.mark.parametrize("name", RIGHT)
def test_right_and_wrong(name):
    right, wrong, gold = RIGHT[name]
    with Tools() as tools:
        row = ROWS[name]
        assert row.score(right, gold, tools).correct is True
        assert row.score(wrong, gold, tools).correct is False


def test_rows_come_back_with_their_verdicts(tmp_path, capfd):
    rows = [
        {"id": 1, "prediction": "#### 18", "gold": "#### 18", "extra": "é"},
        {"id": "b", "prediction": "", "gold": "#### 18"},
        {"id": 3, "prediction": "the answer is 17", "gold": "#### 18"},
    ]
    found = judge(tmp_path, "GSM8K", rows)
    assert [each["correct"] for each in found] == [True, False, False]
    assert [each["extracted"] for each in found] == ["18", None, "17"] and found[0]["extra"] == "é"
    assert "gsm8k: 3 items, score 33.33 +- 33.33, 1 without an answer" in capfd.readouterr().out


def test_judges_and_faulty_items_are_left_out_by_name(tmp_path, capfd):
    found = judge(tmp_path, "simpleqa", [{"id": n, "prediction": text} for n, text in enumerate(("A", "B", "hm"))])
    assert [each["correct"] for each in found] == [True, False, None]
    assert "score 50.00" in (out := capfd.readouterr().out) and "1 left out (judge not understood)" in out
    wrong_key = REDUX | {"error_type": "wrong_groundtruth", "correct_answer": "r"}
    unclear = REDUX | {"error_type": "Bad Question Clarity"}
    rows = [{"id": n, "prediction": "C", "gold": gold} for n, gold in enumerate((REDUX, wrong_key, unclear))]
    assert [each["correct"] for each in judge(tmp_path, "mmlu_redux", rows)] == [False, True, None]
    assert "1 left out (bad_question_clarity)" in capfd.readouterr().out


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "holds no rows"),
        ("{\n", "line 1 is no JSON"),
        ('{"id": 1, "prediction": "x"}\n', "line 1 has no gold"),
        ('{"prediction": "x", "gold": "1"}\n', "line 1 has no id"),
        ('{"id": 1, "gold": "1"}\n', "line 1 has no prediction"),
        ("[1]\n", "line 1 has no id"),
        ('{"id": 1, "prediction": "x", "gold": "1"}\n' * 2, "line 2 has the id 1 of line 1"),
    ],
)
def test_bad_files(capfd, tmp_path, text, sentence):
    assert sentence in refusal(capfd, tmp_path, text)


def test_bad_command_lines(capfd, tmp_path):
    assert main(["evaluate", "--row=gsm9k", f"--verdicts={tmp_path}/x", "--output=y"]) == 2
    assert "There is no row gsm9k; there are ceval," in capfd.readouterr().err
    assert main(["evaluate", "--row=gsm8k", f"--verdicts={tmp_path}/x", "--output=y"]) == 2
    assert "x cannot be read" in capfd.readouterr().err
    assert main(["evaluate", "--row=gsm8k"]) == 2 and "Missing --verdicts" in capfd.readouterr().err
    assert "letter" in refusal(capfd, tmp_path, '{"id": 1, "prediction": "A", "gold": "xyz"}\n', "mmlu")
    unknown = json.dumps({"id": 1, "prediction": "A", "gold": {"instruction_id_list": ["no:such"], "kwargs": [{}]}})
    assert "no instruction 'no:such'" in refusal(capfd, tmp_path, unknown + "\n", "ifeval")


def test_list(capfd):
    assert main(["evaluate", "--list"]) == 0
    out = capfd.readouterr().out
    assert all(f"\n{name} (" in "\n" + out for name in ROWS) and out.count("licence") >= len(ROWS)


def test_names_and_golds_in_other_spellings():
    assert get_row("ARC-C").name == "arc_challenge" and get_row("mbpp+").name == "mbpp_plus"
    assert letter_of("2", first=1) == "B" and letter_of(2) == "C" and letter_of(" （Ｄ） ") == "D"


def test_ifeval_knows_27_instructions_and_the_quirks(tmp_path):
    from dots_jax.evaluation.scoring import ifeval

    assert len(ifeval.CHECKS) == 27
    paragraph = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "first"}
    assert ifeval.follows(
        "\n\nFirst.\n\nThen", "length_constraints:nth_paragraph_first_word", paragraph
    )  # counts 2, indexes 3
    hashes = {"letter": "#", "let_frequency": 4, "let_relation": "at least"}
    assert ifeval.follows("####", "keywords:letter_frequency", hashes)  # officially a random letter: keys 1122, 1129
    assert not ifeval.follows("   ", "punctuation:no_comma", {})
    gold = {"instruction_id_list": ["startend:quotation", "punctuation:no_comma"], "kwargs": [{}, {}]}
    score = ifeval.score_ifeval('Sure:\n"a b"', gold)
    assert not score.correct and score.details["prompt_loose"] and score.details["strict"] == [False, True]
