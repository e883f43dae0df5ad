"""The rows that are answered with a text, a number or a derivation: their published files as groups of items."""

import itertools
import re
from collections.abc import Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.rows.gold import ALPHABET
from dots_jax.evaluation.tasks.choices import Template
from dots_jax.evaluation.tasks.files import Files, read_json, read_records, read_table, read_text, require, text_of
from dots_jax.evaluation.tasks.task import Group, Item

POOL = 40  # of training items that are read for shots
STEPS = "Let's think step by step"
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def _first(items: Iterator[Item]) -> tuple[Item, ...]:
    return tuple(itertools.islice(items, POOL))


def gsm8k(files: Files) -> Iterator[Group]:
    """The shots are Wei et al.'s eight in gsm8k_prompt.txt, or the first eight of train.jsonl."""

    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "question", "answer")):
            context = f"Question: {text_of(row['question'])}\n{STEPS}\n"
            reasoning, _, result = re.sub(r"<<[^>]*>>", "", row["answer"]).rpartition("####")
            if "####" not in row["answer"]:
                raise UserError(f"{path} record {number + 1} has no #### in its answer.")
            answer = f"{reasoning.strip()} The answer is {result.strip()}"
            yield Item(f"{prefix}{number}", context, answer, row["answer"])

    prompt = files.maybe("gsm8k_prompt.txt")
    train = None if prompt else files.maybe("train.jsonl")
    shots = _first(items(train, "train/")) if train else _blocks(read_text(prompt), "Question:") if prompt else ()
    yield Group("", items(files.one("test.jsonl", "gsm8k_test.jsonl"), ""), shots)


def _blocks(text: str, marker: str) -> tuple[Item, ...]:
    """The shots of a prompt file: blocks that begin with `marker`. All of a block counts as context."""
    blocks = re.split(rf"\n\s*(?={re.escape(marker)})", text.strip())
    return tuple(
        Item(f"shot/{n}", block.strip(), "", None) for n, block in enumerate(blocks) if block.startswith(marker)
    )


def math(files: Files) -> Iterator[Group]:
    """By type. The shots are those of minerva_prompt.txt, or the first four of train."""

    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "problem", "solution")):
            context = f"Problem:\n{text_of(row['problem'])}\n\nSolution:"
            yield Item(f"{prefix}{number}", context, f" {row['solution']}", row["solution"])

    prompt = files.maybe("minerva_prompt.txt")
    train = None if prompt else files.maybe("train.json", "train.jsonl")
    shots = _first(items(train, "train/")) if train else _blocks(read_text(prompt), "Problem:") if prompt else ()
    yield Group("", items(files.one("test.json", "test.jsonl", "math_test.jsonl"), ""), shots)


def boxed_math(files: Files) -> Iterator[Group]:
    """AIME, MATH-500, CNMO: problem and answer, zero-shot."""

    def items(path: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "answer")):
            question = row.get("problem") or row.get("question")
            if not question:
                raise UserError(f"{path} record {number + 1} has neither problem nor question.")
            id = str(row.get("unique_id") or row.get("id") or number)
            yield Item(id, text_of(question) + BOXED, f" {row['answer']}", str(row["answer"]))

    yield Group("", items(files.one("test.jsonl", "test.json")))


def cmath(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "golden")):
            question = row.get("input") or row.get("question")
            if not question:
                raise UserError(f"{path} record {number + 1} has neither input nor question.")
            yield Item(f"{prefix}{number}", f"问题：{text_of(question)}\n答案：", str(row["golden"]), row["golden"])

    test, dev = files.maybe("cmath_test.jsonl", "test.jsonl"), files.maybe("cmath_dev.jsonl")
    dev_as_test = test is None
    shots = () if dev_as_test or dev is None else _first(items(dev, "dev/"))
    yield Group("", items(test or files.one("cmath_test.jsonl", "test.jsonl", "cmath_dev.jsonl"), ""), shots)


def bbh(files: Files) -> Iterator[Group]:
    """A group a task. Its shots, with their reasoning, are those of cot-prompts/{task}.txt."""
    for task, path in files.matching(r"bbh/(\w+)\.json"):
        prompt = files.maybe(f"cot-prompts/{task}.txt")
        text = read_text(prompt).partition("-----\n")[2] if prompt else ""
        about, _, rest = text.partition("Q: ")
        shots = _blocks("Q: " + rest, "Q:") if rest else ()
        content = read_json(path)
        require(content, path, "examples")
        items = []
        for number, row in enumerate(content["examples"]):
            require(row, f"{path} example {number}", "input", "target")
            context = f"Q: {row['input']}\nA: {STEPS}."
            items.append(Item(f"{task}/{number}", context, f" So the answer is {row['target']}.", row["target"]))
        yield Group(task, items, shots, about)


def triviaqa(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(_trivia_rows(path)):
            question = row.get("Question") or row.get("question")
            if question is None:  # llm-foundry's form
                question = text_of(row["context"]).removeprefix("Question: ").removesuffix("\nAnswer:")
            answer = row.get("Answer", row.get("answer"))
            name = answer.get("Value") or answer.get("value") if isinstance(answer, dict) else answer
            gold = row if "aliases" in row else answer
            id = str(row.get("QuestionId") or row.get("question_id") or number)
            yield Item(f"{prefix}{id}", f"Question: {question}\nAnswer:", f" {name}", gold)

    train = files.maybe("unfiltered-web-train.json", "wikipedia-train.json", "train.jsonl")
    test = files.one("unfiltered-web-dev.json", "wikipedia-dev.json", "triviaqa_sm_sub.jsonl", "triviaqa.jsonl")
    yield Group("", items(test, ""), _first(items(train, "train/")) if train else ())


def _trivia_rows(path: str) -> list[dict]:
    return read_json(path)["Data"] if path.endswith(".json") else read_records(path)


def nq(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "question", "answer")):
            if not row["answer"]:
                raise UserError(f"{path} record {number + 1} has no answer.")
            question = row["question"].rstrip("?")  # the published questions have none
            yield Item(f"{prefix}{number}", f"Q: {question}?\nA:", f" {row['answer'][0]}", row["answer"])

    train = files.maybe("NQ-open.train.jsonl", "train.jsonl")
    yield Group("", items(files.one("NQ-open.dev.jsonl"), ""), _first(items(train, "train/")) if train else ())


def drop(files: Files) -> Iterator[Group]:
    official = files.maybe("drop_dataset_dev.json", "drop.json")
    train = files.maybe("drop_dataset_train.json")
    if official:
        yield Group("", _drop(official, ""), _first(_drop(train, "train/")) if train else ())
        return

    def simple(path: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "context", "ref_text")):
            context = text_of(row["context"])
            yield Item(str(number), context, f" {row['ref_text'].split('|')[0]}", {"ref_text": row["ref_text"]})

    yield Group("", simple(files.one("drop_v0_dev.jsonl.gz", "drop_v0_dev.jsonl", "drop_dataset_dev.json")))


def _drop(path: str, prefix: str) -> Iterator[Item]:
    for passage_id, passage in read_json(path).items():
        for number, pair in enumerate(passage["qa_pairs"]):
            require(pair, f"{path} {passage_id}", "question", "answer")
            context = f"Passage: {text_of(passage['passage'])}\nQuestion: {text_of(pair['question'])}\nAnswer:"
            found = pair["answer"]
            date = (
                " ".join(found["date"].get(part, "") for part in ("day", "month", "year")).split()
                if found.get("date")
                else []
            )
            text = found.get("number") or ", ".join(found.get("spans") or ()) or " ".join(date)
            yield Item(f"{prefix}{pair.get('query_id') or f'{passage_id}/{number}'}", context, f" {text}", pair)


def lambada(files: Files) -> Iterator[Group]:
    def items(path: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "context", "continuation")):
            word = " " + row["continuation"].strip()
            yield Item(str(number), row["context"].rstrip(), word, row["continuation"])

    yield Group("", items(files.one("lambada_openai.jsonl")))


def ifeval(files: Files) -> Iterator[Group]:
    def items(path: str) -> Iterator[Item]:
        for row in read_records(path, "key", "prompt", "instruction_id_list", "kwargs"):
            yield Item(str(row["key"]), row["prompt"], "", row)

    yield Group("", items(files.one("input_data.jsonl")))


def gpqa(files: Files) -> Iterator[Group]:
    """The options in an order that depends on the item's number alone, as simple-evals permutes them by a seed."""
    import random

    template = Template(
        before="Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.\n\n",
        option="{letter}) {text}", closing="",
    )  # fmt: skip
    names = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    items = []
    for number, row in enumerate(read_table(files.one("gpqa_diamond.csv"), ("Question", *names), True)):
        order = random.Random(number).sample(range(4), 4)
        options, right = [text_of(row[names[n]]) for n in order], order.index(0)
        item = template.item(str(number), text_of(row["Question"]) + "\n", options, right, ranked=False)
        items.append(Item(item.id, item.context.rstrip("\n"), item.answer, ALPHABET[right]))
    yield Group("", items)
