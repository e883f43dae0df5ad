"""The file of questions: JSON lines, each a prompt and what decides whether an answer to it is right.

    {"id": "q1", "messages": [{"role": "user", "content": "What is 2 + 2?"}], "answer": "4"}
    {"id": "q2", "prompt": "Write add(a, b).", "tests": ["assert add(1, 2) == 3"], "entry_point": "add"}

The prompt is `messages`, or a user's text in `prompt`, `question` or `problem`. `answer` is a text, a number, or a solution that
states it (GSM8K's `#### 4`). `tests` are assertions in Python; `setup`, `entry_point` and `call_check` as of `ScriptTests`.
Without an `id` a hash of the prompt is the id.
"""

import dataclasses
import functools
import hashlib
import json

from dots_jax.config import UserError
from dots_jax.data.sources import json_lines
from dots_jax.data.tokenizers import chat
from dots_jax.sandbox.check import ScriptTests

PROMPTS = ("messages", "prompt", "question", "problem")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One of `answer` and `tests` is set."""

    id: str | int
    messages: tuple[dict, ...]  # {"role", "content"}, the last of them the user's
    answer: str | None = None
    tests: ScriptTests | None = None

    @functools.cached_property
    def prompt_sha256(self) -> str:
        """Names the prompt, so that a sample is never judged by another question of the same id."""
        return _sha256(self.messages)


def read_questions(path: str) -> list[Question]:
    """In the order of the file.

    Raises:
      UserError: naming the line, for the first that is no question, has no answer, or has an id or a prompt of another line.
    """
    found: dict[str | int, Question] = {}
    lines: dict[str | int, int] = {}
    for number, fields in json_lines.read_rows(path):
        at = f"{path} line {number}"
        if isinstance(fields, json_lines.Malformed):
            raise UserError(f"{at} is {fields.reason}.")
        if not isinstance(fields, dict):
            raise UserError(f"{at} is no JSON object: each line is one question with a prompt and an answer.")
        question = _question(at, fields)
        if question.id in found:
            raise UserError(
                f"{at} has the id {question.id!r} of line {lines[question.id]}: ids must differ, since samples name them."
            )
        found[question.id], lines[question.id] = question, number
    if not found:
        raise UserError(f"{path} has no questions.")
    return list(found.values())


def _sha256(messages: tuple[dict, ...]) -> str:
    turns = [[one["role"], one["content"]] for one in messages]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]


def _question(at: str, fields: dict) -> Question:
    messages = tuple(_messages(at, fields))
    name = fields.get("id", _sha256(messages))
    if not is_id(name):
        raise UserError(f"{at} has the id {name!r}: an id is a text or an integer.")
    answer, tests = fields.get("answer"), fields.get("tests")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if tests is not None:
        return Question(id=name, messages=messages, tests=_tests(at, fields))
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"{at} has no answer: it needs `answer`, a text or a number, or `tests`, assertions in Python.")
    return Question(id=name, messages=messages, answer=answer)


def is_id(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _messages(at: str, fields: dict) -> list[dict]:
    given = [name for name in PROMPTS if fields.get(name) is not None]
    if len(given) != 1:
        has = " and ".join(given) or "none"
        raise UserError(f"{at} needs one prompt, in one of {', '.join(PROMPTS)}, but has {has}.")
    value = fields[given[0]]
    messages = value if given[0] == "messages" else [{"role": "user", "content": value}]
    try:
        chat.check(messages, answered=False)
    except chat.MalformedConversation as error:
        raise UserError(f"{at} cannot be asked, since in {given[0]} {error}.") from None
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise UserError(f"{at} cannot be asked, since in {given[0]} the last message is no text of the user.")
    return [{"role": one["role"], "content": one["content"]} for one in messages]


def _tests(at: str, fields: dict) -> ScriptTests:
    tests = fields["tests"]
    code = "\n".join(tests) if isinstance(tests, list) and all(isinstance(one, str) for one in tests) else tests
    if not isinstance(code, str) or not code.strip():
        raise UserError(f"{at} has tests that are no Python text: give assertions, as one text or a list of texts.")
    setup, entry = fields.get("setup") or "", fields.get("entry_point")
    if not isinstance(setup, str) or not isinstance(entry, (str, type(None))):
        raise UserError(f"{at}: setup and entry_point are texts.")
    return ScriptTests(code=code, setup=setup, entry_point=entry, call_check=bool(fields.get("call_check")))
