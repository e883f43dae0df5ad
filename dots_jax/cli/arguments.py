"""From the words of a command line to a frozen options object, by argparse."""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Sequence

from dots_jax.cli.suggestion import did_you_mean
from dots_jax.config import UserError, home_path

RENAMED = {"--supervised": "--exit_codes"}  # flags that had another name until 0.1


def parse(options_class: type, about: str, words: Sequence[str]):
    """The options object, or None after --help, which prints `about` and the flags.

    Raises:
      UserError: a flag is unknown, has no value or one of a wrong type, or there are too few or too many plain words.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    fields = [field for field in dataclasses.fields(options_class) if "help" in field.metadata]
    fields.sort(key=lambda field: field.name == "debug")  # last in --help
    flags = [field for field in fields if "word" not in field.metadata]
    for field in flags:
        _add_flag(parser, field)
    parser.pairs = frozenset(f"--{field.name}" for field in flags if field.metadata.get("pair"))
    values, rest = parser.parse_known_args(parser.join_values(words))
    values = vars(values)
    if values.pop("help"):
        print(_help(about, fields))
        return None
    _refuse_unknown_flags(rest, [field.name for field in flags])
    places = [field for field in fields if "word" in field.metadata]
    if places and len(rest) != len(places):
        names = " ".join(field.name.upper() for field in places)
        raise UserError(f"This command takes {names}, but got {' '.join(rest) or 'nothing'} (--help shows more).")
    if rest and not places:
        raise UserError(f"Flags begin with --, but there is {rest[0]!r} (--help lists them).")
    values |= {field.name: _converter(field)(word) for field, word in zip(places, rest)}
    for field in flags:
        if _kind(field) is tuple:
            values[field.name] = tuple(values[field.name] or field.default)
    return options_class(**values)


class _Parser(argparse.ArgumentParser):
    pairs: frozenset[str] = frozenset()  # flags that two values follow

    def join_values(self, words: Sequence[str]) -> list[str]:
        """`--flag value` as `--flag=value`, so that a value may begin with a dash.

        Only a flag of this command is no value: `--workdir --dry_run` is more likely a value that was forgotten.
        """
        joined, words = [], iter(words)
        for word in words:
            action = self._option_string_actions.get(word)
            name, has_value, value = word.partition("=")
            flag = self._option_string_actions.get(name)
            if has_value and flag is not None and flag.nargs == 0 and action is None:
                raise UserError(f"{name} is true or false, but is {value!r}; --help lists the flags.")
            if action is not None and action.nargs != 0:
                value = next(words, None)
                if value is None:
                    raise UserError(f"{word} needs a value, as in {word}=...; --help lists the flags.")
                if value.split("=")[0] in self._option_string_actions:
                    raise UserError(
                        f"{word} needs a value, but {value} follows: if that is meant, write {word}={value}."
                    )
                word = f"{word}={value}"
            joined.append(word)
            if name in self.pairs and (second := next(words, None)) is not None:
                joined.append(f"{name}={second}")
        return joined

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{' '.join(message.split()).rstrip('.')}; --help lists the flags.")


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    name, kind = field.name, _kind(field)
    if kind is bool:
        true, false = ((word, word.capitalize(), digit) for word, digit in (("true", "1"), ("false", "0")))
        parser.add_argument(f"--{name}", *(f"--{name}={word}" for word in true), dest=name, action="store_true",
                            default=field.default)  # fmt: skip
        parser.add_argument(f"--no{name}", *(f"--{name}={word}" for word in false), dest=name, action="store_false",
                            default=field.default)  # fmt: skip
    elif kind is tuple:
        parser.add_argument(f"--{name}", action="append", type=_converter(field))  # None without the flag
    else:
        parser.add_argument(f"--{name}", default=field.default, type=_converter(field))


def _kind(field: dataclasses.Field) -> type:
    """str, int, float, bool, or tuple (of strings)."""
    hint = field.type
    if isinstance(hint, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    return typing.get_origin(hint) or hint


def _converter(field: dataclasses.Field) -> Callable[[str], typing.Any]:
    """From the word that was given to the field's value."""
    where = field.name.upper() if "word" in field.metadata else f"--{field.name}"
    if field.metadata["path"]:
        return lambda text: home_path(where, text)
    kind, minimum = _kind(field), field.metadata.get("minimum")
    if kind not in (int, float):
        return str
    wanted = ("a number" if kind is float else "an integer") + ("" if minimum is None else f" of at least {minimum}")

    def number(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (minimum is not None and value < minimum):
            raise UserError(f"{where} must be {wanted}, but is {text!r}; --help lists the flags.")
        return value

    return number


def _refuse_unknown_flags(rest: list[str], names: list[str]) -> None:
    for word in rest:
        name = word.partition("=")[0]
        if name in RENAMED and RENAMED[name].lstrip("-") in names:
            raise UserError(f"{name} is now {RENAMED[name]}.")
        if word.startswith("-") and word != "-":
            suggestion = did_you_mean(name.lstrip("-"), names, prefix="--") or "; --help lists them."
            raise UserError(f"This command has no flag {name}{suggestion}")


def _help(about: str, fields: list[dataclasses.Field]) -> str:
    lines = [about.strip(), ""]
    for field in fields:
        label = field.name.upper() if "word" in field.metadata else f"--{field.name}"
        label += "" if _kind(field) is bool or "word" in field.metadata else "="
        shown = isinstance(field.default, (int, float, str)) and not isinstance(field.default, bool)
        shown = shown and "word" not in field.metadata
        lines.append(f"  {label:<18} {field.metadata['help']}" + (f" (default: {field.default})" if shown else ""))
    return "\n".join(lines)
