"""Data sets of the Hugging Face hub into a folder or a bucket: `dots fetch_source`, the only command that downloads.

Files come through the hub's own client, which goes on in mid-file when a connection breaks. A command that was killed goes on
file by file. A file appears under its name only when its checksum is the hub's. `fetched.json` in the folder says of which
revision the files are, and makes a second call bring only what is missing.
"""

import concurrent.futures
import fnmatch
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tqdm
from etils import epath

from dots_jax.cli.options import FetchOptions
from dots_jax.config import UserError
from dots_jax.human import first_line, human_bytes
from dots_jax.locks import owned
from dots_jax.storage import filesystem, folder, in_bucket, write_text

FETCHED = "fetched.json"
_ATTEMPTS = 6  # of a file; between them 1, 2, 4, ... seconds, for hubs that answer 429 and connections that break
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFile(NamedTuple):
    """checksum: sha256 of a file in LFS, else the id of its git blob."""

    path: str
    size: int
    checksum: str


def fetch(options: FetchOptions) -> int:
    """The command. Returns the exit status."""
    for name in ("repo", "revision", "output"):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: dots fetch_source --help shows an example.")
    hub = _hub()
    files = list_files(hub, options.repo, options.revision, options.include)
    total = sum(file.size for file in files)
    output = folder(options.output)
    known = _fetched(output, options.repo, options.revision)
    todo = [file for file in files if known.get(file.path) != file.checksum or _size(output / file.path) != file.size]
    print(
        f"{options.repo} at {options.revision}: {len(files):,} files, {human_bytes(total)}; {len(files) - len(todo):,} there"
    )
    if options.dry_run or not todo:
        return 0
    with owned(output, f"the data set {options.repo}", name=".fetch.owner.json"):
        _fetch_all(hub, options, output, todo, known)
    print(f"{output}: complete, every checksum is the hub's ({FETCHED})")
    return 0


def _hub():
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("dots fetch_source needs huggingface_hub: pip install 'dots_jax[hub]'.") from None
    return huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def list_files(hub, repo: str, revision: str, include: tuple[str, ...]) -> list[HubFile]:
    """The files of a data set that the globs name, by path.

    Raises UserError for a revision that is no commit, for which it names the commit, and for globs that name nothing.
    """
    try:
        if not _COMMIT.fullmatch(revision):
            commit = hub.repo_info(repo, repo_type="dataset", revision=revision).sha
            raise UserError(
                f"--revision={revision} is no commit and may move: it is {commit} now, so give --revision={commit}."
            )
        tree = list(hub.list_repo_tree(repo, repo_type="dataset", revision=revision, recursive=True))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  the hub's client has many of its own and of its libraries
        raise UserError(
            f"The hub does not list {repo} at {revision} ({first_line(error)}): check the name and the revision, and log in with "
            "`hf auth login` if the data set is gated."
        ) from error
    entries = [one for one in tree if hasattr(one, "blob_id") and hasattr(one, "size")]
    files = [HubFile(one.path, one.size, one.lfs.sha256 if one.lfs else one.blob_id) for one in entries]
    found = [file for file in files if not include or any(fnmatch.fnmatch(file.path, glob) for glob in include)]
    for glob in include:
        if not fnmatch.filter([file.path for file in files], glob):
            raise UserError(
                f"--include={glob} names none of the {len(files):,} files of {repo} at {revision}, as "
                f"{', '.join(file.path for file in files[:3])}: correct the glob."
            )
    return sorted(found)


def _fetched(output: epath.Path, repo: str, revision: str) -> dict[str, str]:
    """Path -> checksum of what is there. Raises UserError for a folder of another data set or revision."""
    place = output / FETCHED
    if not place.exists():
        return {}
    try:
        found = json.loads(place.read_text())
        known, there = dict(found["files"]), (found["repo"], found["revision"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}): remove it, and all files are brought again.") from None
    if there != (repo, revision):
        raise UserError(f"{output} holds {there[0]} at {there[1]}, not {repo} at {revision}: choose another --output.")
    return known


def _size(path: epath.Path) -> int | None:
    try:
        return path.stat().length
    except OSError:
        return None


def _fetch_all(hub, options: FetchOptions, output: epath.Path, todo: list[HubFile], known: dict[str, str]) -> None:
    lock, last = threading.Lock(), [time.monotonic()]
    scratch = Path(str(output)) / ".fetching"
    if in_bucket(output):  # the same folder the next time, so that a download goes on
        name = hashlib.sha256(str(output).encode()).hexdigest()[:16]
        scratch = Path(tempfile.gettempdir()) / f"dots_jax_fetch-{os.getuid()}" / name

    def save() -> None:
        content = {"repo": options.repo, "revision": options.revision, "files": dict(sorted(known.items()))}
        write_text(output / FETCHED, json.dumps(content, indent=1) + "\n")

    def one(file: HubFile) -> HubFile:
        local = scratch / file.path
        _retried(lambda: _download(hub, options, file, scratch, local), file.path)
        _place(local, output / file.path)
        with lock:
            known[file.path] = file.checksum
            if time.monotonic() - last[0] > 10:
                save()
                last[0] = time.monotonic()
        return file

    output.mkdir(parents=True, exist_ok=True)
    bar = tqdm.tqdm(total=sum(file.size for file in todo), desc=f"fetching {options.repo}", unit="B", unit_scale=True)
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool, bar:
        try:
            for done in concurrent.futures.as_completed([pool.submit(one, file) for file in todo]):
                bar.update(done.result().size)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            save()
    shutil.rmtree(scratch, ignore_errors=True)


def _download(hub, options: FetchOptions, file: HubFile, scratch: Path, local: Path) -> None:
    hub.hf_hub_download(options.repo, file.path, repo_type="dataset", revision=options.revision, local_dir=str(scratch))
    found = checksum(local, file.checksum)
    if found != file.checksum:
        local.unlink()
        raise OSError(f"its checksum is {found}, and the hub's is {file.checksum}")


def _retried(step: Callable[[], None], what: str) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            return step()
        except Exception as error:  # noqa: BLE001  the hub's client has many of its own and of its libraries
            if attempt == _ATTEMPTS - 1 or isinstance(error, UserError):
                raise UserError(
                    f"{what} cannot be brought from the hub ({first_line(error)}): the same command goes on from what is there."
                ) from error
            time.sleep(2**attempt)


def _place(local: Path, target: epath.Path) -> None:
    if in_bucket(target):
        filesystem(str(target)).put_file(str(local), str(target))
        local.unlink()
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(local, target)


def checksum(path: Path, expected: str) -> str:
    """Of a file, of the kind that `expected` is of: sha256 (64 digits), or sha1 of a git blob (40)."""
    with open(path, "rb") as file:
        if len(expected) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(f"blob {os.fstat(file.fileno()).st_size}\0".encode(), usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
