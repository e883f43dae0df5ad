"""Rules of single sites, from a TOML file: the report tunes the 1,000 largest sites by hand, 60 % of its data.

[[site]]
domain = "example.org"                 # and its subdomains; the longest domain that fits decides
drop = false                           # true: every document of the site goes
min_characters = 300                   # of the text after the lines below are gone
drop_lines = ["Share this article"]    # lines that are exactly this, but for white space at their ends
drop_matching = ['Tags: .*']           # lines that match completely
cut_from = ['Related articles']        # a line that matches completely, and everything after it
"""

import re
import tomllib
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.curation.rules.clutter import Line
from dots_jax.curation.url import host_of, is_address
from dots_jax.storage import open_file


class Site(NamedTuple):
    domain: str
    drop: bool = False
    min_characters: int = 0
    drop_lines: frozenset[str] = frozenset()
    drop_matching: tuple[re.Pattern[str], ...] = ()
    cut_from: tuple[re.Pattern[str], ...] = ()


_KINDS = {
    "domain": str,
    "drop": bool,
    "min_characters": int,
    "drop_lines": list,
    "drop_matching": list,
    "cut_from": list,
}


def read_sites(path: str) -> dict[str, Site]:
    """By domain; empty for no path.

    Raises UserError for a file that is missing, no TOML, or holds a rule that is not known.
    """
    if not path:
        return {}
    with open_file(path) as file:
        try:
            table = tomllib.loads(file.read().decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"RulesConfig.sites: {path} is no TOML ({error}).") from None
    unknown = sorted(set(table) - {"site"})
    rows = table.get("site")
    if unknown or not isinstance(rows, list) or not rows:
        held = f"holds {', '.join(unknown)}" if unknown else "holds no [[site]]"
        raise UserError(f"RulesConfig.sites: {path} {held}; write each site as a [[site]] with its domain.")
    sites: dict[str, Site] = {}
    for number, row in enumerate(rows, 1):
        site = _site(f"RulesConfig.sites: {path}, site {number}", row)
        if site.domain in sites:
            raise UserError(f"RulesConfig.sites: {path} names {site.domain} twice; join the two entries.")
        sites[site.domain] = site
    return sites


def _site(where: str, row: dict) -> Site:
    for name, value in row.items():
        kind = _KINDS.get(name)
        if kind is None:
            raise UserError(f"{where} holds {name!r}, but the rules are {', '.join(_KINDS)}.")
        good = type(value) is kind and (kind is not list or all(isinstance(entry, str) for entry in value))
        if not good:
            wanted = "a list of strings" if kind is list else kind.__name__
            raise UserError(f"{where}: {name} must be {wanted}, but is {value!r}.")
    domain = host_of(row.get("domain", ""))
    if not domain:
        raise UserError(f'{where} has no domain; write domain = "example.org".')
    try:
        matching, cut = (
            tuple(re.compile(entry) for entry in row.get(name, ())) for name in ("drop_matching", "cut_from")
        )
    except re.error as error:
        raise UserError(f"{where}: {error.pattern!r} is no regular expression ({error}).") from None
    exact = frozenset(line.strip() for line in row.get("drop_lines", ()))
    return Site(domain, row.get("drop", False), row.get("min_characters", 0), exact, matching, cut)


def site_of(url: str, sites: dict[str, Site]) -> Site | None:
    """The entry of the longest domain that fits."""
    host = host_of(url) if sites else ""
    if not host or is_address(host):
        return sites.get(host)
    parts = host.split(".")
    names = (".".join(parts[start:]) for start in range(len(parts)))
    return next((sites[name] for name in names if name in sites), None)


def find(text: str, site: Site) -> list[Line]:
    """The lines that this site's rules remove."""
    found, cut = [], False
    for number, line in enumerate(text.split("\n")):
        bare = line.strip()
        cut = cut or any(pattern.fullmatch(bare) for pattern in site.cut_from)
        if cut:
            found.append(Line(number, line, "site cut"))
        elif bare in site.drop_lines or any(pattern.fullmatch(bare) for pattern in site.drop_matching):
            found.append(Line(number, line, "site line"))
    return found
