"""The rows of a Parquet file: only the columns that a rule looks at, and no row group that its statistics exclude."""

import io
import re
from collections.abc import Callable, Iterator

import pyarrow
import pyarrow.parquet

from dots_jax.config import UserError
from dots_jax.config.records import Predicate
from dots_jax.data.sources import parts
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_text import LeftOut, Record, RecordText
from dots_jax.storage import in_bucket, source_filesystem

_BATCH = 1024  # rows in memory
# What writers put between the name of a list and the names of its elements' fields.
_LIST_LEVELS = re.compile(r"\.(list\.element|list\.item|list\.array|bag\.array_element|bag\.array|key_value)(?=\.|$)")
LIBRARY_ERRORS = (pyarrow.ArrowException,)


def rows(
    path: str,
    rule: RecordText,
    on_progress: Callable[[int, int], None],
    memory: io.RawIOBase | None = None,
    span: parts.Span | None = None,
) -> Iterator[tuple[int, Record | Malformed | LeftOut]]:
    """(number from 1, row) of the rows that the predicates take, and what was left out.

    on_progress: gets the rows that were read so far, and all of them. memory: the file, if it is in memory. span: a part of it.
    Raises UserError for a predicate on a column that is not there or holds another kind of value; whatever pyarrow raises for
    a damaged file.
    """
    # A local path as it is, which pyarrow reads without Python; a bucket through the one client of this project. Checksums of
    # pages are there if the writer wrote some.
    client = source_filesystem(path) if in_bucket(path) and memory is None else None
    place = memory or (path.split("://")[-1] if client else path)
    with pyarrow.parquet.ParquetFile(place, filesystem=client, page_checksum_verification=True) as file:
        groups, before = parts.groups_of(file.metadata, span)
        total = sum(file.metadata.row_group(group).num_rows for group in groups)
        on_progress(0, total)
        leaves = {_LIST_LEVELS.sub("", file.schema.column(i).path): i for i in range(len(file.schema))}
        check_predicates(path, rule, file, leaves)
        paths, missing = _columns(rule, file, leaves) if rule.paths else (None, "")
        if missing:
            names = "columns: " + ", ".join(file.schema_arrow.names)
            yield from (
                (number, Malformed(f"no field {missing!r}", names)) for number in range(before + 1, before + total + 1)
            )
            return
        first = before + 1
        for group in groups:
            of_group = file.metadata.row_group(group)
            excluded = next((one for one in rule.filters if _excludes(one, of_group, leaves)), None)
            if excluded is not None:
                yield first, LeftOut(excluded.text, records=of_group.num_rows)
                first += of_group.num_rows
            else:
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=paths):
                    yield from _taken(batch, rule, first)
                    first += len(batch)
                    on_progress(first - 1 - before, total)
        if first - 1 - before != total:
            raise EOFError(f"it has {first - 1 - before:,} of the {total:,} rows that it promises")


def check_predicates(path: str, rule: RecordText, file: pyarrow.parquet.ParquetFile, leaves: dict[str, int]) -> None:
    for one in rule.rule.filters:
        if one.path not in leaves:
            raise UserError(
                f"{path} has no column {one.path!r}, which the filter `{one.text}` compares: it has {', '.join(leaves)}."
            )
        kind = file.schema.column(leaves[one.path])
        found = _kind(kind)
        if found not in (one.kind, "other"):
            raise UserError(
                f"{path}: the filter `{one.text}` compares a {one.kind}, but the column {one.path!r} holds "
                f"{'a ' + found}: compare with a {found}, or choose another column."
            )


def _kind(column) -> str:
    if column.physical_type == "BOOLEAN":
        return "bool"
    if column.logical_type.type in ("STRING", "ENUM", "JSON"):
        return "string"
    plain = column.logical_type.type in ("NONE", "INT")
    return "number" if plain and column.physical_type in ("INT32", "INT64", "FLOAT", "DOUBLE") else "other"


def _columns(rule: RecordText, file: pyarrow.parquet.ParquetFile, leaves: dict[str, int]) -> tuple[list[str], str]:
    """(the columns as pyarrow names them, the first path that no column has or "")."""
    columns = []
    for path in rule.paths:
        found = [i for name, i in leaves.items() if name == path or name.startswith(f"{path}.")]
        if not found:
            return [], path
        columns += [file.schema.column(i).path for i in found]
    return list(dict.fromkeys(columns)), ""


def _excludes(one: Predicate, group, leaves: dict[str, int]) -> bool:
    """Whether the statistics of a row group say that no row can hold. Rows without a value never do."""
    column = group.column(leaves[one.path])
    statistics = column.statistics
    if group.num_rows == 0 or statistics is None:
        return False
    if statistics.has_null_count and statistics.null_count == group.num_rows and column.num_values == group.num_rows:
        return True
    if not statistics.has_min_max:
        return False
    low, high = statistics.min, statistics.max
    if not (one.fits(low) and one.fits(high)) or low != low or high != high:  # NaN says nothing
        return False
    return not one.may_hold(low, high)


def _taken(
    batch: pyarrow.RecordBatch, rule: RecordText, first: int
) -> Iterator[tuple[int, Record | Malformed | LeftOut]]:
    if not rule.compared:
        columns = [column.to_pylist() for column in batch.columns]
        for number, row in enumerate(zip(*columns), start=first):
            values = dict(zip(batch.schema.names, row))
            yield number, Record(values, values)
        return
    compared = {path.split(".")[0] for path in rule.compared} | set(rule.compared)
    few = batch.select([name for name in batch.schema.names if name in compared]).to_pylist()
    refused = [rule.refused(Record(values, values)) for values in few]
    taken = batch.filter(pyarrow.array([one is None for one in refused], pyarrow.bool_()))
    texts = iter(taken.to_pylist())
    for number, one in enumerate(refused, start=first):
        if one is None:
            values = next(texts)
            yield number, Record(values, values)
        else:
            yield number, one
