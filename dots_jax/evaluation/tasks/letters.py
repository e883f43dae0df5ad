"""The rows that are answered with one letter: their published files as groups of items."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.rows.gold import ALPHABET, options_of
from dots_jax.evaluation.tasks import subjects
from dots_jax.evaluation.tasks.choices import Template, index_of
from dots_jax.evaluation.tasks.files import Files, read_json, read_records, read_table, read_text, text_of
from dots_jax.evaluation.tasks.task import Group, Item

MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
PLAIN = Template()
CHINESE = Template(closing="答案:")
SELECT = Template(closing="请从{letters}中进行选择。\n答：", space="")


def _columns(path: str, prefix: str, template: Template, fields, header: bool) -> Iterator[Item]:
    question, *letters, answer = fields
    for number, row in enumerate(read_table(path, fields, header)):
        id = f"{prefix}/{number}"
        right = index_of(row[answer].upper(), id, letters)
        yield template.item(id, text_of(row[question]), [row[letter].strip() for letter in letters], right)


def _subjects(files: Files, test: str, dev: str, template_of, fields, header: bool, preamble=lambda subject: ""):
    """A group a subject: its test file, and the shots of its dev file where there is one."""
    for subject, path in files.matching(test):
        items = functools.partial(_columns, template=template_of(subject), fields=fields, header=header)
        shots = files.maybe(*(name.format(subject=subject) for name in dev.split("|")))
        yield Group(
            subject, items(path, subject), tuple(items(shots, f"{subject}/dev") if shots else ()), preamble(subject)
        )


def mmlu(files: Files) -> Iterator[Group]:
    about = "The following are multiple choice questions (with answers) about {}.\n\n"
    yield from _subjects(files, r"(\w+)_test\.csv", "{subject}_dev.csv", lambda _: PLAIN, MMLU_COLUMNS, False,
                         lambda subject: about.format(subject.replace("_", " ")))  # fmt: skip


def ceval(files: Files) -> Iterator[Group]:
    def template(subject: str) -> Template:
        name = subjects.CEVAL.get(subject, subject.replace("_", " "))
        return Template(before=f"以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n", closing="答案:")

    yield from _subjects(files, r"(\w+)_val\.csv", "{subject}_dev.csv", template, MMLU_COLUMNS, True)


def cmmlu(files: Files) -> Iterator[Group]:
    def template(subject: str) -> Template:
        name = subjects.CMMLU.get(subject, subject.replace("_", " "))
        return Template(before=f"以下是关于{name}的单项选择题，请直接给出正确答案的选项。\n题目：", closing="答案是:")

    fields = ("Question", "A", "B", "C", "D", "Answer")
    yield from _subjects(files, r"test/(\w+)\.csv", "dev/{subject}.csv", template, fields, True)


def cluewsc(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path, "target", "text", "label")):
            label = str(row["label"]).strip().lower()
            if label not in ("true", "false"):
                raise UserError(f"{path} record {number + 1} has the label {label!r}, not true or false.")
            target = row["target"]
            question = f"{row['text']}\n此处，“{target['span2_text']}”是否指代“{target['span1_text']}”？"
            yield SELECT.item(f"{prefix}{number}", question, ["是", "否"], int(label == "false"), gold=label)

    shots = files.maybe("train_few_all.json", "train.json", "train.jsonl")
    test = files.one("test_public.json", "test_public.jsonl")
    yield Group("", items(test, ""), tuple(itertools.islice(items(shots, "train/"), 40)) if shots else ())


def c3(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for passages, questions, *rest in read_json(path):
            for number, each in enumerate(questions):
                id = f"{prefix}/{rest[0] if rest else ''}/{number}"
                options = [text_of(option) for option in each["choice"]]
                right = index_of(text_of(each["answer"]), id, options)
                text = "\n".join(passages) + f"\n问：{each['question']}"
                yield SELECT.item(id, text, options, right)

    for part, path in (
        files.matching(r"c3-([md])-test\.json") if _has(files, "test") else files.matching(r"c3-([md])-dev\.json")
    ):
        shots = files.maybe(f"c3-{part}-train.json")
        yield Group(
            part, items(path, part), tuple(itertools.islice(items(shots, f"{part}/train"), 40)) if shots else ()
        )


def _has(files: Files, split: str) -> bool:
    return any(name.endswith(f"-{split}.json") for name in files.paths)


def xiezhi(files: Files) -> Iterator[Group]:
    """Each item's shots are those of the training file that share the most labels with it, as the reference picks them."""
    found = files.matching(r"xiezhi_((?:spec|inter)_(?:chn|eng))/xiezhi\.v1\.1\.json")
    for name, path in found:
        language = name[-3:]
        before, closing = ("题目: ", "答案:") if language == "chn" else ("Question: ", "Answer:")
        template = Template(before=before, closing=closing)
        train = files.maybe(f"xiezhi_train_{language}/xiezhi.v1.1.json")
        pool = _xiezhi(train, f"{name}/train", template) if train else []
        yield Group(name, (_with_shots(item, labels, pool) for item, labels in _xiezhi(path, name, template)))


def _xiezhi(path: str, prefix: str, template: Template) -> list[tuple[Item, frozenset]]:
    items = []
    for number, row in enumerate(read_records(path, "question", "options", "answer")):
        options, id = options_of({"options": row["options"]}), f"{prefix}/{number}"
        item = template.item(id, text_of(row["question"]), options, index_of(text_of(row["answer"]), id, options))
        items.append((item, frozenset(row.get("labels") or ())))
    return items


def _with_shots(item: Item, labels: frozenset, pool: list) -> Item:
    nearest = sorted(pool, key=lambda each: -len(each[1] & labels))  # stable: the file's order among equals
    shots = [shot for shot, _ in nearest[:8]]
    return dataclasses.replace(item, shots=tuple(shots))


def arc(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path)):
            id = str(row.get("id") or f"{prefix}{number}")
            if "query" in row:  # llm-foundry's form: the letters are lost, the order is the published one
                question = text_of(row["query"]).removeprefix("Question: ")
                yield template.item(id, question, row["choices"], int(row["gold"]))
                continue
            stem = row["question"]
            choices = stem["choices"] if isinstance(stem, dict) else row["choices"]
            if isinstance(choices, dict):
                choices = [{"label": a, "text": b} for a, b in zip(choices["label"], choices["text"])]
            right = index_of(str(row["answerKey"]), id, [str(each["label"]) for each in choices])
            question = stem["stem"] if isinstance(stem, dict) else stem
            yield template.item(id, text_of(question), [text_of(each["text"]) for each in choices], right)

    template = Template(before="Question: ")
    test = files.one("ARC-Challenge-Test.jsonl", "arc_challenge.jsonl", "test.jsonl")
    shots = files.maybe("ARC-Challenge-Train.jsonl", "train.jsonl")
    yield Group("", items(test, ""), tuple(itertools.islice(items(shots, "train/"), 60)) if shots else ())


def hellaswag(files: Files) -> Iterator[Group]:
    def items(path: str, prefix: str) -> Iterator[Item]:
        for number, row in enumerate(read_records(path)):
            id = f"{prefix}{row.get('ind', number)}"
            if "endings" in row:
                # Only the first letter of ctx_b changes: capitalize() would put the rest into lower case.
                rest = row["ctx_b"]
                text = f"{row['activity_label']}: {row['ctx_a']} {rest[:1].upper()}{rest[1:]}".strip()
                options, right = row["endings"], int(row["label"])
            else:  # llm-foundry's form
                text, options, right = row["query"], row["choices"], int(row["gold"])
            yield template.item(id, text, [text_of(option) for option in options], right)

    template = Template(option="{letter}) {text}", closing="What is the right option?")
    about = "Continue the following text without adding any additional information or formatting:\n"
    shots = files.maybe("hellaswag_train.jsonl", "train.jsonl")
    test = files.one("hellaswag_val.jsonl", "hellaswag.jsonl", "hellaswag_small.jsonl")
    yield Group("", items(test, ""), tuple(itertools.islice(items(shots, "train/"), 40)) if shots else (), about)


def piqa(files: Files) -> Iterator[Group]:
    def items(path: str, labels_path: str, prefix: str) -> Iterator[Item]:
        rows, labels = read_records(path, "goal", "sol1", "sol2"), read_text(labels_path).split()
        if len(rows) != len(labels):
            raise UserError(f"{labels_path} has {len(labels)} labels, but {path} has {len(rows)} items.")
        for number, (row, label) in enumerate(zip(rows, labels)):
            options = [text_of(row["sol1"]), text_of(row["sol2"])]
            id = f"{prefix}{number}"
            yield PLAIN.item(id, text_of(row["goal"]), options, index_of(label, id, ("0", "1")))

    train, train_labels = files.maybe("train.jsonl"), files.maybe("train-labels.lst")
    shots = tuple(itertools.islice(items(train, train_labels, "train/"), 40)) if train and train_labels else ()
    yield Group("", items(files.one("valid.jsonl"), files.one("valid-labels.lst"), ""), shots)


def mmlu_pro(files: Files) -> Iterator[Group]:
    """By category; the published validation file has the reasoning of the shots."""
    step = "Let's think step by step."
    template = Template(before="Question:\n", closing=f"Answer: {step}")

    def items(path: str, prefix: str) -> Iterator[tuple[str, Item]]:
        for number, row in enumerate(read_records(path, "question", "options", "answer")):
            options = [str(option) for option in row["options"] if option != "N/A"]
            id = f"{prefix}{row.get('question_id', number)}"
            right = index_of(row["answer"], id, ALPHABET[: len(options)])
            reasoning = text_of(row.get("cot_content") or "").removeprefix("A:").strip().removeprefix(step)
            answer = " " + (reasoning.strip() or f"The answer is ({row['answer']}).")
            question = f"{text_of(row['question'])}\nOptions:"
            yield row.get("category", ""), template.item(id, question, options, right, answer=answer, ranked=False)

    shots = files.maybe("validation.json", "validation.jsonl")
    pool = list(items(shots, "validation/")) if shots else []
    test = list(items(files.one("test.json", "test.jsonl"), ""))
    for category in dict.fromkeys(name for name, _ in test):
        about = (
            f"The following are multiple choice questions (with answers) about {category}. Think step by step and then "
            'output the answer in the format of "The answer is (X)" at the end.\n\n'
        )
        mine = lambda pairs: tuple(item for name, item in pairs if name == category)  # noqa: B023
        yield Group(category, mine(test), mine(pool), about)


def supergpqa(files: Files) -> Iterator[Group]:
    """The five shots are the user's five-shot.yaml; without it the prompt has none."""
    import yaml

    found = files.maybe("five-shot.yaml")
    prompt = (
        yaml.safe_load(read_text(found))["prompt_format"][0] if found else "{}\n\nAnswer: Let's think step by step."
    )
    template = Template(option="{letter}) {text}", closing="")
    for discipline, rows in itertools.groupby(
        read_records(files.one("SuperGPQA-all.jsonl"), "question", "options", "answer_letter"),
        lambda row: row.get("discipline", ""),
    ):
        items = []
        for row in rows:
            id = str(row.get("uuid") or row["question"][:80])
            options = [str(option) for option in row["options"]]
            item = template.item(
                id, row["question"], options, index_of(row["answer_letter"], id, ALPHABET), ranked=False
            )
            items.append(Item(id, prompt.format(item.context.rstrip("\n")).rstrip(), item.answer, item.gold))
        yield Group(discipline, items)


def mmlu_redux(files: Files) -> Iterator[Group]:
    for subject, path in files.matching(r"mmlu_(\w+)\.csv"):
        items = []
        for number, row in enumerate(read_table(path, ("question", "choices", "answer", "error_type"), True)):
            options = options_of({"choices": row["choices"]})
            right = index_of(row["answer"], f"{subject}/{number}", [str(n) for n in range(len(options))])
            items.append(
                PLAIN.item(f"{subject}/{number}", text_of(row["question"]), options, right, gold=row, ranked=False)
            )
        yield Group(subject, items)
