"""Rows of the published files as they are, which stay outside this repository: their own answers must be judged right."""

import ast
import csv
import json
import os
from pathlib import Path

import pytest

from dots_jax.evaluation.rows.gold import ALPHABET, letter_of, options_of
from dots_jax.evaluation.rows.row import Tools
from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.scoring.letters import find_letter_mmlu_pro

SHARED = Path(os.environ.get("DOTS_SHARED", Path(__file__).parents[3] / "shared"))
DATA = next((path for path in (SHARED / "data/eval", SHARED.parent.parent / "shared/data/eval") if path.is_dir()), None)
pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(
        DATA is None, reason="the slices of published files (data/eval of the shared folder) are not here"
    ),
]


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines() if line.strip()]


def parsed(name: str):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def table(name: str, header: bool) -> list:
    with open(DATA / name, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file) if header else csv.reader(file))


def letters(name: str, header: bool = True) -> list[tuple]:
    rows = table(name, header)
    golds = [(row.get("answer") or row.get("Answer")) if header else row[-1] for row in rows]
    return [(f"答案：{gold}", gold) for gold in golds]


def chosen(item) -> tuple:
    return f"The answer is ({letter_of(item)}).", item


def c3() -> list[tuple]:
    return [chosen(question) for name in ("c3_m_dev.json", "c3_d_dev.json") for _, questions, *_ in parsed(name)
            for question in questions]  # fmt: skip


def agieval() -> list[tuple]:
    names = ("agieval_lsat_ar", "agieval_gaokao_physics", "agieval_jec_qa_ca", "agieval_gaokao_mathcloze")
    items = [item for name in names for item in lines(f"{name}.jsonl")]
    text = lambda item: item["label"] if item["label"] else item["answer"]
    return [
        ("答案是" + ("".join(text(item)) if isinstance(text(item), list) else str(text(item))), item) for item in items
    ]


def bigcodebench() -> list[dict]:
    text = (DATA / "bigcodebench_hard.json").read_text()
    try:
        found = json.loads(text)
        return list(found.values()) if isinstance(found, dict) else found
    except ValueError:
        return lines("bigcodebench_hard.json")


PUBLISHED = {
    "ceval": lambda: letters("ceval_accountant_val.csv"),
    "cmmlu": lambda: letters("cmmlu_agronomy_test.csv"),
    "mmlu": lambda: letters("mmlu_abstract_algebra_test.csv", header=False),
    "cluewsc": lambda: [("A" if item["label"] == "true" else "B", item) for item in lines("cluewsc_test_public.jsonl")],
    "c3": c3,
    "xiezhi": lambda: [chosen(item) for name in ("spec_chn", "train_eng") for item in lines(f"xiezhi_{name}.jsonl")],
    "triviaqa": lambda: [(f" {item['answer']}", item) for item in lines("triviaqa_3000.jsonl")],
    "bbh": lambda: [(f"So the answer is {item['target']}.", item) for item in parsed("bbh_date_understanding.json")["examples"]],
    "drop": lambda: [((pair["answer"]["number"] or pair["answer"]["spans"] or list(pair["answer"]["date"].values())), pair)
                     for passage in parsed("drop_fixture.json").values() for pair in passage["qa_pairs"]
                     if pair["answer"]["number"] or pair["answer"]["spans"]],
    "agieval": agieval,
    "piqa": lambda: [("AB"[int(label)], label) for label in (DATA / "piqa_valid_labels.lst").read_text().split()],
    "nq": lambda: [(item["answer"][0], item) for item in lines("nq_open_dev.jsonl")],
    "gsm8k": lambda: [(item["answer"], item) for item in lines("gsm8k_test.jsonl")],
    "math": lambda: [(item["solution"], item) for item in lines("math_test.jsonl")],
    "math500": lambda: [(item["solution"], item["answer"]) for item in lines("math500.jsonl")],
    "aime24": lambda: [(f"\\boxed{{{item['answer']}}}", item) for item in lines("aime24.jsonl")],
    "cmath": lambda: [(f"答案是{item['golden']}。", item) for name in ("dev", "test") for item in lines(f"cmath_{name}.jsonl")],
    "humaneval": lambda: [(item["canonical_solution"], item) for item in lines("humaneval.jsonl")],
    "mbpp": lambda: [(item["code"], item) for item in lines("mbpp.jsonl")],
    "mbpp_plus": lambda: [(item["canonical_solution"], item) for item in lines("mbpp_plus.jsonl")][:6],
    "mceval": lambda: [(item["canonical_solution"], item) for item in lines("mceval_Python.jsonl")][:6],
    "lambada": lambda: [(f" {item['continuation']}", item) for item in lines("lambada_openai.jsonl")],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_answers_are_right(name):
    pairs = PUBLISHED[name]()
    with Tools() as tools:
        wrong = [
            (prediction, gold) for prediction, gold in pairs if not ROWS[name].score(prediction, gold, tools).correct
        ]
    assert pairs and not wrong, f"{len(wrong)} of {len(pairs)}: {wrong[:3]}"


def test_options_of_every_form():
    assert len(options_of(lines("xiezhi_spec_chn.jsonl")[0])) == 4
    assert {len(options_of(gold)) for _, gold in c3()} <= {2, 3, 4}
    for row in table("mmlu_redux_abstract_algebra.csv", header=True):
        assert (
            options_of(row) == [str(each).strip() for each in ast.literal_eval(row["choices"])]
            and letter_of(row) in ALPHABET
        )


def test_mmlu_pro_letters_are_the_published_ones():
    items = json.loads((DATA / "mmlu_pro_outputs_llama2_7b.json").read_text())
    assert items and all(
        find_letter_mmlu_pro(item.get("generated_text") or item["model_outputs"]) == item["pred"] for item in items
    )
