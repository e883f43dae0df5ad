"""The tasks on the first rows of the published files, which stay outside this repository: linked, never copied."""

import os
from pathlib import Path

import pytest

from dots_jax.evaluation.rows.row import Tools
from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.tasks.files import Files, NoData
from dots_jax.evaluation.tasks.table import SUITES, TASKS

SHARED = Path(os.environ.get("DOTS_SHARED", Path(__file__).parents[4] / "shared"))
DATA = next((path for path in (SHARED / "data/eval", SHARED.parent.parent / "shared/data/eval") if path.is_dir()), None)
pytestmark = pytest.mark.skipif(DATA is None, reason="the slices of published files are not here (DOTS_SHARED)")

PUBLISHED = {  # row: the slice's name -> the published one
    "ceval": {"ceval_accountant_val.csv": "val/accountant_val.csv", "ceval_accountant_dev.csv": "dev/accountant_dev.csv"},
    "cmmlu": {"cmmlu_agronomy_test.csv": "test/agronomy.csv", "cmmlu_agronomy_dev.csv": "dev/agronomy.csv"},
    "cluewsc": {"cluewsc_test_public.jsonl": "test_public.json", "cluewsc_train.jsonl": "train_few_all.json"},
    "c3": {"c3_m_dev.json": "c3-m-dev.json", "c3_d_dev.json": "c3-d-dev.json", "c3_m_train.json": "c3-m-train.json"},
    "xiezhi": {"xiezhi_spec_chn.jsonl": "test/xiezhi_spec_chn/xiezhi.v1.1.json",
               "xiezhi_train_chn.jsonl": "train/xiezhi_train_chn/xiezhi.v1.1.json"},
    "triviaqa": {"triviaqa_3000.jsonl": "triviaqa_sm_sub.jsonl"},
    "bbh": {"bbh_date_understanding.json": "bbh/date_understanding.json",
            "bbh_cot_date_understanding.txt": "cot-prompts/date_understanding.txt"},
    "mmlu": {"mmlu_abstract_algebra_test.csv": "test/abstract_algebra_test.csv",
             "mmlu_abstract_algebra_dev.csv": "dev/abstract_algebra_dev.csv"},
    "mmlu_pro": {"mmlu_pro_outputs_llama2_7b.json": "test.json"},
    "drop": {"drop_fixture.json": "drop_dataset_dev.json"},
    "arc_challenge": {"arc_challenge_test.jsonl": "arc_challenge.jsonl"},
    "agieval": {f"agieval_{name.replace('-', '_')}.jsonl": f"v1/{name}.jsonl"
                for name in ("lsat-ar", "gaokao-physics", "jec-qa-ca", "gaokao-mathcloze")},
    "hellaswag": {"hellaswag_small.jsonl": "hellaswag_small.jsonl"},
    "piqa": {"piqa_valid.jsonl": "valid.jsonl", "piqa_valid_labels.lst": "valid-labels.lst"},
    "nq": {"nq_open_dev.jsonl": "NQ-open.dev.jsonl"},
    "gsm8k": {"gsm8k_test.jsonl": "test.jsonl", "gsm8k_train.jsonl": "train.jsonl"},
    "math": {"math_test.jsonl": "test.json"},
    "cmath": {"cmath_test.jsonl": "cmath_test.jsonl", "cmath_dev.jsonl": "cmath_dev.jsonl"},
    "humaneval": {"humaneval.jsonl": "HumanEval.jsonl"},
    "mbpp": {"mbpp.jsonl": "mbpp.jsonl"},
    "mceval": {"mceval_Python.jsonl": "Python.jsonl"},
    "bigcodebench": {"bigcodebench_hard.json": "bigcodebench_hard.json"},
    "lambada": {"lambada_openai.jsonl": "lambada_openai.jsonl"},
    "mmlu_redux": {"mmlu_redux_abstract_algebra.csv": "mmlu_abstract_algebra.csv"},
    "math500": {"math500.jsonl": "test.jsonl"},
    "aime24": {"aime24.jsonl": "test.jsonl"},
    "ifeval": {"ifeval_input_data.jsonl": "input_data.jsonl"},
    "mbpp_plus": {"mbpp_plus.jsonl": "MbppPlus-v0.1.0.jsonl"},
}  # fmt: skip
ALONE = {"humaneval", "mbpp", "mceval", "bigcodebench", "ifeval", "mbpp_plus", "mmlu_redux"}
# of ALONE: a shot's answer is no text to judge, or the published key is wrong
SHOTS = {"ceval": 5, "cmmlu": 5, "cluewsc": 5, "xiezhi": 3, "bbh": 3, "mmlu": 5, "gsm8k": 8, "cmath": 3}


@pytest.fixture
def linked(tmp_path):
    for row, names in PUBLISHED.items():
        for source, target in names.items():
            path = tmp_path / row / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(DATA / source)
    return str(tmp_path)


def test_every_row_reads_its_published_files_and_its_own_answers_are_right(linked):
    with Tools() as tools:
        for name in PUBLISHED:
            task, groups = TASKS[name], 0
            ids = []
            for group in task.load(Files(linked, name)):
                groups += 1
                for item in group.items:
                    ids.append(item.id)
                    prompt = task.prompt(group, item)
                    assert prompt.endswith(item.context) and not prompt.endswith(" "), (name, prompt[-40:])
                    assert "\r" not in prompt and "\ufeff" not in prompt, name
                    if item.choices:
                        assert item.answer == item.choices[item.right], name
                    if name in SHOTS:
                        assert len(task.chosen_shots(group, item)) == SHOTS[name], name
                    row = ROWS[name]
                    if (
                        name not in ALONE
                        and row.needs is None
                        and "left_out" not in (score := row.score(item.answer, item.gold, tools)).details
                    ):
                        assert score.value == 1, (name, item.id, item.answer, item.gold, score)
                assert groups and ids and len(set(ids)) == len(ids), name


def test_a_row_without_files_says_which_are_missing(tmp_path):
    for name in (row for suite in SUITES.values() for row in suite if not TASKS[row].make):
        with pytest.raises(NoData, match=name):
            list(TASKS[name].load(Files(str(tmp_path), name)))
