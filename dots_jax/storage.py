"""Files on this machine and in buckets (`gs://bucket/runs/one`): where a run lives, the files that a glob names,
and files that are written completely or not at all.

Every path of the project that may be in a bucket comes from here. TensorFlow reads it where TensorFlow is installed, else
gcsfs does, as etils decides; listings and sources go through gcsfs always, which knows `**` and the sizes in one listing.
"""

import contextlib
import functools
import glob
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple, cast

from etils import epath

from dots_jax.config import UserError
from dots_jax.human import first_line

if TYPE_CHECKING:
    import fsspec

BUCKET = "gs://"
S3 = "s3://"  # of sources alone: read, never written
LINKS = 40  # of a chain of symbolic links, as the kernel follows


def folder(workdir: str) -> epath.Path:
    """The absolute path of a workdir; it has pathlib's methods, in a bucket too.

    Raises UserError for storage of another kind than gs://.
    """
    if not in_bucket(workdir):
        return epath.Path(os.path.abspath(workdir))
    filesystem(workdir)
    return epath.Path(workdir)


def in_bucket(path: str | os.PathLike) -> bool:
    return "://" in str(path)


def filesystem(path: str) -> "fsspec.AbstractFileSystem":
    """The client of a gs:// path, with its settings, which are those of etils' too.

    Raises UserError for other kinds of storage.
    """
    if not str(path).startswith(BUCKET):
        raise UserError(
            f"{path}: of storage with ://, only buckets of Google Cloud Storage (gs://) can be used; s3:// is for the files of a "
            "source."
        )
    # Without this gcsfs asks another service at every call what kind of bucket it is, and complains where it may not.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    from fsspec.config import conf

    # Listings are not kept: a run writes while a notebook looks on.
    conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem("gcs")


def source_filesystem(path: str) -> "fsspec.AbstractFileSystem":
    """The client that reads sources at gs:// and s3:// paths. Retries and backoff are the libraries' own.

    s3:// is Arrow's client: credentials, region and endpoint come from AWS's environment variables and files.
    """
    return _s3() if str(path).startswith(S3) else filesystem(path)


@functools.cache
def _s3() -> "fsspec.AbstractFileSystem":
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import S3FileSystem

    # As AWS's own clients read it, for other stores that speak S3; Arrow does not.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    scheme, _, host = (endpoint or "https://").partition("://")
    return ArrowFSWrapper(S3FileSystem(scheme=scheme, endpoint_override=host or None))


def tokenizer_file(workdir: epath.Path) -> epath.Path | None:
    """The tokenizer.json that a conversion or a user put into a workdir."""
    named = (workdir / "tokenizer" / "tokenizer.json", workdir / "tokenizer.json")
    return next((path for path in named if path.exists()), None)


# --- the files that a glob names --------------------------------------------------------------------------------------


class FoundFile(NamedTuple):
    """size: in bytes. modified: seconds, to compare."""

    path: str
    size: int
    modified: float


def find_files(pattern: str) -> list[FoundFile]:
    """The files that match, by path. `**` is any depth; names that begin with a dot match only a dot, as in a shell.

    Nothing that it names is left out in silence: raises UserError for a link to nothing, a folder (but under `**`), a pipe,
    and a folder or bucket that cannot be listed.
    """
    if not in_bucket(pattern):
        _check_listed(pattern)
        paths = sorted(set(glob.glob(pattern, recursive=True)))
        return [_found(path, pattern) for path in paths if not ("**" in pattern and os.path.isdir(path))]
    client, scheme = source_filesystem(pattern), pattern.split("://")[0] + "://"
    try:
        # One listing, which has the sizes too: a request for each file would take hours for a large corpus.
        found = cast(dict[str, dict], client.glob(pattern, detail=True))
    except Exception as error:  # noqa: BLE001  credentials, network and the bucket each have errors of their own
        raise UserError(
            f"{fixed_folder(pattern)} cannot be listed ({first_line(error)}): is there such a bucket, and may this "
            "machine's account read it?"
        ) from error
    found = {scheme + name: entry for name, entry in sorted(found.items()) if not _is_hidden(scheme + name, pattern)}
    folders = [name for name, entry in found.items() if entry["type"] != "file"]
    if folders and "**" not in pattern:
        raise UserError(_is_folder(folders[0], pattern))
    return [
        FoundFile(name, entry["size"], entry["mtime"].timestamp())
        for name, entry in found.items()
        if entry["type"] == "file"
    ]


def _found(path: str, pattern: str) -> FoundFile:
    try:
        found = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, which cannot be read ({error.strerror}): bring that file, or remove the "
                "link."
            ) from None
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if stat.S_ISDIR(found.st_mode):
        raise UserError(_is_folder(path, pattern))
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}, which {pattern!r} names, is no plain file: give a narrower pattern.")
    return FoundFile(path, found.st_size, found.st_mtime)


def _is_folder(path: str, pattern: str) -> str:
    return (
        f"{path} is a folder, which {pattern!r} names: name the files in it, as in {path.rstrip('/')}/*, or give a narrower "
        "pattern."
    )


def _check_listed(pattern: str) -> None:
    """glob takes a folder that it cannot list for an empty one."""

    def refuse(error: OSError):
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise UserError(
                f"The folder {error.filename}, which {pattern!r} names, cannot be listed ({error.strerror}): make it readable, "
                "or give a narrower pattern."
            ) from None

    if "**" in pattern:
        for _ in os.walk(fixed_folder(pattern), onerror=refuse, followlinks=True):
            pass
    elif glob.has_magic(pattern):
        for found in glob.glob(os.path.dirname(pattern) or os.curdir):
            try:
                os.listdir(found)
            except OSError as error:
                refuse(error)


def _is_hidden(path: str, pattern: str) -> bool:
    names = relative_name(path, fixed_folder(pattern)).split("/")
    return "/." not in pattern and any(name.startswith(".") for name in names)


def fixed_folder(pattern: str) -> str:
    """The folder before the first wildcard."""
    found = os.path.dirname(pattern)
    while glob.has_magic(found):
        found = os.path.dirname(found)
    return found or os.curdir


def relative_name(path: str, start: str) -> str:
    """The path as seen from a folder that it lies in, with slashes."""
    return os.path.relpath(path, start).replace(os.sep, "/")


def file_sizes(path: epath.Path | os.PathLike) -> dict[str, int]:
    """Bytes of the files in a folder, by name, in one listing."""
    if in_bucket(path):
        entries = filesystem(str(path)).ls(str(path), detail=True)
        return {os.path.basename(entry["name"]): entry["size"] for entry in entries if entry["type"] == "file"}
    with os.scandir(path) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}


def open_file(path: str) -> BinaryIO:
    """The bytes of a file. Raises UserError for one that is missing or forbidden."""
    try:
        return cast(BinaryIO, source_filesystem(path).open(path, "rb")) if in_bucket(path) else open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path} cannot be read: No such file or directory.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error


# --- files that are written completely or not at all ------------------------------------------------------------------


def write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write` of one text."""
    with atomic_write(path) as file:
        file.write(text)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """A file to write (mode `w`: UTF-8 text, `wb`: bytes) that becomes `path` when the block ends.

    If the block raises, `path` stays as it was. An existing file keeps its mode and owner, and a symbolic link keeps
    pointing to it. What is not a plain file (a terminal, a pipe, /dev/null, /dev/stdout) is written through, never replaced.

    Raises:
      OSError: the path is a folder or cannot be written.
    """
    if in_bucket(path):
        writer = _write_object(str(path), mode)
    else:
        target = _follow_links(os.fspath(path))
        if isinstance(target, str) and _is_plain_or_new(target):
            writer = _write_new(target, mode)
        else:
            writer = _write_through(target, mode)
    with writer as file:
        yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """For libraries that write by name: another name in the same folder, whose file becomes `path` when the block ends.

    Two writers of one path do not disturb each other.
    """
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name[:200]}.{uuid.uuid4().hex[:8]}.new")
    try:
        yield new
        os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(new)


@contextlib.contextmanager
def _write_object(path: str, mode: str) -> Iterator[IO]:
    """An object of a bucket exists once its writer closes: it is opened when all of it is known."""
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "object")
        with _open(local, mode) as file:
            yield file
        try:
            epath.Path(local).copy(path, overwrite=True)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  credentials, network and the bucket each have errors of their own
            raise OSError(0, first_line(error)) from error


@contextlib.contextmanager
def _write_new(path: str, mode: str) -> Iterator[IO]:
    with atomic_path(path) as new, _open(new, mode) as file:
        if os.path.exists(path):
            _copy_owner_and_mode(path, new)
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _write_through(path: str | int, mode: str) -> Iterator[IO]:
    """path: a name, or a descriptor of this process, which may be a socket or a file that is appended to."""
    with _open(os.dup(path) if isinstance(path, int) else path, mode) as file:
        yield file


def _open(path: str | int, mode: str) -> IO:
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def _follow_links(path: str) -> str | int:
    """The path behind all symbolic links, or the descriptor of this process that it names, as /dev/stdout does."""
    path = os.path.abspath(path)
    for _ in range(LINKS):
        directory, name = os.path.split(path)
        directory = os.path.realpath(directory)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", directory) and name.isdecimal():
            return int(name)
        path = os.path.join(directory, name)
        if not os.path.islink(path) or directory.startswith("/proc/"):
            break
        path = os.path.join(directory, os.readlink(path))
    return path


def _is_plain_or_new(path: str) -> bool:
    """Raises IsADirectoryError for a folder."""
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(0, "it is a folder")
    return stat.S_ISREG(kind)


def _copy_owner_and_mode(source: str, target: str) -> None:
    status = os.stat(source)
    with contextlib.suppress(OSError):  # only root may give a file away
        os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
