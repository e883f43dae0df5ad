"""Where checkpoints in a bucket differ from those on a disk: how orbax makes them, and what goes wrong."""

import asyncio
import contextlib
import re
from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath

from dots_jax.checkpoint.commit import is_complete
from dots_jax.config import UserError
from dots_jax.human import first_line
from dots_jax.storage import in_bucket

# Of Google's clients and of TensorFlow, which ask for the bucket itself: what no second try will change.
_REFUSED = {"Forbidden", "NotFound", "Unauthorized", "DefaultCredentialsError", "RefreshError"}
_REFUSED |= {"PermissionDeniedError", "UnauthenticatedError"}
_OUT_OF_REACH = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|UNAUTHENTICATED|PERMISSION_DENIED|ABORTED|Unavailable|DeadlineExceeded|Unauthenticated|"
    "PermissionDenied|Aborted|Forbidden|Unauthorized|TooManyRequests|GatewayTimeout|ConnectionError|TransportError|HttpError"
)


class BucketCheckpoint(ocp.path.atomicity.CommitFileTemporaryPath):
    """Orbax's way to save where nothing can be renamed, with two corrections of what it takes for complete and deletes.

    A checkpoint that was copied there from a disk is one, although no commit file says so; and only unfinished checkpoints
    are cleaned up, not every folder without that file.
    """

    @classmethod
    async def validate(cls, temporary_path: epath.Path) -> None:
        await super().validate(temporary_path)
        if not temporary_path.name.isdecimal() or await asyncio.to_thread(is_complete, temporary_path):
            raise ocp.path.atomicity.ValidationError(f"{temporary_path} is not an unfinished checkpoint")

    @classmethod
    async def validate_final(cls, final_path: epath.Path) -> None:
        if not await asyncio.to_thread(is_complete, final_path):
            await super().validate_final(final_path)


@contextlib.contextmanager
def refusals(checkpoints: epath.Path) -> Iterator[None]:
    """A bucket that does not exist, or that this machine's account may not read, becomes one sentence."""
    try:
        yield
    except Exception as error:
        if not in_bucket(checkpoints) or type(error).__name__ not in _REFUSED:
            raise
        raise UserError(
            f"{checkpoints} cannot be opened ({first_line(error)}): is there such a bucket, and does this machine's account "
            "have the roles storage.objectAdmin (or objectViewer, to read) and storage.legacyBucketReader there?"
        ) from error


def is_out_of_reach(error: BaseException | None) -> bool:
    """Whether the bucket could not be asked: that says nothing about what lies in it. By the names that the clients use."""
    while error is not None:
        if _OUT_OF_REACH.search(f"{type(error).__name__} {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False
