"""Rows of JSON lines and Parquet: texts, or pages in a field of HTML, with the user's ids.

A row with text skips decoding and extraction. A row without an id gets one from its content.
"""

import json
from collections.abc import Iterator

from dots_jax.config import InputConfig
from dots_jax.curation.record import Document, Page, Read, Removal, clean, content_id
from dots_jax.data.sources.json_lines import DamagedFile, Malformed, read_rows

_BATCH = 256  # rows of a Parquet file in memory


def read_jsonl(path: str, config: InputConfig) -> Iterator[Read]:
    try:
        for number, row in read_rows(path):
            yield Read(_record(row, f"{_name(path)}:{number}", config), path, number)
    except DamagedFile as damage:
        yield Read(Removal("file", "read", "truncated file", _name(path), detail=damage.reason), path, damage.size)


def read_parquet(path: str, config: InputConfig) -> Iterator[Read]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dots_jax.storage import open_file

    number = 0
    try:
        with open_file(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Read(_record(row, f"{_name(path)}:{number}", config), path, number)
    except (pa.ArrowException, OSError) as error:
        yield Read(Removal("file", "read", "damaged file", _name(path), detail=str(error)[:200]), path, number)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _record(row: object, place: str, config: InputConfig) -> Document | Page | Removal:
    if isinstance(row, Malformed):
        return Removal("page", "read", "bad row", place, detail=f"{row.reason}: {row.shown}"[:200])
    if not isinstance(row, dict):
        return Removal("page", "read", "bad row", place, detail=f"it is no object but {type(row).__name__}")
    url, text, html = (row.get(name) for name in (config.url_field, config.text_field, config.html_field))
    url = clean(url) if isinstance(url, str) else ""
    date = row.get("date")
    date = clean(date) if isinstance(date, str) else "" if date is None else str(date)
    id = row.get(config.id_field)
    id = clean(str(id)) if isinstance(id, (str, int)) and not isinstance(id, bool) and id != "" else ""
    if isinstance(text, str):
        id = id or content_id("text", url, date, text)
        if len(text) > config.max_bytes:
            return Removal("page", "read", "too large", id, url)
        return Document(id, url, clean(text), date) if text.strip() else Removal("page", "read", "empty body", id, url)
    if isinstance(html, (str, bytes)):
        body = html.encode("utf-8", "replace") if isinstance(html, str) else html
        id = id or content_id("html", url, date, body)
        if len(body) > config.max_bytes:
            return Removal("page", "read", "too large", id, url)
        return Page(id, url, body, date=date) if body.strip() else Removal("page", "read", "empty body", id, url)
    fields = ", ".join(map(str, list(row)[:8]))
    wanted = f"neither {config.text_field} nor {config.html_field} among {json.dumps(fields)}"
    return Removal("page", "read", "no text", id or place, url, detail=wanted[:200])
