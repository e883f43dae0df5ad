"""All rows by name. Every base prompt is unpublished, so that each row follows a public reference and is an assumption."""

from collections.abc import Mapping

from dots_jax.config import UserError
from dots_jax.evaluation.rows.gold import choice_scorer, score_agieval, score_cluewsc, score_redux
from dots_jax.evaluation.rows.row import Row
from dots_jax.evaluation.scoring import code, judged, letters, long_context, math_verifier, numbers, short_answers
from dots_jax.evaluation.scoring.ifeval import score_ifeval
from dots_jax.evaluation.scoring.score import Score

OPENCOMPASS = "open-compass/opencompass:opencompass/configs/datasets/"
EM = "exact match"


def _field(gold, *names):
    """A field of an item, or the gold itself."""
    if isinstance(gold, Mapping):
        return next((gold[name] for name in names if gold.get(name) is not None), gold)
    return gold


def _math(prediction, gold, tools) -> Score:
    return math_verifier.score_math(str(prediction), str(_field(gold, "answer", "solution")), tools.verifier)


def _mmlu_pro(prediction, gold, tools) -> Score:
    return letters.score_mmlu_pro(str(prediction), str(_field(gold, "answer")).strip())


def _number(prediction, gold, tools) -> Score:
    return numbers.score_number(str(prediction), _field(gold, "answer", "golden"))


def _cmath(prediction, gold, tools) -> Score:
    return numbers.score_cmath(str(prediction), str(_field(gold, "golden", "answer")))


def _triviaqa(prediction, gold, tools) -> Score:
    return short_answers.score_triviaqa(str(prediction), gold)


def _nq(prediction, gold, tools) -> Score:
    return short_answers.score_nq(str(prediction), _field(gold, "answer"))


def _drop(prediction, gold, tools) -> Score:
    return short_answers.score_drop(prediction, gold)


def _bbh(prediction, gold, tools) -> Score:
    return short_answers.score_bbh(str(prediction), str(_field(gold, "target")))


def _lambada(prediction, gold, tools) -> Score:
    return short_answers.score_lambada(str(prediction), str(_field(gold, "continuation")))


def _ruler_all(prediction, gold, tools) -> Score:
    return long_context.score_all(str(prediction), _texts(gold))


def _ruler_any(prediction, gold, tools) -> Score:
    return long_context.score_any(str(prediction), _texts(gold))


def _texts(gold) -> list[str]:
    found = _field(gold, "outputs", "output")
    return [found] if isinstance(found, str) else list(found)


def _program(scorer):
    return lambda prediction, gold, tools: scorer(str(prediction), gold, tools.sandbox)


def _simpleqa(prediction, gold, tools) -> Score:
    return judged.score_simpleqa(str(prediction))


def _alpaca(prediction, gold, tools) -> Score:
    """The prediction is an annotation's preference, or the judge's reply M (the model's answer) or m."""
    preference = _field(prediction, "preference")
    if isinstance(preference, str):
        preference = judged.parse_alpaca(preference)
    elif isinstance(preference, Mapping):
        preference = None
    return Score(preference, judged.alpaca_win(preference))


def _arena(prediction, gold, tools) -> Score:
    """The prediction is the judge's replies to both games, with the seats exchanged in the second."""
    if isinstance(prediction, str) or len(prediction) != 2:
        raise UserError(
            "A prediction of arena_hard is a list of the judge's two replies, the second with the seats exchanged."
        )
    verdicts = [judged.parse_arena(str(reply)) for reply in prediction]
    battles = judged.arena_battles(*verdicts)
    return Score(verdicts, sum(battles) / len(battles) if battles else None, {"battles": battles} if battles else {})


def _row(name, table, title, metric, reference, files, licence, score, **more) -> Row:
    return Row(name=name, tables=table if isinstance(table, tuple) else (table,), title=title, metric=metric,
               reference=reference, files=files, licence=licence, score=score, **more)  # fmt: skip


XIEZHI = "MikeGu721/XiezhiBenchmark:Tasks/Knowledge/Benchmarks/"
SIMPLE_EVALS = "openai/simple-evals:"
FOUR, TEN = choice_scorer(4), choice_scorer(10)

TABLE2 = (
    _row("ceval", (2, 5), "C-Eval", f"{EM}, mean over 52 subjects", OPENCOMPASS + "ceval/ceval_gen_5f30c7.py",
         "{subject}_val.csv, {subject}_dev.csv: id,question,A,B,C,D,answer", "CC-BY-NC-SA-4.0", FOUR, aliases=("c_eval",)),
    _row("cmmlu", 2, "CMMLU", f"{EM}, mean over 67 subjects", OPENCOMPASS + "cmmlu/cmmlu_gen_c13365.py",
         "test/{subject}.csv, dev/{subject}.csv: ,Question,A,B,C,D,Answer", "CC-BY-NC-SA-4.0", FOUR),
    _row("cluewsc", (2, 5), "CLUEWSC", EM, OPENCOMPASS + "FewCLUE_cluewsc/FewCLUE_cluewsc_gen_c68933.py",
         "test_public.json, train_few_all.json: JSONL with target, text, label", "none given", score_cluewsc,
         gold='label: "true" or "false"'),
    _row("c3", 2, "C3", EM, OPENCOMPASS + "CLUE_C3/CLUE_C3_gen_8c358f.py", "c3-{m,d}-{train,dev,test}.json",
         "research only", FOUR, gold="a question with choice and answer, or a letter"),
    _row("xiezhi", 2, "Xiezhi", f"{EM}, four sets", OPENCOMPASS + "xiezhi/xiezhi_gen_b86cf5.py",
         "xiezhi.v1.1.json of {spec,inter}_{chn,eng}: JSONL with question, options, answer", "CC-BY-NC-SA-4.0", FOUR,
         gold="an item with options and answer, or a letter"),
    _row("triviaqa", 2, "TriviaQA", f"{EM} over aliases", "mandarjoshi90/triviaqa:evaluation/triviaqa_evaluation.py",
         "unfiltered-web-dev.json, or JSONL with question and aliases", "Apache-2.0", _triviaqa, gold="aliases, or Answer"),
    _row("bbh", 2, "BBH", f"{EM}, mean over 27 tasks", "suzgunmirac/BIG-Bench-Hard:cot-prompts",
         "bbh/{task}.json, cot-prompts/{task}.txt", "MIT", _bbh, gold="target"),
    _row("mmlu", (2, 5), "MMLU", f"{EM} over all items, and by subject", SIMPLE_EVALS + "mmlu_eval.py",
         "test/{subject}_test.csv, dev/{subject}_dev.csv, without a header", "MIT", FOUR),
    _row("mmlu_pro", 2, "MMLU-Pro", f"{EM}; no letter is wrong", "TIGER-AI-Lab/MMLU-Pro:evaluate_from_local.py",
         "test and validation as .parquet or .json: question, options, answer", "MIT", _mmlu_pro),
    _row("supergpqa", 2, "SuperGPQA", f"{EM} over 26,529 items", "SuperGPQA/SuperGPQA:config/prompt/five-shot.yaml",
         "SuperGPQA-all.jsonl: question, options, answer, answer_letter", "ODC-BY", TEN),
    _row("drop", (2, 5), "DROP", "F1 and exact match of AllenNLP",
         "allenai/allennlp-reading-comprehension:allennlp_rc/eval/drop_eval.py",
         "drop_dataset_dev.json, or simple-evals' drop_v0_dev.jsonl.gz", "CC-BY-SA-4.0", _drop,
         gold="qa_pair, answer, or ref_text"),
    _row("arc_challenge", 2, "ARC-C", f"{EM} over 1,172 items", OPENCOMPASS + "ARC_c/ARC_c_few_shot_gen_e9b043.py",
         "ARC-Challenge-Test.jsonl: question.choices, answerKey", "CC-BY-SA-4.0", choice_scorer(5, first=1), aliases=("arc",
         "arc_c")),
    _row("agieval", 2, "AGIEval", f"{EM}, mean over tasks", "ruixiangcui/AGIEval:src/post_process.py",
         "v1/{task}.jsonl: passage, question, options, label or answer", "MIT; jec-qa non-commercial", score_agieval,
         gold="label, a list of labels, or answer"),
    _row("hellaswag", 2, "HellaSwag", f"{EM} over 10,042 items", OPENCOMPASS + "hellaswag/hellaswag_10shot_gen_e42710.py",
         "hellaswag_val.jsonl: ctx_a, ctx_b, endings, label", "MIT", FOUR, gold="label, from 0"),
    _row("piqa", 2, "PIQA", f"{EM} over 1,838 items", OPENCOMPASS + "piqa/piqa_gen_1194eb.py",
         "valid.jsonl: goal, sol1, sol2; valid-labels.lst", "AFL-3.0", choice_scorer(2), gold="label, 0 or 1"),
    _row("nq", 2, "Natural Questions", f"{EM}, SQuAD's normalisation", OPENCOMPASS + "nq/nq_open_1shot_gen_01cf41.py",
         "NQ-open.dev.jsonl: question, answer", "Apache-2.0", _nq, gold="answer: a list", aliases=("nq_open", "natural_questions")),
    _row("gsm8k", 2, "GSM8K", f"{EM} over 1,319 items", "QwenLM/Qwen:eval/gsm8k_prompt.txt",
         "test.jsonl, train.jsonl: question, answer", "MIT", _number, gold="answer, with ####"),
    _row("math", (2, 5), "MATH", f"{EM} over 5,000 items", OPENCOMPASS + "math/math_4shot_base_gen_db136b.py",
         "test.json: problem, solution, level, type", "MIT", _math, needs="verifier", gold="solution with its box, or answer"),
    _row("cmath", 2, "CMath", "either of the last two numbers", "XiaoMi/cmath:utils.py",
         "cmath_dev.jsonl or test.jsonl: input or question, golden", "CC-BY-4.0", _cmath, gold="golden"),
    _row("humaneval", (2, 5), "HumanEval", "pass@1 of 164", "openai/human-eval:human_eval/execution.py",
         "HumanEval.jsonl: prompt, entry_point, test", "MIT", _program(code.score_humaneval), needs="sandbox",
         gold="the item: prompt, entry_point, test"),
    _row("mbpp", 2, "MBPP", "pass@1 of tasks 11 to 510", OPENCOMPASS + "mbpp/mbpp_gen_830460.py",
         "mbpp.jsonl: text, code, test_list, test_setup_code", "CC-BY-4.0", _program(code.score_mbpp), needs="sandbox",
         gold="the item: test_list, test_setup_code"),
    _row("mceval", 2, "MCEval", "pass@1, mean over languages; here Python", "MCEVAL/McEval:eval/excute.py",
         "{language}.jsonl: prompt, test, entry_point", "CC-BY-SA-4.0", _program(code.score_mceval), needs="sandbox",
         gold="the item: task_id, prompt, test, entry_point"),
    _row("bigcodebench", 2, "BigCodeBench", "pass@1, calibrated", "bigcode-project/bigcodebench:bigcodebench/eval/__init__.py",
         "BigCodeBench.jsonl: complete_prompt, code_prompt, test, entry_point, libs", "Apache-2.0",
         _program(code.score_bigcodebench), needs="sandbox", gold="the item: code_prompt, test", aliases=("bigcodebench_hard",)),
)  # fmt: skip
LAMBADA = _row("lambada", 4, "LAMBADA (figure 4)", "the last word",
         "mosaicml/llm-foundry:scripts/eval/local_data/language_understanding",
               "lambada_openai.jsonl: context, continuation", "Apache-2.0", _lambada, gold="continuation")  # fmt: skip

RULER_TASKS = {
    **dict.fromkeys(("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
                     "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe"), (_ruler_all, "share of references found")),
    **dict.fromkeys(("qa_1", "qa_2"), (_ruler_any, "any reference found")),
}  # fmt: skip
TABLE3 = tuple(
    _row(f"ruler_{task}", 3, f"RULER {task}", metric, "NVIDIA/RULER:scripts/eval/synthetic/constants.py",
         "generated; SQuAD and HotpotQA files for qa" if task.startswith("qa") else "generated", "Apache-2.0",
         scorer, gold="outputs")
    for task, (scorer, metric) in RULER_TASKS.items()
)  # fmt: skip

TABLE5 = (
    _row("mmlu_redux", 5, "MMLU-Redux", f"{EM}; faulty items are corrected or left out by name",
         "WildEval/ZeroEval:src/templates/MCQA.py",
         "mmlu_{subject}.csv: question, choices, answer, error_type, correct_answer", "CC-BY-4.0",
         score_redux, gold="the item, or a letter"),
    _row("mmlu_pro_inst", 5, "MMLU-Pro (instruct)", f"{EM}; no letter is wrong", SIMPLE_EVALS + "common.py",
         "as mmlu_pro", "MIT", TEN),
    _row("gpqa_diamond", 5, "GPQA-Diamond", f"{EM}, mean of runs", SIMPLE_EVALS + "gpqa_eval.py", "gpqa_diamond.csv",
         "CC-BY-4.0, not to be republished", FOUR, gold="the letter after the options are permuted", aliases=("gpqa",)),
    _row("simpleqa", 5, "SimpleQA", "judged: correct, and attempted", SIMPLE_EVALS + "simpleqa_eval.py",
         "simple_qa_test_set.csv: problem, answer", "MIT", _simpleqa, judged=True),
    _row("mbpp_plus", 5, "MBPP+", "pass@1, base and plus tests", "evalplus/evalplus:evalplus/eval/__init__.py",
         "MbppPlus-v0.1.0.jsonl or v0.2.0: base_input, plus_input, canonical_solution", "Apache-2.0",
         _program(code.score_evalplus), needs="sandbox", gold="the item", aliases=("mbpp+", "mbppplus")),
    _row("livecodebench", 5, "LiveCodeBench", "pass@1, 2024-05 to 2025-01", "LiveCodeBench/LiveCodeBench:lcb_runner/evaluation",
         "test*.jsonl: question_content, public_test_cases, private_test_cases, metadata", "MIT",
         _program(code.score_livecodebench), needs="sandbox", gold="the item: test cases and metadata"),
    _row("aime24", 5, "AIME 2024", f"{EM}, mean of runs", "QwenLM/Qwen2.5-Math:evaluation/data/aime24",
         "test.jsonl: problem, answer", "MIT; problems MAA", _math, needs="verifier", aliases=("aime",)),
    _row("math500", 5, "MATH-500", f"{EM} over 500 items", "hkust-nlp/simpleRL-reason:examples/simplelr_math_eval/data/math500",
         "test.jsonl: problem, solution, answer", "MIT", _math, needs="verifier", aliases=("math_500",)),
    _row("cnmo24", 5, "CNMO 2024", f"{EM}, mean of runs", "open-compass/GPassK:README.md",
         "LiveMathBench v202412: question, answer",
         "see its source", _math, needs="verifier"),
    _row("c_simpleqa", 5, "C-SimpleQA", "judged: correct, and attempted", "OpenStellarTeam/ChineseSimpleQA:scripts",
         "chinese_simpleqa.jsonl: question, answer", "CC-BY-NC-SA-4.0", _simpleqa, judged=True, aliases=("chinese_simpleqa",)),
    _row("ifeval", 5, "IFEval", "prompt-level strict", "google-research/google-research:instruction_following_eval",
         "input_data.jsonl: key, prompt, instruction_id_list, kwargs", "Apache-2.0",
         lambda prediction, gold, tools: score_ifeval(str(prediction), gold), needs="ifeval",
         gold="the item: instruction_id_list, kwargs"),
    _row("alpacaeval2", 5, "AlpacaEval 2", "raw win rate against gpt4_1106_preview",
         "tatsu-lab/alpaca_eval:src/alpaca_eval/metrics",
         "model_outputs.json of the baseline: instruction, output", "CC-BY-NC-4.0", _alpaca, judged=True, aliases=("alpaca_eval",)),
    _row("arena_hard", 5, "Arena-Hard v0.1", "win rate, two games with the seats exchanged",
         "lmarena/arena-hard-auto:show_result.py",
         "question.jsonl: uid, cluster, prompt", "Apache-2.0", _arena, judged=True, aliases=("arenahard",)),
)  # fmt: skip

ROWS: dict[str, Row] = {row.name: row for row in (*TABLE2, LAMBADA, *TABLE3, *TABLE5)}
ALIASES = {alias: row.name for row in ROWS.values() for alias in row.aliases}


def get_row(name: str) -> Row:
    """By its name or an alias; case and - do not matter. Raises UserError for another name."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in ROWS:
        raise UserError(f"There is no row {name}; there are {', '.join(ROWS)}.")
    return ROWS[plain]
