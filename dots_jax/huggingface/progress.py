"""A bar of bytes, bytes/s and ETA; off a terminal, a line now and then."""

import sys

import tqdm


def byte_bar(what: str, total: int, done: int, enabled: bool) -> tqdm.tqdm:
    interval = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm.tqdm(
        desc=what, total=total, initial=done, unit="B", unit_scale=True, disable=not enabled, mininterval=interval,
        maxinterval=interval, dynamic_ncols=sys.stderr.isatty(),
    )  # fmt: skip
