"""Numbers against thresholds: each rule that fails, with its reason, its number and the limit."""

from typing import NamedTuple

from dots_jax.config import RuleThresholds


class Rule(NamedTuple):
    """number: of measure.py. least, most: fields of RuleThresholds, or empty."""

    source: str
    number: str
    least: str = ""
    most: str = ""


RULES = (
    Rule("gopher", "words", "min_words", "max_words"),
    Rule("chinese", "characters", "min_characters"),
    Rule("chinese", "Han characters", "min_han"),
    Rule("chinese", "mean line length", "min_mean_line_length"),
    Rule("gopher", "mean word length", "min_mean_word_length", "max_mean_word_length"),
    Rule("gopher", "hashes", "", "max_hashes"),
    Rule("gopher", "ellipses", "", "max_ellipses"),
    Rule("gopher", "bullet lines", "", "max_bullet_lines"),
    Rule("gopher", "ellipsis lines", "", "max_ellipsis_lines"),
    Rule("gopher", "words with a letter", "min_letter_words"),
    Rule("gopher", "stop words", "min_stop_words"),
    Rule("gopher", "duplicate paragraphs", "", "max_duplicate_paragraphs"),
    Rule("gopher", "duplicate paragraph characters", "", "max_duplicate_paragraph_characters"),
    Rule("gopher", "duplicate lines", "", "max_duplicate_lines"),
    Rule("gopher", "duplicate line characters", "", "max_duplicate_line_characters"),
    Rule("fineweb", "lines with punctuation", "min_punctuated_lines"),
    Rule("chinese", "characters with punctuation", "min_punctuated_characters"),
    Rule("fineweb", "short lines", "", "max_short_lines"),
    Rule("fineweb", "repeated line characters", "", "max_repeated_line_characters"),
    Rule("fineweb", "newlines", "", "max_newlines"),
)


class Finding(NamedTuple):
    """One rule on one document."""

    reason: str  # `gopher words`
    score: float
    limit: str  # `at least 50`
    passed: bool


def judge(numbers: dict[str, float], limits: RuleThresholds) -> list[Finding]:
    """Every rule that is switched on and has its number, in order; the first that fails is the reason of a removal."""
    found = []
    for rule in RULES:
        if rule.number not in numbers:
            continue
        score = numbers[rule.number]
        least = getattr(limits, rule.least) if rule.least else None
        most = getattr(limits, rule.most) if rule.most else None
        name = f"{rule.source} {rule.number}"
        if least is not None and score < least:
            found.append(Finding(name, score, f"at least {least:g}", False))
        elif most is not None:
            found.append(Finding(name, score, f"at most {most:g}", score <= most))
        elif least is not None:
            found.append(Finding(name, score, f"at least {least:g}", True))
    for kind, pairs in (("top", limits.top_ngrams), ("duplicate", limits.duplicate_ngrams)):
        for n, most in pairs:
            score = numbers.get(f"{kind} {n}-gram", 0.0)
            found.append(Finding(f"gopher {kind} {n}-gram", score, f"at most {most:g}", score <= most))
    return found


def first_failure(numbers: dict[str, float], limits: RuleThresholds) -> Finding | None:
    return next((finding for finding in judge(numbers, limits) if not finding.passed), None)
