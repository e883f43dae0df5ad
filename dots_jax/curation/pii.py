"""The step `pii`: personal data becomes one constant a kind, and a document rich in it goes.

Found are e-mail addresses, Chinese mobile and landline numbers and numbers with a country's code, Chinese identity cards and
bank cards with a valid checksum, and public IPv4 addresses. Not replaced: numbers that follow ISBN, ISSN, DOI or a version,
and digits inside longer numbers or identifiers. Names and street addresses are not found.
"""

import contextlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from dots_jax.config import CurateConfig, PiiConfig
from dots_jax.curation.protocol import Apply, Outcome
from dots_jax.curation.record import Document, Record, Removal, removal

CONSTANTS = {
    "email": "<EMAIL>",
    "phone": "<PHONE>",
    "identity_card": "<ID_CARD>",
    "bank_card": "<BANK_CARD>",
    "ip_address": "<IP_ADDRESS>",
}
MIN_FOR_DENSITY = 3  # replacements; a business card in a long article's footer is no reason

_EMAIL = (
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_EDGE, _END = r"(?<![\d.\-/:+#=_A-Za-z])", r"(?![\d_A-Za-z]|[.\-/:]\d)"
_ID_CARD = _EDGE + r"[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]" + _END
_BANK_CARD = _EDGE + r"(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{16,19})" + _END
_IP = _EDGE + r"(?:\d{1,3}\.){3}\d{1,3}" + r"(?![\d_A-Za-z]|[.\-]\d)"
_PHONE = "|".join(
    (
        _EDGE + r"(?:\+?86[ -]?)?1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})" + _END,  # mobile in China
        _EDGE + r"0(?:10|2\d|[3-9]\d{2})-[2-9]\d{6,7}" + _END,  # landline in China
        r"(?<![\w+.])\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}" + _END,  # with a country's code
    )
)
_PATTERNS = {
    "email": re.compile(_EMAIL),
    "identity_card": re.compile(_ID_CARD),
    "bank_card": re.compile(_BANK_CARD),
    "phone": re.compile(_PHONE),
    "ip_address": re.compile(_IP),
}
_ORDER = ("email", "identity_card", "bank_card", "phone", "ip_address")
# What makes the digits after it something else. Looked for in the characters before a match.
_OTHER = re.compile(r"(?:isbn|issn|doi|version|\bver\.?|\bv|release|build)(?:[-\s]?1[03])?[\s:：#]*$", re.IGNORECASE)
_BEFORE = 16  # characters


def replace(text: str, kinds: tuple[str, ...] = tuple(_ORDER)) -> tuple[str, Counter]:
    """The text with a constant for everything found, and how often each kind was found."""
    found = Counter()
    for kind in _ORDER:
        if kind in kinds and (kind != "email" or "@" in text):
            text = _replace(text, kind, found)
    return text, found


def _replace(text: str, kind: str, found: Counter) -> str:
    def put(match: re.Match[str]) -> str:
        before = text[max(match.start() - _BEFORE, 0) : match.start()]
        if not _VALID[kind](match[0]) or (kind != "email" and _OTHER.search(before)):
            return match[0]
        found[kind] += 1
        return CONSTANTS[kind]

    return _PATTERNS[kind].sub(put, text)


def is_identity_card(number: str) -> bool:
    """The checksum of GB 11643: weights 2^(17 - i) modulo 11."""
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def is_bank_card(number: str) -> bool:
    """Luhn's checksum, 16 to 19 digits, and not one digit alone."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return 16 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def is_public_address(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return False


def _is_phone(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15


_VALID = {
    "email": lambda text: not text.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")),
    "identity_card": is_identity_card,
    "bank_card": is_bank_card,
    "phone": _is_phone,
    "ip_address": is_public_address,
}


def rich(number: int, characters: int, config: PiiConfig) -> bool:
    """Whether a document has too much of it."""
    dense = number >= MIN_FOR_DENSITY and number * 1000 > config.max_per_1000 * characters
    return number > config.max_found or dense


def apply(document: Document, config: PiiConfig) -> Outcome:
    """One row of the ledger for a document that changes, with the counts of each kind and no personal data."""
    text, found = replace(document.text, config.kinds)
    number = found.total()
    if not number:
        return Outcome([document], [])
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
    if rich(number, len(document.text), config):
        row = removal(document, "pii", "personal data", score=float(number), detail=counts)
        return Outcome([], [row._replace(text=replace(document.text)[0]).short()])
    shorter = len(document.text) - len(text)  # below 0 if the constants are longer
    row = Removal(
        "part", "pii", "replaced", document.id, document.url, float(number), characters=shorter, detail=counts
    )
    return Outcome([document._replace(text=text)], [row])


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Apply]:
    def step(records: Sequence[Record]) -> Outcome:
        outcome = Outcome([], [])
        for record in records:
            kept, removed = apply(record, config.pii) if isinstance(record, Document) else ([record], [])
            outcome.kept.extend(kept)
            outcome.removed.extend(removed)
        return outcome

    yield step
