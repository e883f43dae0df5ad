"""From a command line to one checked config object: the only file that imports gin and absl.flags.

    gin_cli.run(TrainConfig, train, gin_cli.MAX_STEPS)

reads `--gin_file` and `--gin_bindings`, builds the frozen `TrainConfig` of `config.py`, calls `train(config, options)`
and turns every failure into one line on stderr and exit status 2. Nothing calls gin after the config is built.

gin 0.5 accepts in silence a misspelled macro, a scope that nothing uses and a binding that nothing reads. So the files
are read twice: once here, with gin's own parser, to check every name and to follow the references from the root config
to every binding; then by gin, which builds. Types and ranges are checked by the dataclasses themselves.
"""

import dataclasses
import difflib
import glob
import io
import os
import re
import sys
import tokenize
import traceback
import types
import typing

# TensorFlow and gRPC read these when they are loaded, which is after this module; a user's own choice stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import gin
from absl import flags, logging
from gin import config_parser

from dots_jax import config as config_module
from dots_jax.config import UserError

# --- running a command --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of one command; `kind` is str, int (at least 1) or bool; it arrives as `options.<name>`."""

    name: str
    kind: type
    help: str
    default: typing.Any = None


MAX_STEPS = Flag("max_steps", int, "stop after this global step, with a checkpoint")
DISTRIBUTED = Flag("distributed", str, "several processes: auto, or ADDRESS:PORT,PROCESS,PROCESSES")
DRY_RUN = Flag("dry_run", bool, "check everything, print the plan and stop; needs no --workdir", False)


def run(config_class: type, main, *extra_flags: Flag, argv: list[str] | None = None) -> typing.NoReturn:
    """Run one command and exit.

    `main(config, options)` gets the config and a namespace with `workdir` (None only in a dry run), `debug`, one
    attribute per extra flag, `gin_text` (all files and bindings as given, includes written out) and `operative_text`
    (every setting in force). Both texts can be given as --gin_file again and build an equal config.
    The number `main` returns, if any, is the exit status.
    """
    sys.exit(execute(config_class, main, *extra_flags, argv=argv))


def execute(config_class: type, main, *extra_flags: Flag, argv: list[str] | None = None) -> int:
    """`run` without the exit: returns the status."""
    argv = list(sys.argv if argv is None else argv)
    debug = any(argument in ("--debug", "-debug", "--debug=true") for argument in argv[1:])
    if not debug:
        logging.set_verbosity(logging.ERROR)
    try:
        options = _parse_flags(argv, extra_flags)
        if options is None:  # --help
            return 0
        config, options.gin_text, options.operative_text = build(
            config_class, options.__dict__.pop("gin_file"), options.__dict__.pop("gin_bindings")
        )
        status = main(config, options)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print("error: " + _sentence(error), file=sys.stderr, flush=True)
        return 2


def _sentence(error: Exception) -> str:
    """One line. Errors that nobody foresaw keep their type and say how to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    text = text if len(text) <= 500 else text[:500] + " ..."
    return f"{type(error).__name__}: {text} (add --debug to see where)".replace(":  (", " (")


_COMMON_FLAGS = (
    Flag("workdir", str, "folder of the run: checkpoints, metrics and config go there"),
    Flag("debug", bool, "show tracebacks and warnings of the libraries", False),
)


def _parse_flags(argv: list[str], extra_flags: tuple[Flag, ...]) -> types.SimpleNamespace | None:
    """The flags of this command alone: a private registry keeps out those that other libraries define."""
    registry = flags.FlagValues()
    flags.DEFINE_multi_string("gin_file", [], "gin file; may be repeated, later ones win", flag_values=registry)
    flags.DEFINE_multi_string(
        "gin_bindings", [], 'one more setting, as in "TrainConfig.seed = 1"; may be repeated', flag_values=registry
    )
    flags.DEFINE_bool("help", False, "show this text and stop", flag_values=registry)
    for flag in (*_COMMON_FLAGS, *extra_flags):
        if flag.kind is bool:
            flags.DEFINE_bool(flag.name, flag.default, flag.help, flag_values=registry)
        elif flag.kind is int:
            flags.DEFINE_integer(flag.name, flag.default, flag.help, lower_bound=1, flag_values=registry)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=registry)
    try:
        rest = registry(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        suggestion = _did_you_mean(error.flagname, list(registry), prefix="--") or "; --help lists them."
        raise UserError(f"This command has no flag --{error.flagname}{suggestion}") from None
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split()).rstrip('.')}; --help lists the flags.") from None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(argv[:1])  # Libraries that read a flag of their own find its default.
    values = registry.flag_values_dict()
    if values.pop("help"):
        print(_help(registry))
        return None
    if rest:
        raise UserError(f"Flags begin with --, but there is {rest[0]!r} (--help lists them).")
    if not values["gin_file"]:
        raise UserError("Missing --gin_file: say what to run, as in --gin_file=gin/tiny.gin.")
    if not values["workdir"] and not values.get("dry_run"):
        raise UserError("Missing --workdir: say where the run lives, as in --workdir=runs/tiny.")
    return types.SimpleNamespace(**values)


def _help(registry: flags.FlagValues) -> str:
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:"]
    for name in sorted(registry):
        flag = registry[name]
        lines.append(f"  --{name if flag.boolean else name + '=...':<18} {flag.help}")
    return "\n".join(lines).strip()


# --- building the config ------------------------------------------------------------------------------------------

_CLASSES = {
    name: value
    for name, value in vars(config_module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}
for _class in _CLASSES.values():
    gin.external_configurable(_class, module="dots_jax.config")


def build(config_class: type, gin_files: typing.Sequence[str], gin_bindings: typing.Sequence[str] = ()):
    """(config, gin text, operative config text) of these files, in this order, and then these bindings."""
    bindings, texts = [], []
    for path in gin_files:
        _read_file(path, bindings, texts, trail=())
    for line in gin_bindings:
        _read_text(line, "--gin_bindings", bindings, texts, trail=())
    _check_names(bindings)
    _check_use(config_class, bindings)

    gin_text = "\n".join(texts).rstrip() + "\n"
    gin.clear_config()
    try:
        gin.parse_config(gin_text)
        config = gin.get_configurable(config_class)()
        operative_text = gin.operative_config_str(max_line_length=120)
    except UserError as error:
        raise UserError(_with_place(str(error).split("\n")[0], bindings)) from None  # gin adds lines of its own
    finally:
        gin.clear_config()
    return config, gin_text, operative_text


def _with_place(sentence: str, bindings: list["_Binding"]) -> str:
    """Adds file and line where the sentence begins with the setting at fault."""
    setting = re.match(r"(\w+\.\w+) ", sentence)
    for binding in reversed(bindings) if setting else ():
        if f"{binding.name}.{binding.parameter}" == setting[1] and repr(binding.value) in sentence:
            return f"{binding.place}: {sentence}"
    return sentence


# --- reading ------------------------------------------------------------------------------------------------------

_MACRO = "macro"  # A macro is, as in gin, a function of this name with one parameter `value`, in the macro's scope.


@dataclasses.dataclass(frozen=True)
class _Reference:
    """`@a/b/Stage()` is scope (a, b), name Stage. `%LR` is scope (LR,), name macro."""

    scope: tuple[str, ...]
    name: str
    called: bool = True


@dataclasses.dataclass(frozen=True)
class _Binding:
    scope: tuple[str, ...]
    name: str
    parameter: str
    value: typing.Any
    place: str

    def __str__(self):
        target = "/".join(self.scope)
        if self.name == _MACRO:
            return target
        return "/".join((*self.scope, self.name)) + f".{self.parameter}"


class _Delegate(config_parser.ParserDelegate):
    """Turns gin's values into plain data, so that they can be checked before gin acts on them."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        *scope, name = scoped_configurable_name.split("/")
        return _Reference(tuple(scope), name, evaluate)

    def macro(self, macro_name):
        return _Reference(tuple(macro_name.split("/")), _MACRO)


def _read_file(path: str, bindings: list[_Binding], texts: list[str], trail: tuple[str, ...]) -> None:
    if os.path.realpath(path) in trail:
        raise UserError(f"{path} includes itself, by way of the files it includes.")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        near = glob.glob(os.path.join(os.path.dirname(path), "*.gin"))
        raise UserError(f"There is no gin file {path}{_did_you_mean(path, near) or '.'}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"The gin file {path} cannot be read: {reason}.") from None
    _read_text(text, path, bindings, texts, (*trail, os.path.realpath(path)))


def _read_text(text: str, source: str, bindings: list[_Binding], texts: list[str], trail: tuple[str, ...]) -> None:
    """Appends what the text binds to `bindings`, and the text, with includes written out, to `texts`."""
    stream = io.StringIO(text)
    stream.name = source  # Where gin's parser looks for it.
    lines = text.splitlines()
    written = 0  # lines of this text that are in `texts` already
    texts.append(f"# --- {source}")
    try:
        for statement in config_parser.ConfigParser(stream, _Delegate()):
            place = f"{source}:{statement.location.line_num}" if trail else source
            if isinstance(statement, config_parser.BindingStatement):
                scope, name, parameter = statement.scope, statement.selector, statement.arg_name
                if not parameter:
                    scope, name, parameter = "/".join(filter(None, (scope, name))), _MACRO, "value"
                scope = tuple(filter(None, scope.split("/")))
                bindings.append(_Binding(scope, name, parameter, statement.value, place))
            elif isinstance(statement, config_parser.IncludeStatement):
                at = statement.location.line_num - 1
                texts.extend(lines[written:at])
                written = at + 1
                beside = os.path.join(os.path.dirname(source) if trail else "", statement.filename)
                exists = os.path.isfile(beside) or not os.path.isfile(statement.filename)
                _read_file(beside if exists else statement.filename, bindings, texts, trail)
                texts.append(f"# --- {source}, continued")
            elif isinstance(statement, config_parser.ImportStatement):
                raise UserError(
                    f"{place}: gin files hold settings, not imports: modules that register tasks go into "
                    f"DataConfig.tasks_modules."
                )
    except SyntaxError as error:
        line = f":{error.lineno}" if trail else ""
        shown = (error.text or "").strip() or text.rstrip().split("\n")[-1]
        raise UserError(f"{source}{line}: cannot read `{shown}`: {_mend(error.msg)}.") from None
    except tokenize.TokenError as error:
        raise UserError(f"{source}: a bracket or quote is never closed ({error.args[0]}).") from None
    texts.extend(lines[written:])


def _mend(message: str) -> str:
    token = re.search(r"Failed to parse token '(.*)'", message)
    if token and token[1].isidentifier():
        return f"{token[1]} is no value; text needs quotes, as in '{token[1]}'"
    return f"{token[1]} is no value" if token else message.rstrip(".")


# --- checking -----------------------------------------------------------------------------------------------------


def _did_you_mean(wrong: str, choices: typing.Iterable[str], prefix: str = "") -> str:
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{by_lower[close[0]]}?" if close else ""


def _references(value) -> typing.Iterator[_Reference]:
    if isinstance(value, _Reference):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        yield from _references([*value.keys(), *value.values()])


def _check_names(bindings: list[_Binding]) -> None:
    """Every class, parameter and macro that is named exists."""
    macros = {str(binding) for binding in bindings if binding.name == _MACRO}
    for binding in bindings:
        if binding.name != _MACRO:
            _check_class(binding.name, binding.place)
            fields = [field.name for field in dataclasses.fields(_CLASSES[binding.name])]
            if binding.parameter not in fields:
                suggestion = _did_you_mean(binding.parameter, fields) or f"; it has {', '.join(fields)}."
                raise UserError(f"{binding.place}: {binding.name} has no setting {binding.parameter}{suggestion}")
        for reference in _references(binding.value):
            if reference.name == _MACRO:
                parts = reference.scope
                if not any("/".join(parts[:n]) in macros for n in range(1, len(parts) + 1)):
                    name = "/".join(parts)
                    suggestion = _did_you_mean(name, macros, prefix="%") or f"; define it, as in `{name} = ...`."
                    raise UserError(f"{binding.place}: the macro %{name} is not defined{suggestion}")
            else:
                _check_class(reference.name, binding.place)
                if not reference.called:
                    raise UserError(
                        f"{binding.place}: @{reference.name} needs parentheses: @{reference.name}() is the value."
                    )


def _check_class(name: str, place: str) -> None:
    if name not in _CLASSES:
        suggestion = _did_you_mean(name, _CLASSES) or f"; there are {', '.join(sorted(_CLASSES))}."
        raise UserError(f"{place}: there is no {name}{suggestion}")


def _check_use(config_class: type, bindings: list[_Binding]) -> None:
    """Follow the references from the root: what has no default is bound, and what is bound is reached.

    A value that a later binding replaces counts as a reader too. So `--gin_bindings` may shorten the list of stages
    without making the settings of the others an error, while a misspelled scope, which no value names, is one.
    """
    root = config_class.__name__
    if not any(binding.name == root and not binding.scope for binding in bindings):
        others = sorted({binding.name for binding in bindings} & {"TrainConfig", "EvalConfig"})
        instead = f" They set {others[0]}: are they for another command?" if others else ""
        raise UserError(f"The gin files set nothing of {root}, which this command builds.{instead}")
    reached: dict[tuple[tuple[str, ...], str], None] = {}
    used: set[int] = set()  # positions in `bindings`

    def visit(scope: tuple[str, ...], name: str, path: tuple) -> None:
        if (scope, name) in path:
            what = "/".join(scope) if name == _MACRO else "/".join((*scope, name))
            raise UserError(f"The gin files define {what} by way of itself.")
        if (scope, name) in reached:
            return
        reached[scope, name] = None
        here = {i: b for i, b in enumerate(bindings) if b.name == name and scope[: len(b.scope)] == b.scope}
        if name != _MACRO:
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
    for field in dataclasses.fields(_CLASSES[name]):
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and field.name not in bound:
            owner = "/".join((*scope, name))
            raise UserError(f"{owner}.{field.name} has no default and is not set: add `{owner}.{field.name} = ...`.")


def _unused(binding: _Binding, root: str, reached) -> str:
    if binding.name == _MACRO:
        return f"{binding.place}: nothing uses the macro {binding}: use it as %{binding}, or remove it."
    owner = "/".join((*binding.scope, binding.name))
    readers = ["/".join((*scope, name)) for scope, name in reached if name == binding.name]
    suggestion = _did_you_mean(owner, readers)
    if not suggestion:
        for field in dataclasses.fields(_CLASSES[root]):
            if field.type is _CLASSES[binding.name]:
                suggestion = f": add `{root}.{field.name} = @{owner}()`."
    return f"{binding.place}: nothing uses {binding}{suggestion or f', since no value refers to @{owner}().'}"
