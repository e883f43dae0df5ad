"""What gin does not check: that every name exists, that what has no default is set, and that what is set is used.

gin 0.5 accepts in silence a misspelled macro, a scope that nothing uses and a binding that nothing reads. `gin_config` reads
the gin files into the plain `Binding`s below; here the references are followed from the root config to every binding.
"""

import dataclasses
import typing

from dots_jax import config as config_module
from dots_jax.cli.suggestion import did_you_mean
from dots_jax.config import UserError, renamed

CLASSES = {
    name: value
    for name, value in vars(config_module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}

MACRO = "macro"  # A macro is, as in gin, a function of this name with one parameter `value`, in the macro's scope.


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@a/b/Stage()` is scope (a, b), name Stage. `%LR` is scope (LR,), name macro."""

    scope: tuple[str, ...]
    name: str
    called: bool = True


@dataclasses.dataclass(frozen=True)
class Binding:
    scope: tuple[str, ...]
    name: str
    parameter: str
    value: typing.Any
    place: str

    def __str__(self):
        target = "/".join(self.scope)
        if self.name == MACRO:
            return target
        return "/".join((*self.scope, self.name)) + f".{self.parameter}"


def _references(value) -> typing.Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        yield from _references([*value.keys(), *value.values()])


def check_names(bindings: list[Binding]) -> None:
    """Every class, parameter and macro that is named exists."""
    macros = {str(binding) for binding in bindings if binding.name == MACRO}
    for binding in bindings:
        if binding.name != MACRO:
            _check_class(binding.name, binding.place)
            fields = [field.name for field in dataclasses.fields(CLASSES[binding.name])]
            new = renamed.SETTINGS.get(f"{binding.name}.{binding.parameter}")
            if new:
                raise UserError(_renamed(binding, new))
            if binding.parameter not in fields:
                suggestion = did_you_mean(binding.parameter, fields) or f"; it has {', '.join(fields)}."
                raise UserError(f"{binding.place}: {binding.name} has no setting {binding.parameter}{suggestion}")
        for reference in _references(binding.value):
            if reference.name == MACRO:
                parts = reference.scope
                if not any("/".join(parts[:n]) in macros for n in range(1, len(parts) + 1)):
                    name = "/".join(parts)
                    suggestion = did_you_mean(name, macros, prefix="%") or f"; define it, as in `{name} = ...`."
                    raise UserError(f"{binding.place}: the macro %{name} is not defined{suggestion}")
            else:
                _check_class(reference.name, binding.place)
                if not reference.called:
                    raise UserError(
                        f"{binding.place}: @{reference.name} needs parentheses: @{reference.name}() is the value."
                    )


def _renamed(binding: Binding, new: str) -> str:
    """The line to write, where it can be told from this one."""
    sentence = f"{binding.place}: {binding.name}.{binding.parameter} is now {binding.name}.{new}"
    if any(_references(binding.value)):
        return f"{sentence}."
    line = f"{'/'.join((*binding.scope, binding.name))}.{new} = {renamed.new_value(new, binding.value)!r}"
    return f"{sentence}: write `{line}`."


def _check_class(name: str, place: str) -> None:
    if name not in CLASSES:
        suggestion = did_you_mean(name, CLASSES) or f"; there are {', '.join(sorted(CLASSES))}."
        raise UserError(f"{place}: there is no {name}{suggestion}")


def check_use(config_class: type, bindings: list[Binding]) -> None:
    """Follow the references from the root: what has no default is bound, and what is bound is reached.

    With `TrainConfig.stages = (@first/Stage(), @second/Stage())` and `second/Stage.tokens = %LONG`, TrainConfig leads to
    the class Stage in the scopes (first,) and (second,), and the latter to the macro LONG. A binding of `Stage.seq_len`
    (no scope) is read in both; one of `secnd/Stage.seq_len` is reached by nothing, which is an error.

    A value that a later binding replaces counts as a reader too. So `--gin_bindings` may shorten the list of stages
    without making the settings of the others an error, while a misspelled scope, which no value names, is one.
    """
    root = config_class.__name__
    if not any(binding.name == root and not binding.scope for binding in bindings):
        others = sorted({binding.name for binding in bindings} & {"TrainConfig", "EvalConfig", "CacheConfig"} - {root})
        instead = f" They set {others[0]}: are they for another command?" if others else ""
        raise UserError(f"The gin files set nothing of {root}, which this command builds.{instead}")
    reached: dict[tuple[tuple[str, ...], str], None] = {}
    used: set[int] = set()  # positions in `bindings`

    def visit(scope: tuple[str, ...], name: str, path: tuple) -> None:
        if (scope, name) in path:
            what = "/".join(scope) if name == MACRO else "/".join((*scope, name))
            raise UserError(f"The gin files define {what} by way of itself.")
        if (scope, name) in reached:
            return
        reached[scope, name] = None
        here = {i: b for i, b in enumerate(bindings) if b.name == name and scope[: len(b.scope)] == b.scope}
        if name != MACRO:
            _check_required(scope, name, {b.parameter for b in here.values()})
        used.update(here)
        for binding in here.values():
            for reference in _references(binding.value):
                visit(reference.scope or scope, reference.name, (*path, (scope, name)))

    visit((), root, ())
    for i, binding in enumerate(bindings):
        if i not in used:
            raise UserError(_unused(binding, root, reached))


def _check_required(scope: tuple[str, ...], name: str, bound: set[str]) -> None:
    for field in dataclasses.fields(CLASSES[name]):
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and field.name not in bound:
            owner = "/".join((*scope, name))
            raise UserError(f"{owner}.{field.name} has no default and is not set: add `{owner}.{field.name} = ...`.")


def _unused(binding: Binding, root: str, reached) -> str:
    if binding.name == MACRO:
        return f"{binding.place}: nothing uses the macro {binding}: use it as %{binding}, or remove it."
    owner = "/".join((*binding.scope, binding.name))
    readers = ["/".join((*scope, name)) for scope, name in reached if name == binding.name]
    suggestion = did_you_mean(owner, readers)
    if not suggestion:
        for field in dataclasses.fields(CLASSES[root]):
            if field.type is CLASSES[binding.name]:
                suggestion = f": add `{root}.{field.name} = @{owner}()`."
    return f"{binding.place}: nothing uses {binding}{suggestion or f', since no value refers to @{owner}().'}"
