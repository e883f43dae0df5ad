"""Verdicts of `dots evaluate` compared with public ones on real outputs of models.

    python benchmarks/evaluation_oracles.py --oracles=DIR [--only=gsm8k,bbh] [--output=FILE.json]

DIR holds the files of public repositories that docs/evaluation.md lists; they are not part of this one. An oracle
whose files are missing is named. Prints one line an oracle: equal verdicts of all, and the first differences.
"""

import argparse
import glob
import itertools
import json
import os
import sys
import time
import zipfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from dots_jax.evaluation.rows.row import Tools, score_items  # noqa: E402
from dots_jax.evaluation.rows.table import get_row  # noqa: E402
from dots_jax.evaluation.scoring import judged  # noqa: E402

QWEN = "qwen/qwencoder-eval/base/"
MODELS = ("1.5b-base", "7b-base")


def lines(path: str) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def gsm8k(folder: str, tools: Tools):
    """Four systems x 1,319 solutions with `is_correct`."""
    items = zip(lines(f"{folder}/gsm8k_example_model_solutions.jsonl"), lines(f"{folder}/gsm8k_test.jsonl"))
    for item, gold in items:
        for system, answer in item.items():
            if isinstance(answer, dict):
                yield f"{system}: {item['question'][:40]}", answer["solution"], gold["answer"], answer["is_correct"]


def bbh(folder: str, tools: Tools):
    """code-davinci-002's chains of thought; the published accuracy of each of 27 tasks."""
    row = get_row("bbh")
    outputs = f"{folder}/suzgunmirac+BIG-Bench-Hard/code-davinci-002-outputs/code-davinci-002-cot"
    for path in sorted(glob.glob(f"{outputs}/*-255000.json")):
        published = lines(path.replace(".json", "_eval_metrics.jsonl"))[0]["accuracy"]
        outputs = json.load(open(path))["outputs"]
        scores = score_items(row, [(each["prediction"], each["target"])
                                   for each in outputs], tools)  # fmt: skip
        found = 100 * sum(score.value for score in scores) / len(scores)
        yield os.path.basename(path).partition("_few_shot")[0], round(found, 1), None, round(published, 1)


def mmlu_pro(folder: str, tools: Tools):
    """The letter `pred` of published outputs."""
    for path in sorted(glob.glob(f"{folder}/mmlu_pro/*.zip")):
        with zipfile.ZipFile(path) as archive:
            items = json.load(archive.open(next(name for name in archive.namelist() if name.endswith(".json"))))
        for item in items:
            text = item.get("generated_text", item.get("model_outputs"))
            yield f"{os.path.basename(path)} {item['question_id']}", text, item["answer"], item["pred"]


def humaneval(folder: str, tools: Tools):
    golds = {item["task_id"]: item for item in lines(f"{folder}/HumanEval.jsonl")}
    for model in MODELS:
        verdicts = json.load(
            open(f"{folder}/{QWEN}outptus/qwen2.5-coder/{model}/evalplus/humaneval/generated_eval_results.json")
        )
        for task, results in verdicts["eval"].items():
            yield f"{model} {task}", results[0]["solution"], golds[task], results[0]["base_status"] == "pass"


def mbpp_plus(folder: str, tools: Tools):
    """Base, and base with plus, of each program."""
    golds = {item["task_id"]: item for item in lines(f"{folder}/{QWEN}eval_cache/evalplus/MbppPlus-v0.1.0.jsonl")}
    for model in MODELS:
        verdicts = json.load(
            open(f"{folder}/{QWEN}outptus/qwen2.5-coder/{model}/evalplus/mbpp/generated_eval_results.json")
        )
        for task, results in verdicts["eval"].items():
            wanted = [results[0]["base_status"] == "pass", results[0]["plus_status"] == "pass"]
            yield f"{model} {task}", results[0]["solution"], golds[task], wanted


def bigcodebench(folder: str, tools: Tools):
    path = f"{folder}/{QWEN}benchmarks/bigcodebench/data/bigcodebench_hard.json"
    text = open(path, encoding="utf-8").read()
    items = json.loads(text) if text.lstrip().startswith("[") else lines(path)
    golds = {item["task_id"]: item for item in (items.values() if isinstance(items, dict) else items)}
    for model in MODELS:
        (path,) = glob.glob(f"{folder}/{QWEN}outptus/qwen2.5-coder/{model}/bigcodebench/hard/*_eval_results.json")
        for task, results in json.load(open(path))["eval"].items():
            yield f"{model} {task}", results[0]["solution"], golds[task], results[0]["status"] == "pass"


def alpaca(folder: str, tools: Tools):
    """Raw win rates of the leaderboard, from its annotations."""
    for path in sorted(glob.glob(f"{folder}/alpaca/*.json")):
        found = json.load(open(path))
        rate, _ = judged.alpaca_win_rate([each["preference"] for each in found["annotations"]])
        yield found["model"], round(rate, 4), None, round(found["win_rate"], 4)


def mbpp_references(folder: str, tools: Tools):
    """MBPP's own solutions must pass their own tests."""
    for item in lines(f"{folder}/mbpp.jsonl"):
        yield f"Mbpp/{item['task_id']}", item["code"], item, True


ORACLES = {"gsm8k": gsm8k, "bbh": bbh, "mmlu_pro": mmlu_pro, "humaneval": humaneval, "mbpp_plus": mbpp_plus, "alpaca": alpaca,
           "mbpp": mbpp_references, "bigcodebench": bigcodebench}  # fmt: skip


def verdicts(name: str, cases: list, tools: Tools) -> list:
    """Ours, in the form of the published ones."""
    if cases and cases[0][2] is None:  # figures of many items
        return [case[1] for case in cases]
    scores = score_items(get_row(name), [(case[1], case[2]) for case in cases], tools)
    if name == "mmlu_pro":
        return [score.extracted for score in scores]
    if name == "mbpp_plus":
        kinds = [[score.details["base"] == "passed", score.details.get("plus") == "passed"] for score in scores]
        return [[base, base and plus] for base, plus in kinds]
    return [score.correct for score in scores]


def compare(name: str, folder: str, show: int) -> dict | None:
    began = time.monotonic()
    with Tools() as tools:
        try:
            cases = list(ORACLES[name](folder, tools))
        except FileNotFoundError as error:
            print(f"{name}: not run, {error.filename} is missing")
            return None
        if not cases:
            print(f"{name}: not run, no files of it in {folder}")
            return None
        wanted = [case[3] for case in cases]
        if name == "mbpp_plus":
            wanted = [[base, base and plus] for base, plus in wanted]
        found = verdicts(name, cases, tools)
    different = [(case[0], ours, theirs) for case, ours, theirs in zip(cases, found, wanted) if ours != theirs]
    seconds = time.monotonic() - began
    print(f"{name}: {len(cases) - len(different)} of {len(cases)} equal, {seconds:.0f} s", flush=True)
    for each in itertools.islice(different, show):
        print("   ", *each)
    return {
        "equal": len(cases) - len(different),
        "of": len(cases),
        "seconds": round(seconds, 1),
        "different": different,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracles", required=True)
    parser.add_argument("--only", default=",".join(ORACLES))
    parser.add_argument("--show", type=int, default=12)
    parser.add_argument("--output")
    options = parser.parse_args()
    results = {name: compare(name, options.oracles, options.show) for name in options.only.split(",")}
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
