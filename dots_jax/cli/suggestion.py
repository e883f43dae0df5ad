"""What a misspelled name may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(wrong: str, choices: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence that names the closest choice; empty if none is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{by_lower[close[0]]}?" if close else ""
