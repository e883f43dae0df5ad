"""How a record becomes a text, and which records are taken: templates and predicates, parsed and checked when they are set.

A predicate is a text of three parts, `path operator value`:

    score >= 3                      < <= > >= compare numbers, or strings with strings
    meta.lang == 'zh'               == and != compare numbers, strings, True and False
    license_type in ('permissive', 'none')
    crawl_id not startswith 'CC-'

A path names a field of the record, with dots for fields inside fields. Values are Python literals; nothing is evaluated.
"""

import ast
import dataclasses
import operator
import re
import string
import typing

from dots_jax.config.checks import UserError, require

TEXT_HASH = "sha256(text)"  # in Source.exclude: the hash of the text itself, in hex
# Of each Source.format, the field of a record that it reads first.
CONVERSATION_FORMATS = {
    "messages": "messages", "sharegpt": "conversations", "alpaca": "instruction", "prompt_completion": "prompt",
    "moss": "chat", "coig": "conversations", "belle": "instruction", "oasst": "prompt", "dolly": "instruction",
    "gsm8k": "question",
}  # fmt: skip
_PATH = r"[^\s'\"()<>=!,]+"
_PREDICATE = re.compile(
    rf"({_PATH})\s*(<=|>=|==|!=|<|>|\bnot\s+in\b|\bin\b|\bnot\s+startswith\b|\bstartswith\b)(?!=)\s*(.+)"
)
_COMPARE = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_ORDERED = ("<", "<=", ">", ">=")


@dataclasses.dataclass(frozen=True)
class Predicate:
    """One comparison. value: a number, a string, a bool, or a tuple of numbers or of strings for `in`."""

    text: str  # as the user wrote it, which reports repeat
    path: str
    op: str
    value: typing.Any

    @property
    def kind(self) -> str:
        """What a field must be for this: `number`, `string` or `bool`."""
        one = self.value[0] if isinstance(self.value, tuple) else self.value
        return "bool" if isinstance(one, bool) else "string" if isinstance(one, str) else "number"

    def fits(self, found: object) -> bool:
        """Whether a field's value is of the kind that this compares."""
        if self.kind == "number":
            return isinstance(found, (int, float)) and not isinstance(found, bool)
        return isinstance(found, str if self.kind == "string" else bool)

    def holds(self, found) -> bool:
        """Of a value that fits."""
        if self.op in _COMPARE:
            return _COMPARE[self.op](found, self.value)
        if self.op.endswith("in"):
            return (found in self.value) != self.op.startswith("not")
        return found.startswith(self.value) != self.op.startswith("not")

    def may_hold(self, low, high) -> bool:
        """Whether it can hold for any value from low to high, which both fit."""
        if self.op == "==":
            return low <= self.value <= high
        if self.op in ("<", "<="):
            return _COMPARE[self.op](low, self.value)
        if self.op in (">", ">="):
            return _COMPARE[self.op](high, self.value)
        if self.op == "in":
            return any(low <= value <= high for value in self.value)
        if self.op == "startswith":
            return low[: len(self.value)] <= self.value <= high[: len(self.value)]
        return True


def parse_predicate(where: str, text: str) -> Predicate:
    """Raises UserError for what is no predicate or compares what cannot be compared. where: the setting, for the message."""
    found = _PREDICATE.fullmatch(text.strip())
    if not found:
        raise UserError(
            f"{where}: {text!r} is no predicate: write it as in 'score >= 3' or \"language in ('zh', 'en')\"."
        )
    path, op, literal = found.groups()
    op = " ".join(op.split())
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UserError(
            f"{where}: in {text!r}, {literal} is no value: write a number, or a string in quotes."
        ) from None
    value = tuple(value) if isinstance(value, (list, set)) else value
    if op.endswith("in") and not isinstance(value, tuple):
        raise UserError(f"{where}: in {text!r}, `{op}` needs values in brackets, as in ('a', 'b').")
    kinds = {_kind(one) for one in (value if isinstance(value, tuple) else (value,))}
    allowed = {"string", "number"} if op in _ORDERED or op.endswith("in") else {"string", "number", "bool"}
    allowed = {"string"} if op.endswith("startswith") else allowed
    require(
        len(kinds) == 1 and kinds <= allowed and isinstance(value, tuple) == op.endswith("in"),
        f"{where}: in {text!r}, `{op}` cannot compare {literal}: it takes {_listed(allowed)}"
        f"{' of one kind' if op.endswith('in') else ''}.",
    )
    return Predicate(text.strip(), path, op, value)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "number" if isinstance(value, (int, float)) else "other"


def _listed(kinds: set[str]) -> str:
    return " or ".join({"string": "strings", "number": "numbers", "bool": "True or False"}[k] for k in sorted(kinds))


def parse_template(where: str, template: str) -> tuple[tuple[str, str], ...]:
    """((text before, path of a field), ...), the last with an empty path. Raises UserError for a broken template."""
    parts = []
    try:
        for before, path, form, conversion in string.Formatter().parse(template):
            require(
                not form and not conversion, f"{where}: {{{path}}} takes no format; write the name of the field alone."
            )
            require(path != "", f"{where}: {{}} in {template!r} names no field.")
            parts.append((before, path or ""))
    except ValueError as error:
        raise UserError(
            f"{where}: {template!r} is no template ({error}): write braces that stay as {{{{ and }}}}."
        ) from None
    require(any(path for _, path in parts), f"{where}: {template!r} names no field, as in '{{title}}'.")
    return tuple(parts)


@dataclasses.dataclass(frozen=True)
class RecordRule:
    """How a record becomes a text. Without a template, the text is the field; with one, the fields that it names.
    With `each`, a path to a list of objects, the template makes a text of each of them, and `join` stands between two."""

    field: str = "text"
    template: str = ""
    each: str = ""
    join: str | None = None  # between the strings of a list; None: a list is no text
    filters: tuple[Predicate, ...] = ()
    min_characters: int = 0
    max_characters: int = 0  # 0: any
    min_tokens: int = 0  # without the end token; known when the text is tokenised
    max_tokens: int = 0  # 0: any
    exclude: tuple[tuple[str, str], ...] = ()  # ((path or TEXT_HASH, glob of lists), ...)
    held_out: float = 0.0  # share of the texts, by a hash, that are of the validation split
    is_held_out: bool = False  # whether this is the rule of that split
    repeat_field: str = ""
    repeat_steps: tuple[tuple[int, int], ...] = ()
    format: str = (
        ""  # of a conversation: one of CONVERSATION_FORMATS, `auto` or `field_map`; "": the field holds messages
    )
    field_map: tuple[tuple[str, str], ...] = ()  # ((role, path), ...)

    def check(self, where: str) -> None:
        require(self.field != "", f"{where}: field must name the field of a record that holds its text.")
        if self.template:
            parse_template(f"{where}: template", self.template)
        require(
            self.each == "" or (self.template != "" and self.join is not None),
            f"{where}: each = {self.each!r} needs a template for each of the objects, and join for what stands between two.",
        )
        require(
            self.field == "text" or self.template == "", f"{where}: set field or template, which names fields itself."
        )
        for unit in ("characters", "tokens"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            require(high == 0 or high >= low, f"{where}: max_{unit} ({high}) must not be below min_{unit} ({low}).")
        require(0 <= self.held_out < 1, f"{where}: held_out must be a share in [0, 1), but is {self.held_out}.")
        starts = [start for start, _ in self.repeat_steps]
        require(
            starts == sorted(set(starts)) and all(times >= 0 for _, times in self.repeat_steps),
            f"{where}: repeat_steps must be ((from, times), ...) with rising `from`, but is {self.repeat_steps}.",
        )
        require(self.repeat_field != "" or starts == [], f"{where}: repeat_steps need repeat_field, which they read.")

    def refused_length(self, unit: str, length: int) -> str:
        """The limit of `characters` or `tokens` that a length breaks; "" for none."""
        low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
        if length < low:
            return f"{unit} >= {low}"
        return f"{unit} <= {high}" if high and length > high else ""


@dataclasses.dataclass(frozen=True)
class FileSet:
    """The files of one glob and how they are read."""

    glob: str
    rule: RecordRule = RecordRule()
    language: str = ""
