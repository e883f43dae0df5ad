"""From a command line to one checked config object: the only file that imports gin and absl.flags.

    gin_cli.run(TrainConfig, train, gin_cli.MAX_STEPS)

reads `--gin_file` and `--gin_bindings`, builds the frozen `TrainConfig` of `config.py`, calls `train(config, options)`
and turns every failure into one line on stderr and exit status 2. Nothing calls gin after the config is built.

The files are read twice: once with gin's own parser, for `gin_check` to refuse what gin would let pass; then by gin,
which builds. Types and ranges are checked by the dataclasses themselves.
"""

import dataclasses
import glob
import importlib.util
import io
import logging as python_logging
import os
import re
import sys
import tempfile
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

from dots_jax.config import DataConfig, UserError
from dots_jax.gin_check import CLASSES, MACRO, Binding, Reference, check_names, check_use, did_you_mean
from dots_jax.gin_files import find_gin_file, packaged_gin_files

# --- running a command --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of one command; `kind` is str, int (at least `minimum`), float, bool, or list (of strings: the flag may be
    repeated); it arrives as `options.<name>`."""

    name: str
    kind: type
    help: str
    default: typing.Any = None
    minimum: int = 1


MAX_STEPS = Flag("max_steps", int, "stop after this global step, with a checkpoint")
DISTRIBUTED = Flag("distributed", str, "several processes: auto, or ADDRESS:PORT,PROCESS,PROCESSES")
DRY_RUN = Flag("dry_run", bool, "check everything, print the plan and stop; needs no --workdir", False)
DEVICES = Flag("devices", str, "refuse to run on any others: PLATFORM:NUMBER, as in tpu:128")
SUPERVISED = Flag(
    "supervised", bool, "tell by the exit status whether to start it again: 2 no, 1 and 75 (SIGTERM) yes", False
)

_SUPERVISED = ("--supervised", "-supervised", "--supervised=true")
_DEBUG = ("--debug", "-debug", "--debug=true")  # looked for before the flags are parsed, which may fail


def run(
    config_class: type | None, main, *extra_flags: Flag, argv: list[str] | None = None,
    only_reads_config: bool = False, workdir: bool = True, arguments: tuple[str, ...] = (),
) -> typing.NoReturn:  # fmt: skip
    """Run one command and exit.

    `main(config, options)` gets the config and a namespace with `workdir` (None only in a dry run), `debug`, one
    attribute per extra flag, `gin_text` (all files and bindings as given, includes written out) and `operative_text`
    (every setting in force). Both texts can be given as --gin_file again and build an equal config.
    The number `main` returns, if any, is the exit status. only_reads_config: of a command that needs neither --workdir nor
    TensorFlow. workdir: whether the command has that flag. A command without a gin file has no config_class: its
    `main(options)` gets its own flags and `debug`. arguments: names of words that stand without --, all of them required;
    they arrive as `options.<name>` in lower case.
    """
    if not any(argument in _DEBUG for argument in (sys.argv if argv is None else argv)):
        # When a read or write fails, orbax's other threads print tracebacks beside the error that it raises.
        python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
        sys.unraisablehook = lambda _: None
    sys.exit(execute(
        config_class, main, *extra_flags, argv=argv, only_reads_config=only_reads_config, workdir=workdir, arguments=arguments
    ))  # fmt: skip


def execute(
    config_class: type | None, main, *extra_flags: Flag, argv: list[str] | None = None,
    only_reads_config: bool = False, workdir: bool = True, arguments: tuple[str, ...] = (),
) -> int:  # fmt: skip
    """`run` without the exit: returns the status."""
    argv = list(sys.argv if argv is None else argv)
    debug = any(argument in _DEBUG for argument in argv[1:])
    if not debug:
        logging.set_verbosity(logging.FATAL)  # what a library logs as an error it also raises: it becomes our one line
    try:
        has_workdir = workdir and config_class is not None and not only_reads_config
        options = _parse_flags(argv, extra_flags, config_class is not None, has_workdir, arguments)
        if options is None:  # --help
            return 0
        if config_class is None:
            if not debug and not only_reads_config:
                _load_tensorflow_quietly()
            status = main(options)
            return status if isinstance(status, int) else 0
        config, options.gin_text, options.operative_text = build(
            config_class, options.__dict__.pop("gin_file"), options.__dict__.pop("gin_bindings")
        )
        reads_data = any(field.type is DataConfig for field in dataclasses.fields(config_class))
        if reads_data and not debug and not only_reads_config:
            _load_tensorflow_quietly()
        status = main(config, options)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print("error: " + _sentence(error), file=sys.stderr, flush=True)
        # Whatever starts the run again needs to know whether that can help; a person reads the sentence.
        retryable = getattr(error, "retryable", not isinstance(error, UserError))
        return 1 if retryable and any(argument in _SUPERVISED for argument in argv[1:]) else 2


def _load_tensorflow_quietly() -> None:
    """TensorFlow 2.21 greets with six lines that none of its settings silence: they go to a file while it is loaded.

    Only for commands that read data, which load it anyway. If loading fails, what it said is shown.
    """
    if importlib.util.find_spec("tensorflow") is None:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _sentence(error: Exception) -> str:
    """One line. Errors that nobody foresaw keep their type and say how to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    text = text if len(text) <= 500 else text[:500] + " ..."
    return f"{type(error).__name__}: {text} (add --debug to see where)".replace(":  (", " (")


_WORKDIR_FLAG = Flag("workdir", str, "folder of the run: checkpoints, metrics and config go there")
_DEBUG_FLAG = Flag("debug", bool, "show tracebacks and warnings of the libraries", False)


def _parse_flags(
    argv: list[str], extra_flags: tuple[Flag, ...], needs_gin: bool, has_workdir: bool, arguments: tuple[str, ...]
) -> types.SimpleNamespace | None:
    """The flags of this command alone: a private registry keeps out those that other libraries define."""
    registry = flags.FlagValues()
    registry.set_gnu_getopt(bool(arguments))  # flags may stand behind arguments
    if needs_gin:
        flags.DEFINE_multi_string("gin_file", [], "gin file; may be repeated, later ones win", flag_values=registry)
        flags.DEFINE_multi_string(
            "gin_bindings", [], 'one more setting, as in "TrainConfig.seed = 1"; may be repeated', flag_values=registry
        )
    flags.DEFINE_bool("help", False, "show this text and stop", flag_values=registry)
    for flag in ((_WORKDIR_FLAG,) if has_workdir else ()) + (_DEBUG_FLAG, *extra_flags):
        if flag.kind is bool:
            flags.DEFINE_bool(flag.name, flag.default, flag.help, flag_values=registry)
        elif flag.kind is int:
            flags.DEFINE_integer(flag.name, flag.default, flag.help, lower_bound=flag.minimum, flag_values=registry)
        elif flag.kind is float:
            flags.DEFINE_float(flag.name, flag.default, flag.help, flag_values=registry)
        elif flag.kind is list:
            flags.DEFINE_multi_string(flag.name, flag.default, flag.help, flag_values=registry)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=registry)
    try:
        rest = registry(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        suggestion = did_you_mean(error.flagname, list(registry), prefix="--") or "; --help lists them."
        raise UserError(f"This command has no flag --{error.flagname}{suggestion}") from None
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split()).rstrip('.')}; --help lists the flags.") from None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(argv[:1])  # Libraries that read a flag of their own find its default.
    values = registry.flag_values_dict()
    if values.pop("help"):
        print(_help(registry))
        return None
    if arguments and len(rest) != len(arguments):
        raise UserError(
            f"This command takes {' '.join(arguments)}, but got {' '.join(rest) or 'nothing'} (--help shows more)."
        )
    if rest and not arguments:
        raise UserError(f"Flags begin with --, but there is {rest[0]!r} (--help lists them).")
    values |= {name.lower(): value for name, value in zip(arguments, rest)}
    if not needs_gin:
        return types.SimpleNamespace(**values)
    if not values["gin_file"]:
        raise UserError("Missing --gin_file: say what to run, as in --gin_file=gin/tiny.gin.")
    if has_workdir and not values["workdir"] and not values.get("dry_run"):
        raise UserError("Missing --workdir: say where the run lives, as in --workdir=runs/tiny.")
    return types.SimpleNamespace(**values)


def _help(registry: flags.FlagValues) -> str:
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:"]
    for name in sorted(registry):
        flag = registry[name]
        lines.append(f"  --{name if flag.boolean else name + '=...':<18} {flag.help}")
    return "\n".join(lines).strip()


# --- building the config ------------------------------------------------------------------------------------------

for _class in CLASSES.values():
    gin.external_configurable(_class, module="dots_jax.config")


def build(config_class: type, gin_files: typing.Sequence[str], gin_bindings: typing.Sequence[str] = ()):
    """(config, gin text, operative config text) of these files, in this order, and then these bindings."""
    bindings, texts = [], []
    for path in gin_files:
        _read_file(find_gin_file(path), bindings, texts, trail=())
    for line in gin_bindings:
        _read_text(line, "--gin_bindings", bindings, texts, trail=())
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
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        near = [*glob.glob(os.path.join(os.path.dirname(path), "*.gin")), *packaged_gin_files()]
        raise UserError(f"There is no gin file {path}{did_you_mean(path, near) or '.'}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
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
                included = find_gin_file(statement.filename, included_by=source if trail else "")
                _read_file(included, bindings, texts, trail)
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
