"""The chat template that came with weights, next to ours: rendered on six conversations, in a sandbox.

Servers and transformers format conversations with the template of the weights, and this project with `chat.py`. Where the two
differ, a model is trained on one form and asked in another.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from dots_jax.data.tokenizers import chat
from dots_jax.human import first_line
from dots_jax.storage import folder

LONGEST = 1 << 20  # bytes of a template that is rendered
_SYSTEM = {"role": "system", "content": "S"}
_TURNS = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": " 你好\n{{ Q2 }} "},
    {"role": "assistant", "content": "\n A2 "},
]
# What it is, the messages, and whether the model is to answer.
PROBES: tuple[tuple[str, list[dict], bool], ...] = (
    ("a question", _TURNS[:1], True),
    ("a question with a system message", [_SYSTEM, *_TURNS[:1]], True),
    ("a second question", _TURNS[:3], True),
    ("a second question with a system message", [_SYSTEM, *_TURNS[:3]], True),
    ("two exchanges", _TURNS, False),
    ("two exchanges with a system message", [_SYSTEM, *_TURNS], False),
)


class Difference(NamedTuple):
    """sentence: what differs. default_system: the system message that would remove the difference, or None."""

    sentence: str
    default_system: str | None = None


def template_of(path: str) -> str | None:
    """The template of a folder with chat_template.jinja or tokenizer_config.json, or of one of its files; None without."""
    here = folder(path)
    here = here if here.is_dir() else here.parent
    if (here / "chat_template.jinja").exists():
        return (here / "chat_template.jinja").read_text()
    if not (here / "tokenizer_config.json").exists():
        return None
    try:
        found = json.loads((here / "tokenizer_config.json").read_text()).get("chat_template")
    except (ValueError, AttributeError):
        return None
    if isinstance(found, list):  # several by name, as transformers has them
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def warning(path: str | None, default_system: str, setting: str) -> str | None:
    """What a person is told if the template next to a tokenizer is another one than ours; None if it is not.

    setting: how a default system message is set there, up to its value, as `--default_system=`.
    """
    template = template_of(path) if path else None
    found = difference(template, default_system) if template else None
    if not found:
        return None
    fix = "" if found.default_system is None else f": {setting}{found.default_system!r} does so too"
    return f"the chat template next to {path} is another one than that of dots_jax: {found.sentence}{fix}"


def difference(template: str, default_system: str = "") -> Difference | None:
    """How the template differs from ours on the probes; None if it does not.

    default_system: the system message that ours gives to conversations without one.
    """
    try:
        render = _renderer(template)
        theirs = [render(messages, answers) for _, messages, answers in PROBES]
    except Exception as error:  # noqa: BLE001  a template of strangers may raise anything
        return Difference(f"it cannot be rendered ({first_line(error)})")
    ours = [_ours(messages, answers, default_system) for _, messages, answers in PROBES]
    unequal = [number for number, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1]]
    if not unequal:
        return None
    found = _system_of(theirs[0])
    if found is not None and found != default_system:
        if theirs == [_ours(messages, answers, found) for _, messages, answers in PROBES]:
            said = f"the system message {found!r}" if found else "no system message"
            return Difference(f"it gives {said} to conversations without one", found)
    first = unequal[0]
    return Difference(
        f"it renders {PROBES[first][0]} as {theirs[first]!r}, not as {ours[first]!r}, and differs in {len(unequal)} of "
        f"{len(PROBES)} conversations"
    )


def _ours(messages: list[dict], answers: bool, default_system: str) -> str:
    return chat.render(chat.with_system(messages, default_system), answers)


def _system_of(question: str) -> str | None:
    """The system message that a rendered question begins with; empty if it begins with the question, None for other text."""
    begin, end = chat.TURNS["system"]
    if question.startswith(begin) and end in question:
        return question[len(begin) : question.index(end)]
    return "" if question.startswith(chat.TURNS["user"][0]) else None


def _renderer(template: str) -> Callable[[list[dict], bool], str]:
    """As transformers renders it: the same sandbox, block trimming and extensions."""
    from jinja2 import ext, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """`{% generation %}`, which only marks what is learned."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    if len(template) > LONGEST:
        raise ValueError(f"it has {len(template):,} characters")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    compiled = environment.from_string(template)
    return lambda messages, answers: compiled.render(messages=messages, add_generation_prompt=answers)


def _raise(message: str):
    raise ValueError(message)
