"""The rows that are answered with a program: their published files as groups of items."""

from collections.abc import Iterator

from dots_jax.evaluation.tasks.files import Files, read_json, read_records, require
from dots_jax.evaluation.tasks.task import Group, Item

MBPP_SHOTS = (2, 3, 4)  # task ids, of the original prompt
MBPP_TEST = range(11, 511)


def humaneval(files: Files) -> Iterator[Group]:
    def items(path: str) -> Iterator[Item]:
        for row in read_records(path, "task_id", "prompt", "entry_point", "test"):
            yield Item(row["task_id"], row["prompt"].replace("\r\n", "\n"), "", row)

    yield Group("", items(files.one("HumanEval.jsonl", "HumanEval.jsonl.gz", "humaneval.jsonl")))


def mbpp(files: Files) -> Iterator[Group]:
    """Tasks 11 to 510; 2, 3 and 4 are the shots. The published code has CR LF, which would teach the model to write it."""

    def item(row: dict) -> Item:
        code, tests = row["code"].replace("\r\n", "\n").strip(), "\n".join(row["test_list"])
        context = (
            f"You are an expert Python programmer, and here is your task: {row['text'].strip()} Your code should pass these "
            f"tests:\n\n{tests}\n[BEGIN]\n"
        )
        return Item(str(row["task_id"]), context, f"{code}\n[DONE]", row)

    rows = read_records(files.one("mbpp.jsonl"), "task_id", "text", "code", "test_list")
    shots = tuple(item(row) for row in rows if row["task_id"] in MBPP_SHOTS)
    yield Group("", (item(row) for row in rows if row["task_id"] in MBPP_TEST), shots)


def mceval(files: Files) -> Iterator[Group]:
    """Python alone can be judged here; the other languages' files stay unread."""
    items = [
        Item(row["task_id"], row["prompt"].rstrip() + "\n", "", row)
        for row in read_records(files.one("Python.jsonl"), "task_id", "prompt", "entry_point", "test")
    ]
    yield Group("Python", items)


def bigcodebench(files: Files) -> Iterator[Group]:
    path = files.one("BigCodeBench.jsonl", "bigcodebench.json", "BigCodeBench-Hard.jsonl", "bigcodebench_hard.json")
    rows = list(read_json(path).values()) if path.endswith(".json") else read_records(path)
    items = []
    for row in rows:
        require(row, path, "task_id", "complete_prompt", "code_prompt", "test")
        items.append(Item(row["task_id"], row["complete_prompt"].rstrip() + "\n", "", row))
    yield Group("", items)


def mbpp_plus(files: Files) -> Iterator[Group]:
    def items(path: str) -> Iterator[Item]:
        for row in read_records(path, "task_id", "prompt", "entry_point", "canonical_solution"):
            text = "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
            yield Item(row["task_id"], text + row["prompt"].strip(), "", row)

    yield Group("", items(files.one("MbppPlus-v0.1.0.jsonl", "MbppPlus-v0.2.0.jsonl", "mbpp_plus.jsonl")))


def livecodebench(files: Files) -> Iterator[Group]:
    """Problems of 2024-05 to 2025-01, as the report takes them. The private tests are decoded by the scorer, never unpickled."""
    for name, path in files.matching(r"(test\d*)\.jsonl"):
        items = []
        for row in read_records(path, "question_content", "public_test_cases"):
            if not "2024-05" <= str(row.get("contest_date", "2024-05"))[:7] <= "2025-01":
                continue
            starter = f"\n\nStart from:\n```python\n{row['starter_code']}\n```" if row.get("starter_code") else ""
            text = f"Write a Python program that solves this problem, in one fenced block.\n\n{row['question_content']}{starter}"
            items.append(Item(str(row.get("question_id") or f"{name}/{len(items)}"), text, "", row))
        yield Group(name, items)
