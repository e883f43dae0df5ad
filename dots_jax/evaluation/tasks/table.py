"""All tasks by the name of their row. Every base prompt of the report is unpublished: each task is an assumption."""

from dots_jax.config import UserError
from dots_jax.evaluation.rows.table import ROWS, TABLE2, TABLE3
from dots_jax.evaluation.ruler import tasks as ruler
from dots_jax.evaluation.scoring.code import STOPS
from dots_jax.evaluation.tasks import agieval, answers, letters, open_ended, programs
from dots_jax.evaluation.tasks.task import Task


def _task(row: str, layout: str, load, shots: int, stop: tuple[str, ...] = ("\n",), max_new_tokens: int = 16, **more):
    return Task(row=row, layout=layout, load=load, shots=shots, stop=stop, max_new_tokens=max_new_tokens, **more)


NO_SPACE = "the prompt ends before the reference's trailing space"
_TASKS = (
    _task("ceval", "{subject}_val.csv, {subject}_dev.csv", letters.ceval, 5, mean_of_groups=True, separator="\n",
          deviation=NO_SPACE),
    _task("cmmlu", "test/{subject}.csv, dev/{subject}.csv", letters.cmmlu, 5, mean_of_groups=True, separator="\n",
          deviation=NO_SPACE),
    _task("cluewsc", "test_public.json, train_few_all.json", letters.cluewsc, 5, separator="\n"),
    _task("c3", "c3-m-test.json, c3-d-test.json (or dev), c3-{m,d}-train.json", letters.c3, 5, separator="\n"),
    _task("xiezhi", "xiezhi_{spec,inter}_{chn,eng}/xiezhi.v1.1.json, xiezhi_train_{chn,eng}/xiezhi.v1.1.json",
          letters.xiezhi, 3, mean_of_groups=True, separator="\n", deviation=NO_SPACE),
    _task("triviaqa", "unfiltered-web-dev.json or triviaqa_sm_sub.jsonl; unfiltered-web-train.json", answers.triviaqa, 5,
          max_new_tokens=32),
    _task("bbh", "bbh/{task}.json, cot-prompts/{task}.txt", answers.bbh, 3, ("\n\nQ:",), 512, mean_of_groups=True),
    _task("mmlu", "{subject}_test.csv, {subject}_dev.csv", letters.mmlu, 5),
    _task("mmlu_pro", "test.json, validation.json (or .jsonl)", letters.mmlu_pro, 5, ("Question:",), 1024,
          deviation="1,024 tokens, not 2,048; JSON, not Parquet"),
    _task("mmlu_pro_inst", "as mmlu_pro", letters.mmlu_pro, 0, (), 1024, folder="mmlu_pro"),
    _task("supergpqa", "SuperGPQA-all.jsonl, five-shot.yaml", letters.supergpqa, 0, ("\nQuestion:",), 1024),
    _task("drop", "drop_dataset_dev.json, drop_dataset_train.json, or drop_v0_dev.jsonl", answers.drop, 3, max_new_tokens=32),
    _task("arc_challenge", "ARC-Challenge-Test.jsonl, ARC-Challenge-Train.jsonl", letters.arc, 25),
    _task("agieval", "{task}.jsonl, few_shot_prompts.csv", agieval.agieval, 3, ("\n\n", "\nProblem", "\n问题"), 64,
          separator="\n\n", mean_of_groups=True, deviation="shots without explanations"),
    _task("hellaswag", "hellaswag_val.jsonl, hellaswag_train.jsonl", letters.hellaswag, 10),
    _task("piqa", "valid.jsonl, valid-labels.lst, train.jsonl, train-labels.lst", letters.piqa, 5),
    _task("nq", "NQ-open.dev.jsonl, NQ-open.train.jsonl", answers.nq, 3, max_new_tokens=32, separator="\n"),
    _task("gsm8k", "test.jsonl, gsm8k_prompt.txt or train.jsonl", answers.gsm8k, 8, ("\n\nQuestion:", "Question:"), 512),
    _task("math", "test.json, minerva_prompt.txt or train.json", answers.math, 4, ("\nProblem:",), 512),
    _task("cmath", "cmath_test.jsonl, cmath_dev.jsonl", answers.cmath, 3, ("\n问题",), 256, separator="\n"),
    _task("humaneval", "HumanEval.jsonl", programs.humaneval, 0, STOPS, 512),
    _task("mbpp", "mbpp.jsonl", programs.mbpp, 3, ("[DONE]",), 512),
    _task("mceval", "Python.jsonl", programs.mceval, 0, STOPS, 512, deviation="Python alone"),
    _task("bigcodebench", "BigCodeBench.jsonl", programs.bigcodebench, 0, STOPS, 1024),
    _task("lambada", "lambada_openai.jsonl", answers.lambada, 0, max_new_tokens=8),
    _task("mmlu_redux", "mmlu_{subject}.csv", letters.mmlu_redux, 0),
    _task("gpqa_diamond", "gpqa_diamond.csv", answers.gpqa, 0, (), 1024, deviation="one run"),
    _task("math500", "test.jsonl", answers.boxed_math, 0, (), 1024),
    _task("aime24", "test.jsonl", answers.boxed_math, 0, (), 2048, deviation="one greedy run"),
    _task("cnmo24", "test.jsonl", answers.boxed_math, 0, (), 2048, deviation="one greedy run"),
    _task("ifeval", "input_data.jsonl", answers.ifeval, 0, (), 1024),
    _task("mbpp_plus", "MbppPlus-v0.1.0.jsonl or v0.2.0", programs.mbpp_plus, 0, (), 1024),
    _task("livecodebench", "test*.jsonl", programs.livecodebench, 0, (), 2048),
    _task("simpleqa", "simple_qa_test_set.csv, simpleqa_eval.py (its grader's text) or grader.txt", open_ended.simpleqa, 0, (),
          512),
    _task("c_simpleqa", "chinese_simpleqa.jsonl, grader.txt", open_ended.chinese_simpleqa, 0, (), 512),
    _task("alpacaeval2", "model_outputs.json (the baseline's), alpaca_clf.txt", open_ended.alpaca_eval, 0, (), 2048,
          deviation="raw win rate, by the judge's letter rather than its probability"),
    _task("arena_hard", "question.jsonl, gpt-4-0314.jsonl, judge_config.yaml", open_ended.arena_hard, 0, (), 2048),
)  # fmt: skip
TASKS = {task.row: task for task in (*_TASKS, *ruler.TASKS)}
SUITES = {"table2": tuple(row.name for row in TABLE2) + ("lambada",),
          "figure4": ("mmlu", "triviaqa", "nq", "hellaswag", "piqa", "lambada"),
          "table3": tuple(row.name for row in TABLE3),
          "table5": tuple(row.name for row in ROWS.values() if 5 in row.tables)}  # fmt: skip


def rows_of(suite: str) -> tuple[str, ...]:
    """The rows of a suite, in the report's order. Raises UserError for another name."""
    if suite not in SUITES:
        raise UserError(f"--suite is one of {', '.join(SUITES)}, but is {suite!r}.")
    return SUITES[suite]
