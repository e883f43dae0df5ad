"""Verdicts of `dots evaluate` next to the official scripts', on mutated pairs of a prediction and a published answer.

    python -m benchmarks.evaluation_scripts --oracles=DIR --data=DATA [--pairs=1000] [--only=drop,nq] [--output=FILE.json]

DATA is as for `dots evaluate`: drop, triviaqa and nq. DIR holds the official scripts, which are run where they are and are not part
of this repository: `OWNER+NAME/` for allenai/allennlp-reading-comprehension (allennlp_rc/eval/drop_eval.py), mandarjoshi90/triviaqa
(evaluation, utils), google-research/language (language/orqa/utils/eval_utils.py), NVIDIA/RULER (scripts/eval), and for
google-research's instruction_following_eval with its 541 prompts josejg/instruction_following_eval.

Of each row an equal number of pairs is made with a fixed seed. Prints a line a script: equal verdicts of all, differences by their
reason, and the first of them.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import os
import random
import re
import sys
import time
import unicodedata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

from benchmarks.evaluation_mutations import followed, mutated, mutated_answer
from dots_jax.evaluation.rows.row import Tools
from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.scoring.score import Score
from dots_jax.evaluation.tasks.files import Files
from dots_jax.evaluation.tasks.table import TASKS

SEED = 19
GOLDS = 0.3  # of the pairs have a mutated answer as well


def module(folder: str, path: str, *roots: str) -> ModuleType:
    """A file of a public repository, run where it is. Raises FileNotFoundError."""
    with mock.patch.object(sys, "path", [*(os.path.join(folder, root) for root in roots), *sys.path]):
        spec = importlib.util.spec_from_file_location(Path(path).stem, os.path.join(folder, path))
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    return found


def golds(row: str, data: str) -> list:
    return [item.gold for group in TASKS[row].load(Files(data, row)) for item in group.items]


def rng_of(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")


# --- one script each: pairs of (prediction, our gold, the official verdict), and our verdict from a score ------------------------


def drop(options):
    """Exact match and F1 of `evaluate_json`; a fifth of the predictions are lists of spans."""
    official = module(options.oracles, "allenai+allennlp-reading-comprehension/allennlp_rc/eval/drop_eval.py")
    rng, items = rng_of("drop"), golds("drop", options.data)
    spans = [official.answer_json_to_strings(item["answer"])[0] for item in items]
    for number in range(options.pairs):
        item, right = items[number % len(items)], spans[number % len(items)]
        if rng.random() < GOLDS:
            right = [mutated_answer(each, rng, spans[0][0]) for each in right]
            item = {"answer": {"number": "", "date": {}, "spans": right}, "validated_answers": [item["answer"]]}
        if number % 5 == 4:
            prediction = [mutated(each, rng, spans[number % 7][0]) for each in (*right, *rng.choice(spans))]
            rng.shuffle(prediction)
            prediction = prediction[: rng.randint(1, 3)]
        else:
            prediction = mutated(rng.choice((" ", ", ", " and ")).join(right), rng, rng.choice(spans)[0])
        annotated = {"": {"qa_pairs": [item | {"query_id": "q"}]}}
        with contextlib.redirect_stdout(io.StringIO()):
            exact, f1 = official.evaluate_json(annotated, {"q": prediction})
        yield prediction, item, [float(exact), round(float(f1), 2)]


def triviaqa(options):
    """`evaluate_triviaqa`, whose answers are the aliases in its own normal form."""
    folder = f"{options.oracles}/mandarjoshi90+triviaqa"
    official = module(folder, "evaluation/triviaqa_evaluation.py", "")
    rng, items = rng_of("triviaqa"), [item["aliases"] for item in golds("triviaqa", options.data)]
    sample = json.loads(Path(folder, "samples/triviaqa_sample.json").read_text(encoding="utf-8"))
    items += [item["Answer"] for item in sample["Data"]]
    for number in range(options.pairs):
        item = items[number % len(items)]
        if isinstance(item, list) and rng.random() < GOLDS:
            item = [mutated_answer(each, rng, item[0]) for each in item]
        names = item if isinstance(item, list) else item["Aliases"]
        answer = item if isinstance(item, dict) else {"NormalizedAliases": list(map(official.normalize_answer, item))}
        prediction = mutated(rng.choice(names), rng, rng.choice(names))
        found = official.evaluate_triviaqa({"q": answer}, {"q": prediction}, mute=True)
        yield prediction, item, found["exact_match"] == 100


def nq(options):
    """`is_correct` of orqa's evaluation."""
    official = module(options.oracles, "google-research+language/language/orqa/utils/eval_utils.py")
    rng, items = rng_of("nq"), golds("nq", options.data)
    for number in range(options.pairs):
        item = items[number % len(items)]
        if rng.random() < GOLDS:
            item = [mutated_answer(each, rng, item[0]) for each in item]
        prediction = mutated(rng.choice(item), rng, rng.choice(rng.choice(items)))
        yield prediction, item, official.is_correct(item, prediction, is_regex=False)


def ruler(options, kind: str):
    """`postprocess_pred`, then the metric of the task."""
    folder = f"{options.oracles}/NVIDIA+RULER/scripts/eval"
    metrics = module(folder, "synthetic/constants.py").TASKS
    # evaluate.py reads its flags where it is imported: the one function is taken out of it.
    tree = ast.parse(Path(folder, "evaluate.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if getattr(node, "name", "") == "postprocess_pred")
    names: dict = {"re": re}
    exec(compile(ast.Module([function], []), "evaluate.py", "exec"), names)  # noqa: S102
    rng, words = rng_of(f"ruler {kind}"), [gold for item in golds("nq", options.data) for gold in item]
    made = [lambda: str(rng.randint(10**6, 10**7)), lambda: rng.choice(words), lambda: f"{rng.getrandbits(64):x}-ab"]
    for number in range(options.pairs):
        references = [made[number % 3]() for _ in range(rng.randint(1, 5))]
        said = [mutated(each, rng, rng.choice(words)) for each in references if rng.random() < 0.8]
        prediction = rng.choice((", ", "\n", " and ", "\x0b", "")).join(rng.sample(said, len(said)))
        official = metrics[kind]["metric_fn"]([names["postprocess_pred"](prediction, {})], [references])
        yield prediction, references, official


def ifeval(options):
    """Strict and loose verdicts of each instruction. Sentences and words are punkt's and Treebank's, without a download."""
    import langdetect
    import nltk
    import punkt
    from nltk.tokenize.destructive import NLTKWordTokenizer

    folder = f"{options.oracles}/josejg+instruction_following_eval"
    with open(f"{folder}/instruction_following_eval/data/input_data.jsonl", encoding="utf-8") as file:
        items = [json.loads(line) for line in file]
    sys.path.insert(0, folder)
    from instruction_following_eval import instructions_registry

    sentences = punkt.PunktSentenceTokenizer(punkt.load_model("english"))
    words = NLTKWordTokenizer()
    nltk.data.load = lambda *_: SimpleNamespace(tokenize=lambda text: list(sentences.tokenize(text)))
    nltk.word_tokenize = lambda text: [word for each in sentences.tokenize(text) for word in words.tokenize(each)]
    langdetect.DetectorFactory.seed = 0  # it draws at random otherwise
    rng = rng_of("ifeval")

    def verdicts(item, response) -> list[list[bool]]:
        lines = response.split("\n")
        cut = ["\n".join(each).strip() for each in (lines[1:], lines[:-1], lines[1:-1])]
        forms = [form for text in (response, *cut) for form in (text, text.replace("*", ""))]
        strict, loose = [], []
        for name, kwargs in zip(item["instruction_id_list"], item["kwargs"], strict=True):
            check = instructions_registry.INSTRUCTION_DICT[name](name)
            check.build_description(**kwargs)
            if "prompt" in (check.get_instruction_args() or ()):
                check.build_description(prompt=item["prompt"])
            follows = lambda text, check=check: bool(text.strip() and check.check_following(text))
            strict.append(follows(response))
            loose.append(any(map(follows, forms)))
        return [strict, loose]

    for number in range(options.pairs):
        item = items[number % len(items)]
        prediction = followed(item, rng)
        yield prediction, item, verdicts(item, prediction)


SCRIPTS = {
    "drop": ("drop", drop, lambda score: [score.details.get("em", 0.0), score.value]),
    "triviaqa": ("triviaqa", triviaqa, lambda score: score.correct),
    "nq": ("nq", nq, lambda score: score.correct),
    "ruler_all": ("ruler_vt", lambda options: ruler(options, "variable_tracking"), lambda score: round(100 * score.value, 2)),
    "ruler_any": ("ruler_qa_1", lambda options: ruler(options, "qa"), lambda score: round(100 * score.value, 2)),
    "ifeval": ("ifeval", ifeval, lambda score: [score.details["strict"], score.details["loose"]]),
}  # fmt: skip


def reason(name: str, prediction, gold, ours, theirs) -> str:
    """Why a verdict of ours is meant to be another one; empty if it is not."""
    letters = [kwargs.get("letter") or "a" for kwargs in gold["kwargs"]] if name == "ifeval" else []
    if any(not "a" <= letter.lower() <= "z" for letter in letters):
        return "the official script draws a random letter for a character that is none"
    if name in ("triviaqa", "nq") and "\n" in prediction and ours:
        return "the answer is in the first line, and more lines follow"
    if name in ("triviaqa", "nq") and not prediction.strip() and not ours:
        return "an empty prediction, which is never right here, and an answer that is empty in the normal form"
    texts = json.dumps([prediction, gold], ensure_ascii=False)
    if name in ("triviaqa", "drop") and ours > theirs and not unicodedata.is_normalized("NFC", texts):
        return "the same letters in another Unicode form, which are equal here"
    return ""


def compare(name: str, options) -> dict | None:
    began = time.monotonic()
    row, pairs, verdict = SCRIPTS[name]
    counts = {"equal": 0, "of": 0, "right": 0, "explained": {}, "different": []}
    with Tools() as tools:
        try:
            for prediction, gold, theirs in pairs(options):
                score: Score = ROWS[row].score(prediction, gold, tools)
                ours = verdict(score)
                counts["of"] += 1
                counts["right"] += score.value == 1
                if ours == theirs:
                    counts["equal"] += 1
                elif why := reason(name, prediction, gold, ours, theirs):
                    counts["explained"][why] = counts["explained"].get(why, 0) + 1
                else:
                    counts["different"].append([prediction, gold, ours, theirs])
        except FileNotFoundError as error:
            print(f"{name}: not run, {error.filename} is missing")
            return None
    counts["seconds"] = round(time.monotonic() - began, 1)
    print(f"{name}: {counts['equal']} of {counts['of']} equal, {counts['right']} of them right", flush=True)
    for why, number in counts["explained"].items():
        print(f"    {number} differ: {why}")
    for different in counts["different"][: options.show]:
        print("    ", *map(repr, different), sep=" | ")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracles", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--only", default=",".join(SCRIPTS))
    parser.add_argument("--show", type=int, default=8)
    parser.add_argument("--output")
    options = parser.parse_args()
    results = {name: compare(name, options) for name in options.only.split(",")}
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1, ensure_ascii=False)
            file.write("\n")


if __name__ == "__main__":
    main()
