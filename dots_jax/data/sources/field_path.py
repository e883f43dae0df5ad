"""The value of a field of a record, by its path: `a.b` is the field b of the field a. Standard library only."""

import functools
from collections.abc import Mapping


def look_up(values: Mapping, path: str) -> object:
    """The value at a path; None if it is not there. A field that is named `a.b` as it stands comes first."""
    if path in values:
        return values[path]
    for name in names_of(path):
        if not isinstance(values, Mapping):
            return None
        values = values.get(name)
    return values


@functools.lru_cache(1024)
def names_of(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))
