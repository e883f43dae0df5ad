"""AGIEval: letters, several letters, and cloze answers, with the shots of its few_shot_prompts.csv where that is there."""

import ast
import csv
import io
from collections.abc import Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.rows.gold import ALPHABET
from dots_jax.evaluation.tasks.choices import index_of
from dots_jax.evaluation.tasks.files import Files, read_records, read_text
from dots_jax.evaluation.tasks.task import Group, Item

CLOZE = ("math", "gaokao-mathcloze")
SEVERAL = ("gaokao-physics", "jec-qa-kd", "jec-qa-ca")  # more than one letter can be right


def agieval(files: Files) -> Iterator[Group]:
    found = files.maybe("few_shot_prompts.csv")
    table = list(csv.DictReader(io.StringIO(read_text(found)))) if found else []
    for name, path in files.matching(r"([a-z]+(?:-[a-z]+)+|math)\.jsonl"):
        shots = _shots(table, name)
        about = (
            "以下是考试中各个问题的答案。\n"
            if _chinese(name)
            else "Here are the answers for the problems in the exam.\n"
        )
        yield Group(name, _items(path, name, min(3, len(shots))), shots, about if shots else "")


def _chinese(name: str) -> bool:
    return name.startswith(("gaokao", "jec")) and name != "gaokao-english" or name.endswith("-zh")


def _shots(table: list[dict], name: str) -> tuple[Item, ...]:
    """The file's odd rows hold an item a column, as a Python literal; the even ones explain them."""
    column = "sat-en" if name == "sat-en-without-passage" else name
    cells = [row.get(column) for row in table[::2]]
    shots = [
        _item(ast.literal_eval(cell), name, f"{name}/shot", number, True) for number, cell in enumerate(cells) if cell
    ]
    return tuple(shots)


def _items(path: str, name: str, shots: int) -> Iterator[Item]:
    for number, row in enumerate(read_records(path, "question")):
        yield _item(row, name, f"{name}/{number}", shots, shots > 0)


def _item(row: dict, name: str, id: str, problem: int, few: bool) -> Item:
    """problem: how many are before it in the prompt. few: in the reference's few-shot form, which numbers its problems."""
    passage, options = ("" if name.endswith("without-passage") else row.get("passage") or ""), row.get("options") or []
    gold = row.get("label") or row.get("answer")
    if not gold:
        raise UserError(f"The item {id} of AGIEval has neither a label nor an answer.")
    if isinstance(gold, str) and gold.startswith("["):
        gold = ast.literal_eval(gold)
    answer = str(gold) if isinstance(gold, (str, int, float)) else "".join(gold)
    letters = ALPHABET[: len(options)]
    single = name not in CLOZE and name not in SEVERAL
    # A record with one option holds all of them in one string.
    right = index_of(answer, id, letters) if single and len(options) > 1 else None
    context, lead = (_few_shot if few else _zero_shot)(row["question"], passage, options, name, problem)
    choices = tuple(f" {letter}" for letter in letters) if right is not None and not few else ()
    return Item(id, context, lead + answer, row, choices, right if choices else None)


def _few_shot(question: str, passage: str, options: list, name: str, problem: int) -> tuple[str, str]:
    head, choose, lead = (
        (f"问题 {problem + 1}.   ", "从以下选项中选择:    ", "答案是 ") if _chinese(name)
        else (f"Problem {problem + 1}.   ", "Choose from the following options:    ", "The answer is therefore ")
    )  # fmt: skip
    if name in CLOZE:
        return f"{head}{question}\n", lead
    return f"{head}{passage} {question}\n{choose}{' '.join(options)}\n", lead


def _zero_shot(question: str, passage: str, options: list, name: str, problem: int) -> tuple[str, str]:
    last = ALPHABET[len(options) - 1 if len(options) > 1 else 3 if _chinese(name) else 4]
    if name in CLOZE:
        return (
            (f"{passage}问题：{question}\n答案：", "")
            if _chinese(name)
            else (f"{passage}Q: {question}\nA: The answer is", " ")
        )
    if _chinese(name):
        return f"{passage}问题：{question} 选项：{' '.join(options)}\n答案：从A到{last}, 我们应选择", " "
    return f"{passage}Q: {question} Answer Choices: {' '.join(options)}\nA: Among A through {last}, the answer is", " "
