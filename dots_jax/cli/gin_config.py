"""From gin files and bindings to one checked config object: parse, check, build, save. Nothing else imports gin.

The files are read twice: once with gin's own parser, for `gin_check` to refuse what gin would let pass; then by gin, which
builds. Types and ranges are checked by the dataclasses themselves. gin holds nothing afterwards.
"""

import dataclasses
import glob
import io
import os
import re
import tokenize
import typing

import gin
from gin import config_parser

from dots_jax.cli.gin_check import CLASSES, MACRO, Binding, Reference, check_names, check_use
from dots_jax.cli.suggestion import did_you_mean
from dots_jax.cli.weights_settings import settings_of_weights
from dots_jax.config import TrainConfig, UserError, home_path
from dots_jax.gin_files import find_gin_file, packaged_gin_files

# --- building the config ------------------------------------------------------------------------------------------

for _class in CLASSES.values():
    gin.external_configurable(_class, module="dots_jax.config")


def load(config_class: type, options):
    """(config, options) of a command whose options have gin_file and gin_bindings.

    The options come back with `gin_text` (all files and bindings as given, includes written out) and `operative_text` (every
    setting in force). Both texts can be given as --gin_file again and build an equal config.
    """
    if not options.gin_file:
        raise UserError("Missing --gin_file: say what to run, as in --gin_file=gin/tiny.gin.")
    workdir = getattr(options, "workdir", None)
    config, gin_text, operative_text = build(config_class, options.gin_file, options.gin_bindings, workdir)
    return config, dataclasses.replace(options, gin_text=gin_text, operative_text=operative_text)


def build(
    config_class: type, gin_files: typing.Sequence[str], gin_bindings: typing.Sequence[str] = (),
    workdir: str | None = None,
):  # fmt: skip
    """(config, gin text, operative config text) of these files, in this order, and then these bindings.

    workdir: of a run that may have begun, and then knows its model.
    """
    bindings, texts = [], []
    for path in gin_files:
        _read_file(find_gin_file(path), bindings, texts, trail=())
    for line in gin_bindings:
        _read_text(line, "--gin_bindings", bindings, texts, trail=())
    if config_class is TrainConfig and (found := settings_of_weights(bindings, workdir)):
        source, lines = found
        first, first_texts = [], []
        _read_text(lines, source, first, first_texts, trail=())
        bindings, texts = first + bindings, first_texts + texts  # in front: what the user sets is later, and wins
    check_names(bindings)
    check_use(config_class, bindings)

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


def _with_place(sentence: str, bindings: list["Binding"]) -> str:
    """Adds file and line where the sentence begins with the setting at fault."""
    setting = re.match(r"(\w+\.\w+) ", sentence)
    for binding in reversed(bindings) if setting else ():
        if f"{binding.name}.{binding.parameter}" == setting[1] and repr(binding.value) in sentence:
            return f"{binding.place}: {sentence}"
    return sentence


# --- reading ------------------------------------------------------------------------------------------------------


class _Delegate(config_parser.ParserDelegate):
    """Turns gin's values into plain data, so that they can be checked before gin acts on them."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        *scope, name = scoped_configurable_name.split("/")
        return Reference(tuple(scope), name, evaluate)

    def macro(self, macro_name):
        return Reference(tuple(macro_name.split("/")), MACRO)


def _read_file(path: str, bindings: list[Binding], texts: list[str], trail: tuple[str, ...]) -> None:
    if os.path.realpath(path) in trail:
        raise UserError(f"{path} includes itself, by way of the files it includes.")
    try:
        with open(path, encoding="utf-8-sig") as file:  # editors on Windows begin a file with a byte order mark
            text = file.read()
    except FileNotFoundError:
        near = [*glob.glob(os.path.join(os.path.dirname(path), "*.gin")), *packaged_gin_files()]
        raise UserError(f"There is no gin file {path}{did_you_mean(path, near) or '.'}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"The gin file {path} cannot be read: {reason}.") from None
    _read_text(text, path, bindings, texts, (*trail, os.path.realpath(path)))


def _read_text(text: str, source: str, bindings: list[Binding], texts: list[str], trail: tuple[str, ...]) -> None:
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
                    scope, name, parameter = "/".join(filter(None, (scope, name))), MACRO, "value"
                scope = tuple(filter(None, scope.split("/")))
                bindings.append(Binding(scope, name, parameter, statement.value, place))
            elif isinstance(statement, config_parser.IncludeStatement):
                at = statement.location.line_num - 1
                texts.extend(lines[written:at])
                written = at + 1
                filename = home_path(f"{place}: include", statement.filename)
                _read_file(find_gin_file(filename, included_by=source if trail else ""), bindings, texts, trail)
                texts.append(f"# --- {source}, continued")
            elif isinstance(statement, config_parser.ImportStatement):
                raise UserError(
                    f"{place}: gin files hold settings, not imports: modules that register tasks go into "
                    f"DataConfig.tasks_modules."
                )
    except SyntaxError as error:
        line = f":{error.lineno}" if trail else ""
        shown = (error.text or "").strip() or text.rstrip().split("\n")[-1]
        raise UserError(f"{source}{line}: cannot read `{shown}`: {_fix(error.msg)}.") from None
    except tokenize.TokenError as error:
        raise UserError(f"{source}: a bracket or quote is never closed ({error.args[0]}).") from None
    texts.extend(lines[written:])


# Values of other languages, as Python and gin write them.
_SPELLING = {"true": "True", "false": "False", "none": "None", "null": "None", "nil": "None"}


def _fix(message: str) -> str:
    token = re.search(r"Failed to parse token '(.*)'", message)
    if not token:
        return message.rstrip(".")
    if token[1].lower() in _SPELLING:
        return f"{token[1]} is not a valid value: use {_SPELLING[token[1].lower()]}"
    example = f", as in '{token[1]}'" if token[1].isidentifier() else ""
    return f"{token[1]} is not a valid value: quote strings{example}"
