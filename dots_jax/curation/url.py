"""The URL filter: blocked domains with their subdomains, and words that must not stand in an address.

Lists are the user's files, one entry a line; `#` begins a comment. No list is shipped, since the report publishes none.
"""

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation.protocol import Verdict
from dots_jax.curation.record import Record, removal
from dots_jax.storage import open_file

_WORD = re.compile(r"[^\W_]+")


def host_of(url: str) -> str:
    """The host in lower case, as `xn--` where it is international; without port, user and the dot at its end; or ""."""
    try:
        host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""
    return _ascii(host)


def _ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        return host.lower()


def without_credentials(url: str) -> str:
    """`http://user:password@host/` as `http://host/`: they belong in no corpus."""
    if "@" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_list(path: str, setting: str) -> frozenset[str]:
    """The entries of a list, in lower case.

    Raises UserError for a file that is missing, no UTF-8 text, or without an entry.
    """
    with open_file(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{setting}: {path} is not UTF-8 text; bring it as one entry a line.") from None
    entries = frozenset(line.split("#")[0].strip().lower() for line in text.splitlines()) - {""}
    if not entries:
        raise UserError(f"{setting}: {path} holds no entry; leave it out, or fill it.")
    return entries


def blocked_domain(host: str, domains: frozenset[str]) -> str:
    """The entry that blocks this host: the host itself or a domain above it; "" if none does."""
    if is_address(host):
        return host if host in domains else ""
    parts = host.split(".")
    names = (".".join(parts[start:]) for start in range(len(parts)))
    return next((name for name in names if name in domains), "")


def blocked_word(url: str, words: frozenset[str]) -> str:
    found = sorted(set(_WORD.findall(url.lower())) & words)
    return found[0] if found else ""


def read_lists(config: CurateConfig) -> tuple[frozenset[str], frozenset[str]]:
    """(domains in `xn--` form, words)."""
    domains = frozenset().union(*(read_list(path, "UrlConfig.domains") for path in config.url.domains))
    words = frozenset().union(*(read_list(path, "UrlConfig.words") for path in config.url.words))
    return frozenset(entry if is_address(entry) else host_of(entry) or entry for entry in domains), words


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Callable[[Record], Verdict]]:
    domains, words = read_lists(config)

    def check(record: Record) -> Verdict:
        record = record._replace(url=without_credentials(record.url.strip()))
        host = host_of(record.url)
        if not host:
            if not config.url.require_url:
                return record
            return removal(record, "url", "bad url" if record.url else "no url")
        if domain := blocked_domain(host, domains):
            return removal(record, "url", "blocked domain", detail=domain)
        if word := blocked_word(record.url, words):
            return removal(record, "url", "blocked word", detail=word)
        return record

    yield check
