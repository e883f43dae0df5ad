"""Conversations of phase 1 among those that are kept, so that fine-tuning on them loses nothing else."""

import collections
import hashlib
import json
from collections.abc import Sequence

from dots_jax.config import CacheConfig, UserError
from dots_jax.config.records import RecordRule
from dots_jax.data.sources.conversations import formats
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import check_format, read_texts
from dots_jax.storage import find_files

MAX_MALFORMED = CacheConfig(tasks=("any",)).max_malformed


def read_mix(globs: Sequence[str]) -> tuple[list[dict], dict[str, int]]:
    """(rows of `messages`, records left out by reason) of files of conversations, in any format that `Source.format` knows.

    Raises:
      UserError: a glob without files, a format that is not known, or more malformed records than a token cache allows.
    """
    rows, bad = [], collections.Counter()
    for glob in globs:
        files = find_files(glob)
        if not files:
            raise UserError(f"No file fits --mix={glob}.")
        for file in files:
            check_format(file.path)
            for text in read_texts(file.path, RecordRule(format="auto"), conversations=True):
                if isinstance(text, Malformed):
                    bad[text.reason] += 1
                else:
                    rows.append(
                        {"messages": [_message(one) for one in formats.from_text(text).messages], "source": file.path}
                    )
    if bad.total() > MAX_MALFORMED * (len(rows) + bad.total()):
        reason, count = bad.most_common(1)[0]
        raise UserError(
            f"{bad.total()} of {len(rows) + bad.total()} records of --mix are malformed, the commonest ({count}) since {reason}: "
            "fix the files."
        )
    return rows, dict(bad)


def _message(one: dict) -> dict:
    plain = {"role": one["role"], "content": one["content"]}
    return plain if one["learn"] or one["role"] != "assistant" else plain | {"weight": 0}


def take_share(rows: Sequence[dict], kept: int, share: float | None, seed: int) -> list[dict]:
    """All rows, or as many as are `share` of them and `kept` others together, drawn by a hash of (seed, index), in their order.

    Raises UserError if there are too few.
    """
    if share is None:
        return list(rows)
    wanted = round(kept * share / (1 - share))
    if wanted > len(rows):
        raise UserError(
            f"--mix_share={share} of {kept:,} kept samples needs {wanted:,} conversations, but --mix has {len(rows):,}: lower the "
            "share, or give more."
        )
    draw = lambda index: hashlib.sha256(json.dumps([seed, index]).encode()).digest()
    return [rows[index] for index in sorted(sorted(range(len(rows)), key=draw)[:wanted])]
