"""What the documents of a task depend on next to its files: the code that makes them.

Counted in: the preprocessors with their arguments and what they close over; the source of every module of the user's in
which one of them, a function that they call by name, or the task's own kind of source, is defined. Of libraries, and of
this package but for its module of tasks, only the names: their versions are pinned, and what changes the documents there
changes token_format.FORMAT. What a function reads from a file of its own is not seen.
"""

import dis
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
import types

import seqio

from dots_jax.data.sources.file_source import FileSource

_OWN_TASKS = "dots_jax.data.tasks"  # part of this package, and the place where people write a task of their own first


def code_identity(task: seqio.Task) -> str:
    """16 hex digits, other ones for other code."""
    seen = _Seen()
    parts = [seen.text(tuple(task.preprocessors))]
    if not isinstance(task.source, FileSource):
        parts.append(seen.source(task.source))
    modules = sorted((name, _module_text(name)) for name in seen.modules)
    return hashlib.sha256(repr((parts, modules)).encode()).hexdigest()[:16]


def _is_users(module: str | None) -> bool:
    if not module or module == _OWN_TASKS:
        return bool(module)
    if module.split(".")[0] in ("dots_jax", *sys.stdlib_module_names):
        return module == "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    paths = sysconfig.get_paths()
    return file is not None and not file.startswith((paths["purelib"], paths["platlib"]))


def _module_text(name: str) -> str:
    try:
        return inspect.getsource(sys.modules[name])
    except (OSError, TypeError, KeyError):  # a notebook, a prompt
        return ""


class _Seen:
    """Walks over values and collects the modules of the user's that they are defined in."""

    def __init__(self):
        self.modules: set[str] = set()
        self._walked: set[int] = set()

    def text(self, value) -> str:
        """Of a value, without addresses."""
        if isinstance(value, functools.partial):
            return self.text((value.func, value.args, *sorted(value.keywords.items())))
        if isinstance(value, dict):
            return self.text(tuple((key, value[key]) for key in sorted(value, key=repr)))
        if isinstance(value, (set, frozenset)):
            return self.text(tuple(sorted(value, key=repr)))
        if isinstance(value, (tuple, list)):
            return "".join(f"({self.text(part)})" for part in value)
        if isinstance(value, types.MethodType):
            return self.text((value.__func__, value.__self__))
        if isinstance(value, type) or not callable(value):
            if isinstance(value, type):
                self._walk_class(value)
            return re.sub(" at 0x[0-9a-f]+", "", repr(value))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        return self.text(type(value)) + self._state(value)

    def source(self, source: seqio.DataSource) -> str:
        """Of a task's source: its class, and what it was made with if it has no identity of its own."""
        return self.text(type(source)) + ("" if hasattr(source, "identity") else self._state(source))

    def _state(self, value) -> str:
        plain = (str, int, float, bool, bytes, tuple, list, dict, type(None), functools.partial, types.FunctionType)
        fields = getattr(value, "__dict__", {})
        return self.text(tuple((name, fields[name]) for name in sorted(fields) if isinstance(fields[name], plain)))

    def _function(self, function: types.FunctionType) -> str:
        function = inspect.unwrap(function)
        name = f"{function.__module__}.{function.__qualname__}"
        if id(function) in self._walked:
            return name
        self._walked.add(id(function))
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        held = self.text((tuple(cells), function.__defaults__ or (), function.__kwdefaults__ or {}))
        if not _is_users(function.__module__):
            return f"{name} {held}"
        self.modules.add(function.__module__)
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError):  # typed at a prompt
            source = dis.Bytecode(function).dis()
            source = re.sub(r" at 0x[0-9a-f]+|, line \d+", "", source)
        self._walk_names(function.__code__, function.__globals__)
        return f"{name} {source} {held}"

    def _walk_names(self, code: types.CodeType, names: dict) -> None:
        for name in code.co_names:
            value = names.get(name)
            if isinstance(value, types.ModuleType) and _is_users(value.__name__):
                self.modules.add(value.__name__)
            elif isinstance(value, types.FunctionType):
                self._function(value)
            elif isinstance(value, type):
                self._walk_class(value)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._walk_names(constant, names)

    def _walk_class(self, one: type) -> None:
        if not _is_users(one.__module__) or id(one) in self._walked:
            return
        self._walked.add(id(one))
        self.modules.add(one.__module__)
        for value in vars(one).values():
            if isinstance(value, types.FunctionType):
                self._function(value)
        for base in one.__bases__:
            self._walk_class(base)
