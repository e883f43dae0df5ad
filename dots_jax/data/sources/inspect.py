"""What record files hold, from the footers of Parquet files and a sample of documents: `dots inspect_source`.

The sample comes from the beginnings of up to 40 files, spread evenly. Errors are twice the
standard error over those places, so that documents of one place, which resemble each other, do not pass for many. With predicates
the figures are those of the records that pass all of them, and each predicate is tried alone as well.
"""

import dataclasses
import itertools
import json
import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow.parquet
import seqio
from array_record.python import array_record_module

from dots_jax.cli.options import InspectOptions
from dots_jax.config import UserError
from dots_jax.config.records import RecordRule, parse_predicate
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import INDEXED, numbered_texts
from dots_jax.data.sources.record_text import LeftOut
from dots_jax.data.sources.text_task import BYTES
from dots_jax.data.tokenizers import tokenizer
from dots_jax.data.tokenizers import vocabulary as vocabularies
from dots_jax.human import human, human_bytes
from dots_jax.storage import open_file, write_text

_PLACES = 40  # of the sample
_FOOTERS = 1000  # that are read; of more files as many, spread evenly
_CHARACTERS = 2000  # of a document that its language is guessed by
_SCRIPTS = {"HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "CYRILLIC": "Cyrillic", "ARABIC": "Arabic",
            "DEVANAGARI": "Devanagari", "THAI": "Thai", "GREEK": "Greek", "HEBREW": "Hebrew", "LATIN": "Latin"}  # fmt: skip


@dataclasses.dataclass
class Sampled:
    """What one place of the sample holds. bytes_per_record: of the file, compressed as it is. tokens: of each text. left_out:
    predicate -> records that it leaves out."""

    texts: list[bytes]
    malformed: Counter[str]
    bytes_per_record: float = 0.0
    tokens: list[int] = dataclasses.field(default_factory=list)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def records(self) -> int:
        return len(self.texts) + self.malformed.total() + self.left_out.total()


def inspect(options: InspectOptions) -> int:
    """The command. Returns the exit status."""
    if not options.files:
        raise UserError("Missing --files: a glob of record files, as in --files='corpus/*.parquet'.")
    vocabulary = tokenizer.TokenizerVocabulary(options.tokenizer) if options.tokenizer else BYTES
    files = FileSource({"all": options.files}, options.field).files("all")
    rule = RecordRule(field=options.field, filters=tuple(parse_predicate("--filter", one) for one in options.filter))
    figures = measure(files, rule, vocabulary, options.documents)
    print("\n".join(_lines(figures, options.tokenizer or "bytes")))
    if options.json:
        write_text(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def measure(files: Sequence, rule: RecordRule, vocabulary: seqio.Vocabulary, documents: int) -> dict:
    """files: file_source.SourceFile of each. documents: to sample. Raises UserError if none of them can be used."""
    field = rule.field
    size = sum(file.size for file in files)
    parquet = all(file.path.endswith(".parquet") for file in files)
    rows, column_bytes, footers = _footers(files, field) if parquet else (None, None, 0)
    places = _places(files, documents, rule)
    found = [text for place in places for text in place.texts]
    malformed = sum((place.malformed for place in places), Counter())
    left_out = sum((place.left_out for place in places), Counter())
    if not found:
        raise UserError(
            f"None of the first records can be used ({dict(malformed + left_out)}): check --field={field}, --filter and the files."
        )
    for place in places:
        place.tokens = [len(ids) for ids in vocabularies.encode_batch(vocabulary, place.texts)]
    places = [place for place in places if place.texts]
    sampled = len(found) + malformed.total() + left_out.total()
    usable = len(found) / sampled
    if rows is None:
        # Documents of a byte of file, then tokens of a document: both vary from place to place.
        per_byte = [sum(p.tokens) / (p.bytes_per_record * p.records) for p in places]
        tokens, error = size * statistics.fmean(per_byte), size * _error(per_byte)
        rows = round(size / statistics.fmean(p.bytes_per_record for p in places))
        exact = False
    else:
        per_row = [sum(place.tokens) / len(place.tokens) for place in places]
        tokens, error = rows * usable * statistics.fmean(per_row), rows * usable * _error(per_row)
        exact = footers == len(files)
    lengths = sorted(itertools.chain.from_iterable(place.tokens for place in places))
    text_bytes = sum(map(len, found))
    languages = Counter(language(text) for text in found)
    return {
        "files": len(files), "bytes": size, "rows": rows, "rows_exact": exact, "column_bytes": column_bytes,
        "sampled": sampled, "places": len(places), "malformed": dict(malformed),
        "filters": _passed(files, documents, rule),
        "bytes_per_token": text_bytes / max(1, sum(lengths)), "tokens": tokens,
        "tokens_error": error if math.isfinite(error) else None,
        "tokens_per_document": {f"p{p}": lengths[min(len(lengths) - 1, len(lengths) * p // 100)] for p in (5, 50, 95, 99)},
        "languages": {name: n / len(found) for name, n in languages.most_common()},
    }  # fmt: skip


def _error(values: list[float]) -> float:
    """Twice the standard error of a mean; infinite for one value."""
    return 2 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _spread(items: Sequence, number: int) -> list:
    return [items[i * len(items) // number] for i in range(number)] if len(items) > number else list(items)


def _footers(files: Sequence, field: str) -> tuple[int, int, int]:
    """(rows, bytes of the column before compression, footers that were read); of many files by a part of them."""
    chosen = _spread(files, _FOOTERS)
    rows = column = 0
    for file in chosen:
        metadata = _metadata(file.path)
        rows += metadata.num_rows
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            column += sum(
                one.total_uncompressed_size
                for one in columns
                if one.path_in_schema.split(".")[0] == field.split(".")[0]
            )
    factor = sum(file.size for file in files) / max(1, sum(file.size for file in chosen))
    return round(rows * factor), round(column * factor), len(chosen)


def _metadata(path: str) -> pyarrow.parquet.FileMetaData:
    try:
        with open_file(path) as file:
            return pyarrow.parquet.ParquetFile(file).metadata
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no Parquet file that can be read ({str(error)[:100]}): bring it again.") from None


def _places(files: Sequence, documents: int, rule: RecordRule) -> list[Sampled]:
    chosen = _spread(files, min(_PLACES, documents))
    each = -(-documents // len(chosen))
    return [_place(file, rule, each) for file in chosen]


def _passed(files: Sequence, documents: int, rule: RecordRule) -> dict[str, float]:
    """Predicate -> share of the records that it takes, each alone, and of all together."""
    found, sets = {}, {one.text: (one,) for one in rule.filters}
    if len(sets) > 1:
        sets["all"] = rule.filters
    for name, filters in sets.items():
        places = _places(files, documents, dataclasses.replace(rule, filters=filters))
        found[name] = 1 - sum(p.left_out.total() for p in places) / max(
            1, sum(p.records - p.malformed.total() for p in places)
        )
    return found


class _Counted:
    """In place of a checksum: how many bytes of the file were read."""

    bytes = 0

    def update(self, data: bytes) -> None:
        self.bytes += len(data)


def _place(file, rule: RecordRule, number: int) -> Sampled:
    """The first records of a file, and the bytes of it that a record takes, compressed as it is."""
    place, read = Sampled([], Counter()), None if file.path.endswith(INDEXED) else _Counted()
    seen = behind = 0
    for _, text in numbered_texts(file.path, rule, conversations=False, digest=read):
        # At the first block behind the sample, the blocks before it held all records so far.
        if seen >= number and (read is None or read.bytes > behind):
            break
        if seen < number:
            _add(place, text)
        seen, behind = seen + getattr(text, "records", 1), read.bytes if read else 0
    else:
        behind = file.size
    if read is None:
        seen, behind = _num_records(file.path), file.size
    place.bytes_per_record = behind / max(1, seen)
    return place


def _num_records(path: str) -> int:
    """Of a file with an index, which says it."""
    if path.endswith(".parquet"):
        return _metadata(path).num_rows
    reader = array_record_module.ArrayRecordReader(path)
    try:
        return reader.num_records()
    finally:
        reader.close()


def _add(place: Sampled, text: bytes | Malformed | LeftOut) -> None:
    if isinstance(text, Malformed):
        place.malformed[text.reason] += 1
    elif isinstance(text, LeftOut):
        place.left_out[text.reason] += text.records
    else:
        place.texts.append(text)


def language(text: bytes) -> str:
    """A guess by script: zh, ja, ko, or the name of the script; 'none' without letters. Latin is many languages."""
    counts = Counter(_script(letter) for letter in text.decode(errors="replace")[:_CHARACTERS] if letter.isalpha())
    if not counts:
        return "none"
    if counts["ja"] * 10 > counts["zh"] and counts["ja"] + counts["zh"] > counts.total() / 2:
        return "ja"  # Japanese has kana between its Chinese characters
    return counts.most_common(1)[0][0]


def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").split(" ")[0]
    return _SCRIPTS.get(first, "Latin" if letter.isascii() else "other")


def _lines(figures: dict, what: str) -> Iterator[str]:
    exact = "from all footers" if figures["rows_exact"] else "estimated"
    yield f"files                {figures['files']:,}, {human_bytes(figures['bytes'])}"
    yield f"rows                 {figures['rows']:,} ({exact})"
    if figures["column_bytes"] is not None:
        yield f"column               {human_bytes(figures['column_bytes'])} before compression, as the footers say"
    bad = sum(figures["malformed"].values())
    yield f"sample               {figures['sampled']:,} records of {figures['places']} places, {bad:,} malformed"
    for reason, count in sorted(figures["malformed"].items()):
        yield f"                     {count:,} times {reason}"
    for predicate, share in figures["filters"].items():
        yield f"passed               {share:.1%} {predicate}"
    yield f"bytes a token        {figures['bytes_per_token']:.3f} ({what})"
    error = figures["tokens_error"]
    spread = "(one place: no error known)" if error is None else f"+- {human(error).strip()}"
    yield f"tokens               {human(figures['tokens']).strip()} {spread}"
    yield f"Source.tokens        {figures['tokens']:.0f}"
    yield "tokens a document    " + ", ".join(f"{n} {v:,}" for n, v in figures["tokens_per_document"].items())
    shares = ", ".join(f"{name} {share:.1%}" for name, share in figures["languages"].items())
    yield f"languages by script  {shares}"
