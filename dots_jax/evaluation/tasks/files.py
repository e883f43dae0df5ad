"""The published files as they are: byte order marks, no header, CR LF, JSON of several forms. Nothing is ever unpickled."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence

from dots_jax.config import UserError
from dots_jax.data.sources import json_lines
from dots_jax.storage import find_files, open_file, relative_name


class NoData(UserError):
    """The files of a row are not in its folder."""


class Files:
    """The files of one row: all that lie in DATA/row, at any depth."""

    def __init__(self, data: str, row: str):
        self.folder = f"{data.rstrip('/')}/{row}"
        self.paths = {relative_name(f.path, self.folder): f.path for f in find_files(f"{self.folder}/**/*")}

    def matching(self, pattern: str) -> list[tuple[str, str]]:
        """(first group of the pattern, path) of each file of which it matches the end of the name, sorted by name.

        Raises NoData if there is none.
        """
        found = [(m[1], path) for name, path in self.paths.items() if (m := re.search(f"(?:^|/){pattern}$", name))]
        if not found:
            name = re.sub(r"\((?:[^()]|\([^()]*\))*\)", "*", pattern).replace("\\", "")
            raise NoData(f"{self.folder} has no file {name}.")
        return found

    def one(self, *names: str) -> str:
        """The file of the first name that is there. Raises NoData without one."""
        found = self.maybe(*names)
        if found is None:
            raise NoData(f"{self.folder} has none of {', '.join(names)}.")
        return found

    def maybe(self, *names: str) -> str | None:
        for wanted in names:
            for name, path in self.paths.items():
                if name == wanted or name.endswith("/" + wanted):
                    return path
        return None


def read_text(path: str) -> str:
    """UTF-8 with or without a byte order mark; CR LF becomes LF."""
    with open_file(path) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: give the file as it was published.") from None


def read_json(path: str):
    """One JSON value. Raises UserError for anything else."""
    try:
        return json.loads(read_text(path))
    except ValueError:
        raise UserError(f"{path} is not one JSON value: give the file as it was published.") from None


def read_records(path: str, *fields: str) -> list[dict]:
    """The objects of a file of JSON lines or of one JSON array, .gz and .zst too.

    Raises UserError for a record that has not all of `fields`, by file and line.
    """
    records = []
    with open_file(path) as file:
        array = file.read(8).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    for number, record in enumerate(read_json(path), 1) if array else json_lines.read_rows(path):
        at = f"{path} line {number}"
        if isinstance(record, json_lines.Malformed):
            raise UserError(f"{at} is {record.reason}: give the file as it was published.")
        require(record, at, *fields)
        records.append(record)
    return records


def require(record, at: str, *fields: str) -> None:
    missing = [name for name in fields if not isinstance(record, dict) or record.get(name) is None]
    if missing:
        raise UserError(f"{at} has no {missing[0]!r}: the row's file has {', '.join(fields)} in each record.")


def read_table(path: str, fields: Sequence[str], header: bool) -> Iterator[dict[str, str]]:
    """The rows of a csv file. Without a header the columns are `fields`; with one, `fields` are needed, others may follow.

    Raises UserError for a row of another number of columns or a header without a field.
    """
    lines = csv.reader(io.StringIO(read_text(path)))
    try:
        names = [name.strip() for name in next(lines, [])] if header else list(fields)
        if missing := [name for name in fields if name not in names]:
            raise UserError(
                f"{path} has no column {missing[0]!r} in its header, but {', '.join(names) or 'no header'}."
            )
        for row in lines:
            if not row:
                continue
            if len(row) != len(names):
                raise UserError(f"{path} line {lines.line_num} has {len(row)} columns, but {len(names)} are expected.")
            yield dict(zip(names, row))
    except csv.Error as error:
        raise UserError(
            f"{path} line {lines.line_num} is no csv ({error}): give the file as it was published."
        ) from None


def text_of(value: str) -> str:
    """Without the stray quotes, CR and blanks that published fields carry at their ends."""
    value = value.replace("\r\n", "\n").strip()
    return value[:-1].rstrip() if value.endswith('"') and value.count('"') % 2 else value
