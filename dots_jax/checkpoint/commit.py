"""When a checkpoint is complete: on a disk by its name, which it gets at the end; in a bucket by what lies in it."""

import json

from etils import epath

from dots_jax.storage import in_bucket

COMMIT_FILE = "commit_success.txt"  # orbax's, written last where nothing can be renamed
METADATA_FILE = "_CHECKPOINT_METADATA"


def is_complete(step: epath.Path) -> bool:
    """Whether the folder `checkpoints/<step>` is a checkpoint, and not the beginning of one."""
    if not in_bucket(step) or (step / COMMIT_FILE).exists():
        return True
    try:
        # Copied there from a disk: no such file, but the time at which it was complete. Orbax writes that time last but one.
        return bool(json.loads((step / METADATA_FILE).read_text())["commit_timestamp_nsecs"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def finished_steps(checkpoints: epath.Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, rising."""
    steps = sorted(int(entry.name) for entry in checkpoints.iterdir() if entry.name.isdecimal() and entry.is_dir())
    return [step for step in steps if is_complete(checkpoints / str(step))]
