"""Whether the files of a source are still those that a cache, or a part of one, was made of.

What a file is, the checksum of all its bytes says, which was taken when the file was read for the cache. A thorough check
reads all files again. The cheap one looks at sizes, and reads those files again whose time of change is another than at
the last check; it takes a file for the same that was changed by as many bytes and given its old time. What was seen is
noted in `.<split>.checked.json` next to the cache, if that folder can be written.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import seqio

from dots_jax.config import UserError
from dots_jax.data.cache.plan import read_json, write_json
from dots_jax.data.cache.source_rows import content_of
from dots_jax.data.cache.token_format import MANIFEST, Manifest
from dots_jax.data.sources.content import Content, checksums, look_at
from dots_jax.data.sources.documents import paths_of
from dots_jax.data.sources.file_source import FileSource, NoFiles
from dots_jax.storage import in_bucket, write_text


def same_files(paths: Mapping[str, str], known: Mapping[str, Content], thorough: bool) -> dict[str, Content | None]:
    """Of each name in `known`, what its file is now if it is the same, else None. modified in `known`: at the last check."""
    found, to_read = {}, []
    for name, content in known.items():
        file = look_at(paths[name]) if name in paths else None
        if file is None or file.size != content.size:
            found[name] = None
        elif thorough or content.modified == 0 or file.modified != content.modified:
            to_read.append(name)
        else:
            found[name] = content
    for name, content in zip(to_read, checksums((paths[name], known[name].spans) for name in to_read)):
        found[name] = content if content.sha256 == known[name].sha256 else None
    return found


def same_pieces(task: seqio.Task, split: str, done: dict[int, dict], thorough: bool) -> set[int]:
    """Which of the pieces that are done, by number, were made of what is there now."""
    paths = paths_of(task, split)
    known = {
        str(number): content_of(row | {"spans": [row["span"]]} if "span" in row else row, row["modified"])
        for number, row in done.items()
        if row["sha256"]
    }
    where = {str(number): paths[row["name"]] for number, row in done.items() if row["name"] in paths}
    found = same_files(where, known, thorough)
    return {number for number, row in done.items() if not row["sha256"] or found[str(number)] is not None}


def check_sources(task: seqio.Task, split: str, directory: Path, manifest: Manifest, thorough: bool) -> None:
    """Raises UserError if the source's files are other ones than the cache was made of; if none is here, there is nothing
    to check."""
    known = {row["name"]: content_of(row) for row in manifest.sources if row["sha256"]}
    try:
        paths = paths_of(task, split) if known else {}
    except NoFiles:
        return
    if not paths:
        return
    before = _noted(directory)
    known = {name: one._replace(modified=before.get(name, 0)) for name, one in known.items()}
    found = same_files(paths, known, thorough)
    differences = [f"{name} is new" for name in sorted(paths.keys() - known.keys())]
    differences += [
        f"{name} {'was changed' if name in paths else 'is gone'}" for name in sorted(found) if not found[name]
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        named = f"{task.source.globs[split]!r} has" if isinstance(task.source, FileSource) else "its source has"
        raise UserError(
            f"The token cache {directory} was made of other files than {named} now ({', '.join(differences[:3])}{more}; "
            f"its {MANIFEST} has the checksums): delete that folder and it is made again, or choose another "
            "DataConfig.cache_dir."
        )
    note(directory, found)


def note(directory: Path, contents: Mapping[str, Content]) -> None:
    """Writes down at what times of change the files were found to be those of the cache."""
    times = {name: content.modified for name, content in contents.items()}
    if times != _noted(directory):
        # Suppressed for a cache that can only be read: its files are read again the next time.
        with contextlib.suppress(OSError):
            if in_bucket(directory):
                write_text(_notes(directory), json.dumps(times, indent=1) + "\n")
            else:
                write_json(_notes(directory), times)


def _noted(directory: Path) -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        found = read_json(_notes(directory))
        return found if isinstance(found, dict) else {}
    return {}


def _notes(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.checked.json")
