"""The step `rules`: rules of the site, lines of clutter, then the numbers of what remains against the language's thresholds.

A document that stays may lose lines, each with a row of the ledger. One that goes has one row, with its text as it came.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dots_jax.config import CurateConfig, RulesConfig, RuleThresholds
from dots_jax.curation.lines import line_row
from dots_jax.curation.protocol import Apply, Outcome
from dots_jax.curation.record import Document, Record, removal
from dots_jax.curation.rules import c4, clutter, sites
from dots_jax.curation.rules.judge import Finding, judge
from dots_jax.curation.rules.measure import measure

STEP = "rules"
CHINESE = ("zh", "yue", "wuu")  # fastText's codes


class Ruling(NamedTuple):
    """Everything the rules say about one text. findings: every rule with its number; the first that fails is the reason."""

    text: str  # without the lines that go
    lines: list[clutter.Line]
    findings: list[Finding]
    numbers: dict[str, float]

    @property
    def failure(self) -> Finding | None:
        return next((finding for finding in self.findings if not finding.passed), None)


def thresholds(language: str, config: RulesConfig) -> RuleThresholds | None:
    """Those of a language as fastText writes it; None if it has none."""
    if language in CHINESE:
        return config.chinese
    return config.english if language == "en" or config.other_languages == "english" else None


def rule(text: str, limits: RuleThresholds, site: sites.Site | None = None) -> Ruling:
    """All rules on one text, whether or not an earlier one fails."""
    findings, lines = [], []
    if site:
        findings.append(Finding("site drop", float(site.drop), "at most 0", not site.drop))
        lines = sites.find(text, site)
        if site.min_characters:
            size = len(clutter.without(text, lines))
            least = site.min_characters
            findings.append(Finding("site characters", size, f"at least {least}", size >= least))
    if limits.c4:
        reason = c4.page_reason(text)
        findings.append(Finding(reason or "c4 page", float(bool(reason)), "at most 0", not reason))
        lines = _join(lines, c4.find(text))
    cluttered = clutter.find(text, limits.clutter_latin) if limits.clutter_lines else []
    lines = _join(lines, cluttered)
    rest = clutter.without(text, lines)
    numbers = measure(rest, limits)
    if cluttered and limits.max_clutter_words is not None:
        gone = clutter.count_words(cluttered)
        share = gone / ((gone + numbers["words"]) or 1)
        most = limits.max_clutter_words
        findings.append(Finding("refinedweb clutter words", share, f"at most {most:g}", share <= most))
    if limits.c4:
        found, least = c4.sentences(rest), limits.c4_min_sentences
        findings.append(Finding("c4 sentences", found, f"at least {least}", found >= least))
    return Ruling(rest, lines, findings + judge(numbers, limits), numbers)


def _join(lines: list[clutter.Line], more: list[clutter.Line]) -> list[clutter.Line]:
    """Each line once, with the reason that came first."""
    if not (lines and more):
        return lines or more
    known = {line.number for line in lines}
    return sorted([*lines, *(line for line in more if line.number not in known)])


def apply(document: Document, config: RulesConfig, known: dict[str, sites.Site]) -> Outcome:
    """One document: as it is, without lines, or gone."""
    site = sites.site_of(document.url, known)
    if site and site.drop:
        return Outcome([], [removal(document, STEP, "site drop", detail=site.domain)])
    limits = thresholds(document.language, config)
    if limits is None:
        if config.other_languages == "remove":
            return Outcome([], [removal(document, STEP, "no thresholds", detail=document.language)])
        limits = _NONE
    ruling = rule(document.text, limits, site)
    failure = ruling.failure
    if failure:
        return Outcome(
            [], [removal(document, STEP, failure.reason, score=_rounded(failure.score), detail=failure.limit)]
        )
    if not ruling.lines:
        return Outcome([document], [])
    if not ruling.text.strip():
        return Outcome([], [removal(document, STEP, "empty")])
    return Outcome(
        [document._replace(text=ruling.text)],
        [line_row(document, line.number, line.text, STEP, line.reason) for line in ruling.lines],
    )


def _rounded(score: float) -> float:
    return round(float(score), 4)


# A language without thresholds meets the rules of its site alone.
_NONE = RuleThresholds(
    min_words=None, max_words=None, min_mean_word_length=None, max_mean_word_length=None, max_hashes=None,
    max_ellipses=None, max_bullet_lines=None, max_ellipsis_lines=None, min_letter_words=None, min_stop_words=None,
    max_duplicate_lines=None, max_duplicate_paragraphs=None, max_duplicate_line_characters=None,
    max_duplicate_paragraph_characters=None, top_ngrams=(), duplicate_ngrams=(), min_punctuated_lines=None,
    max_short_lines=None, max_repeated_line_characters=None, max_newlines=None, clutter_lines=False,
)  # fmt: skip


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Apply]:
    known = sites.read_sites(config.rules.sites)

    def step(records: Sequence[Record]) -> Outcome:
        outcome = Outcome([], [])
        for record in records:
            kept, removed = apply(record, config.rules, known) if isinstance(record, Document) else ([record], [])
            outcome.kept.extend(kept)
            outcome.removed.extend(removed)
        return outcome

    yield step
