"""What every section of the configuration checks with: types, ranges, choices, paths."""

import dataclasses
import math
import os
import types
import typing


class UserError(Exception):
    """Something the user can fix. Commands print the one sentence and exit with status 2."""

    retryable = False  # whether the same command may succeed when it is started again


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def require_positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{type(config).__name__}.{name} must be above 0, but is {value}.")


def require_not_negative(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{type(config).__name__}.{name} must not be negative, but is {value}.")


def require_one_of(config, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    require(value in choices, f"{type(config).__name__}.{name} must be one of {', '.join(choices)}, but is {value!r}.")


def check_types(config) -> None:
    """Compares every field with its annotation, and turns lists into tuples, since gin writes either."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = _freeze(getattr(config, field.name))
        object.__setattr__(config, field.name, value)
        require(
            _fits(value, hints[field.name]),
            f"{type(config).__name__}.{field.name} must be {_type_name(hints[field.name])}, "
            f"but is {value!r} ({type(value).__name__}){_in_which(config, field.name)}.",
        )


def home_path(where: str, path: str) -> str:
    """The path with `~` written out, as a shell does for a word of its own but not in `--workdir=~/runs`.

    Raises:
      UserError: `~name` names no home folder here.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        name = path.split("/")[0]
        raise UserError(f"{where} = {path!r}: there is no home folder {name}; a folder of that name is ./{name}.")
    return expanded


def expand_home(config, *names: str) -> None:
    """`home_path` for fields of the config."""
    for name in names:
        where = f"{type(config).__name__}.{name}"
        object.__setattr__(config, name, home_path(where, getattr(config, name)))


def _freeze(value):
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


def _fits(value, hint) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)


def _type_name(hint) -> str:
    if typing.get_origin(hint) is tuple:
        parts = ("..." if a is Ellipsis else _type_name(a) for a in typing.get_args(hint))
        return f"a tuple of ({', '.join(parts)})"
    if isinstance(hint, types.UnionType):
        return " or ".join(_type_name(a) for a in typing.get_args(hint))
    plain = {int: "an integer", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))


def _in_which(config, field: str) -> str:
    """Which one of several sections of the same class."""
    name = getattr(config, "name", None)
    return f", in {type(config).__name__} {name!r}" if isinstance(name, str) and field != "name" else ""
