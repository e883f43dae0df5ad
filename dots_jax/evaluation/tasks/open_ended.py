"""The rows that a judge reads: their published files as groups of items, with the text that the judge gets."""

import ast
import hashlib
from collections.abc import Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.tasks.files import Files, NoData, read_json, read_records, read_table, read_text, require
from dots_jax.evaluation.tasks.task import Group, Item

BASELINES = ("gpt-4-0314.jsonl", "baseline.jsonl")


def simpleqa(files: Files) -> Iterator[Group]:
    """simple_qa_test_set.csv, and the grader's text: grader.txt, or the GRADER_TEMPLATE of simpleqa_eval.py, which is only read."""
    path, template = files.one("simple_qa_test_set.csv"), grader_text(files)

    def items() -> Iterator[Item]:
        for number, row in enumerate(read_table(path, ("problem", "answer"), True)):
            gold = {"question": row["problem"], "target": row["answer"], "template": template}
            yield Item(str(number), row["problem"], f" {row['answer']}", gold)

    yield Group("", items())


def chinese_simpleqa(files: Files) -> Iterator[Group]:
    path, template = files.one("chinese_simpleqa.jsonl"), grader_text(files)

    def items() -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "question", "answer")):
            gold = {"question": row["question"], "target": row["answer"], "template": template}
            yield Item(str(row.get("id") or number), row["question"], f" {row['answer']}", gold)

    yield Group("", items())


def grader_text(files: Files) -> str:
    """Raises NoData without one, UserError for one without its three places."""
    plain = files.maybe("grader.txt")
    source = None if plain else files.maybe("simpleqa_eval.py", "chinese_simpleqa_eval.py")
    if not plain and not source:
        raise NoData(f"{files.folder} has neither grader.txt nor simpleqa_eval.py, which hold the judge's text.")
    text = read_text(plain) if plain else _assigned(source, "GRADER_TEMPLATE")
    for place in ("{question}", "{target}", "{predicted_answer}"):
        if place not in text:
            raise UserError(f"{plain or source}: the grader's text has no place {place}.")
    return text


def _assigned(path: str, name: str) -> str:
    """The text that a Python file assigns to a name, `.strip()` behind it or not. Nothing is run."""
    for node in ast.parse(read_text(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            value = node.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "strip":
                value = value.func.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value.strip()
    raise UserError(f"{path} assigns no text to {name}.")


def alpaca_eval(files: Files) -> Iterator[Group]:
    """The baseline's answers hold the instructions too. Which answer the judge sees first depends on the instruction alone."""
    path, template = files.one("model_outputs.json", "alpaca_eval.json"), read_text(files.one("alpaca_clf.txt"))
    items = []
    for number, row in enumerate(read_json(path)):
        require(row, f"{path} record {number + 1}", "instruction", "output")
        first = hashlib.sha256(row["instruction"].encode()).digest()[0] % 2 == 0
        gold = {"question": row["instruction"], "baseline": row["output"], "template": template, "model_first": first}
        items.append(Item(str(number), row["instruction"], "", gold))
    yield Group("", items)


def arena_hard(files: Files) -> Iterator[Group]:
    """question.jsonl, the baseline's answers, and judge_config.yaml, which holds the judge's texts."""
    import yaml

    path, answers = files.one("question.jsonl"), _baseline(files)
    config_path = files.one("judge_config.yaml", "arena-hard-v0.1.yaml")
    config = yaml.safe_load(read_text(config_path))
    require(config, config_path, "prompt_template")
    template = config["prompt_template"]
    template = template[0] if isinstance(template, list) else template
    items = []
    for number, row in enumerate(read_records(path)):
        id = str(row.get("uid") or row.get("question_id") or "")
        prompt = row.get("prompt") or (row.get("turns") or [{}])[0].get("content")
        if not id or not prompt:
            raise UserError(f"{path} record {number + 1} has no uid or no prompt.")
        if id not in answers:
            raise UserError(f"{path} record {number + 1}: the baseline has no answer to {id}.")
        gold = {
            "question": prompt,
            "baseline": answers[id],
            "template": template,
            "system": config.get("system_prompt", ""),
        }
        items.append(Item(id, prompt, "", gold))
    yield Group("", items)


def _baseline(files: Files) -> dict[str, str]:
    """Question -> answer, in the two forms in which arena-hard-auto publishes answers."""
    path, found = files.one(*BASELINES), {}
    for number, row in enumerate(read_records(path)):
        try:
            if "messages" in row:
                content = row["messages"][-1]["content"]
                found[str(row["uid"])] = content["answer"] if isinstance(content, dict) else content
            else:
                found[str(row["question_id"])] = row["choices"][0]["turns"][0]["content"]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{path} record {number + 1} is no answer of arena-hard-auto's form.") from None
    return found
