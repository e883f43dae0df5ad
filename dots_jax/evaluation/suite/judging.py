"""The judged rows: what the judge is asked about each answer, and the score of its replies.

The texts that the judge gets are the published ones, from the files of the row. A reply that cannot be read is asked for once more,
then counted as not understood: never right or wrong.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from dots_jax.evaluation.rows.row import Tools
from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.scoring import judged
from dots_jax.evaluation.scoring.score import Score
from dots_jax.evaluation.suite.judge import KeptJudge, Messages
from dots_jax.evaluation.tasks.task import Item


class Games(NamedTuple):
    """What is asked about one answer, and how its replies are judged: None of a reply that cannot be read."""

    asked: list[Messages]
    readable: Callable[[int, str], bool]
    score: Callable[[list[str]], Score]


def games(row: str, item: Item, answer: str, tools: Tools) -> Games:
    """SimpleQA: the grader's question. AlpacaEval: one comparison, its seats by the item. Arena-Hard: two, seats exchanged."""
    gold = item.gold
    if row == "alpacaeval2":
        first = gold["model_first"]
        outputs = (answer, gold["baseline"]) if first else (gold["baseline"], answer)
        text = _filled(gold["template"], instruction=gold["question"], output_1=outputs[0], output_2=outputs[1])
        parse = lambda reply: judged.parse_alpaca(reply, "m" if first else "M")
        score = lambda replies: Score(parse(replies[0]), judged.alpaca_win(parse(replies[0])))
        return Games([chat_messages(text)], lambda _, reply: parse(reply) is not None, score)
    if row == "arena_hard":
        system = [{"role": "system", "content": gold["system"]}] if gold["system"] else []
        pairs = ((gold["baseline"], answer), (answer, gold["baseline"]))
        texts = [
            _filled(gold["template"], QUESTION=gold["question"], ANSWER_A=a, ANSWER_B=b, question_1=gold["question"], answer_1=a,
                    answer_2=b)
            for a, b in pairs
        ]  # fmt: skip
        asked = [[*system, {"role": "user", "content": text}] for text in texts]
        readable = lambda _, reply: judged.parse_arena(reply) is not None
        return Games(asked, readable, lambda replies: ROWS[row].score(replies, None, tools))
    text = _filled(gold["template"], question=gold["question"], target=gold["target"], predicted_answer=answer)
    asked = [[{"role": "user", "content": text}]]
    readable = lambda _, reply: judged.parse_simpleqa(reply) is not None
    return Games(asked, readable, lambda replies: ROWS[row].score(replies[0], None, tools))


def _filled(template: str, **fields: str) -> str:
    """Not str.format: a question may hold braces, and so may the template."""
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), template)


def chat_messages(text: str) -> Messages:
    """The messages of a text in ChatML, or one of the user."""
    found = re.findall(r"<\|im_start\|>(\w+)\n(.*?)\s*<\|im_end\|>", text, re.S)
    return [{"role": role, "content": content} for role, content in found] or [{"role": "user", "content": text}]


def judge_answers(
    row: str, pairs: Iterable[tuple[Item, str]], judge: KeptJudge, tools: Tools
) -> Iterator[Score]:  # fmt: skip
    """The scores of (item, answer) pairs, in order."""
    played = [games(row, item, answer, tools) for item, answer in pairs]
    replies = _split(judge.replies((messages, 0) for each in played for messages in each.asked), played)
    again = [
        [(messages, place) for place, messages in enumerate(each.asked) if not each.readable(place, found[place])]
        for each, found in zip(played, replies)
    ]
    second = judge.replies((messages, 1) for each in again for messages, _ in each)
    for each, found, unread in zip(played, replies, again):
        for _, place in unread:
            found[place] = next(second)
        score = each.score(found)
        details = {} if score.value is not None else {"left_out": "judge not understood"}
        yield Score(score.extracted, score.value, score.details | details)


def _split(replies: Iterator[str], played: list[Games]) -> list[list[str]]:
    return [[next(replies) for _ in each.asked] for each in played]
