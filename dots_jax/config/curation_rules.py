"""The thresholds of the rules, one class a language, and the sections of what looks at single documents."""

import dataclasses

from dots_jax.config.checks import check_types, expand_home, require, require_not_negative, require_one_of

NGrams = tuple[tuple[int, float], ...]
ENGLISH_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher's
CHINESE_STOP_WORDS = tuple("的 年 在 月 是 和 日 了 於 · 為 有 被 人 中 为 他 與 後 也 而 由".split())  # FineWeb-2's


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleThresholds:
    """What a document must satisfy. None switches a rule off. Ratios are between 0 and 1; words are counted without
    punctuation. Sources: Gopher (arXiv 2112.11446), FineWeb (arXiv 2406.17557), FineWeb-2 (configs/cmn_Hani.yml),
    ChineseWebText 2, C4 (JMLR 21/140), RefinedWeb (arXiv 2306.01116)."""

    min_words: int | None = 50  # Gopher
    max_words: int | None = 100_000  # Gopher
    min_mean_word_length: float | None = 3.0  # characters; Gopher
    max_mean_word_length: float | None = 10.0  # characters; Gopher
    max_hashes: float | None = 0.1  # `#` per word; Gopher
    max_ellipses: float | None = 0.1  # `...` and U+2026 per word; Gopher
    max_bullet_lines: float | None = 0.9  # lines that begin with a bullet or a hyphen; Gopher
    max_ellipsis_lines: float | None = 0.3  # lines that end in an ellipsis; Gopher
    min_letter_words: float | None = 0.8  # words with a letter; Gopher
    min_stop_words: int | None = 2  # different ones; Gopher
    stop_words: tuple[str, ...] = ENGLISH_STOP_WORDS
    max_duplicate_lines: float | None = 0.3  # Gopher
    max_duplicate_paragraphs: float | None = 0.3  # Gopher
    max_duplicate_line_characters: float | None = 0.2  # Gopher
    max_duplicate_paragraph_characters: float | None = 0.2  # Gopher
    top_ngrams: NGrams = ((2, 0.2), (3, 0.18), (4, 0.16))  # (n, characters of the most frequent n-gram); Gopher
    duplicate_ngrams: NGrams = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))  # Gopher
    min_punctuated_lines: float | None = 0.12  # lines that end a sentence; FineWeb
    terminal_punctuation: str = ".!?\u203c\u2047\u2048\u2049\u3002\uff01\uff1f\uff0e\uff61"  # what ends a sentence
    max_short_lines: float | None = 0.67  # FineWeb
    short_line: int = 30  # characters of a short line
    max_repeated_line_characters: float | None = 0.01  # of all but line ends; FineWeb
    max_newlines: float | None = 0.3  # line ends per word; FineWeb
    min_characters: int | None = None  # our choice, for Chinese
    min_mean_line_length: float | None = None  # characters; ChineseWebText, for Chinese
    min_punctuated_characters: float | None = (
        None  # in lines that end a sentence; our choice against Chinese link lists
    )
    min_han: float | None = None  # Han characters among all but white space; ChineseWebText, for Chinese
    clutter_lines: bool = True  # whether single lines are removed: counters, digits only, prompts; RefinedWeb
    clutter_latin: bool = True  # also lines of one word and lines mostly of capitals A to Z; RefinedWeb
    max_clutter_words: float | None = 0.05  # words in removed lines, above which the document goes; RefinedWeb
    c4: bool = False  # C4's rules: lines without an end, `{` and lorem ipsum; English prose alone survives them
    c4_min_sentences: int = 5  # lines and sentences kept by C4's rules; C4

    def __post_init__(self):
        check_types(self)
        name = type(self).__name__
        ratios = [
            f.name for f in dataclasses.fields(self) if f.name.startswith(("max_", "min_")) and "float" in str(f.type)
        ]
        for field in ratios:
            value = getattr(self, field)
            require(value is None or value >= 0, f"{name}.{field} must not be negative, but is {value}.")
        for field in ("top_ngrams", "duplicate_ngrams"):
            for n, limit in getattr(self, field):
                good = n >= 1 and 0 <= limit <= 1
                require(good, f"{name}.{field} holds ({n}, {limit}): n is at least 1, and the ratio between 0 and 1.")
        enough = self.min_stop_words is None or self.min_stop_words <= len(self.stop_words)
        require(enough, f"{name}.min_stop_words is {self.min_stop_words}, but stop_words has {len(self.stop_words)}.")
        for low, high in (("min_words", "max_words"), ("min_mean_word_length", "max_mean_word_length")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None:
                require(least <= most, f"{name}.{low} is {least}, but {high} is {most}: no document satisfies both.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnglishRules(RuleThresholds):
    """Gopher, RefinedWeb and FineWeb as published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChineseRules(RuleThresholds):
    """FineWeb-2's thresholds for Chinese in Han characters, and ChineseWebText's share of Han characters and line length.

    Words are jieba's. Traditional characters are kept. The rule for short lines is off, since they are normal in Chinese.
    Our choice: 40 words and 100 characters, about what 50 English words say; ChineseWebText's 200 characters would remove an
    eighth of real news texts.
    """

    min_words: int | None = 40
    min_mean_word_length: float | None = 1.0
    max_mean_word_length: float | None = 5.0
    min_letter_words: float | None = 0.735
    stop_words: tuple[str, ...] = CHINESE_STOP_WORDS
    max_duplicate_lines: float | None = 0.287
    max_duplicate_paragraphs: float | None = None
    max_duplicate_line_characters: float | None = None
    max_duplicate_paragraph_characters: float | None = None
    top_ngrams: NGrams = ((2, 0.256), (3, 0.201), (4, 0.171))
    duplicate_ngrams: NGrams = ((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127))
    min_punctuated_lines: float | None = 0.106
    terminal_punctuation: str = (
        ".!?\u203c\u2047\u2048\u2049\u3002\uff01\uff1f\uff0e\uff61\u2026;\uff1b\u300d\u300f\u201d\u2019'\""
    )
    max_short_lines: float | None = None
    max_repeated_line_characters: float | None = 0.1
    max_newlines: float | None = 0.178
    min_characters: int | None = 100
    min_mean_line_length: float | None = 10.0
    min_punctuated_characters: float | None = 0.3
    min_han: float | None = 0.3
    clutter_latin: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """Which thresholds a document meets, by its language."""

    english: EnglishRules = EnglishRules()
    chinese: ChineseRules = ChineseRules()
    other_languages: str = "keep"  # `keep`; `remove`, as `no thresholds`; `english`: judged by the English ones
    sites: str = ""  # a TOML file of rules for single sites; empty: none. See docs/curation.md

    def __post_init__(self):
        check_types(self)
        expand_home(self, "sites")
        require_one_of(self, "other_languages", ("keep", "remove", "english"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiiConfig:
    """Personal data: each kind becomes one constant. The report drops sites rich in it; the limit is our choice."""

    kinds: tuple[str, ...] = ("email", "phone", "identity_card", "bank_card", "ip_address")
    max_found: int = 20  # replacements in a document, above which it is removed as `personal data`
    max_per_1000: float = 10.0  # replacements per 1,000 characters, above which it is removed, from 3 replacements on

    def __post_init__(self):
        check_types(self)
        known = ("email", "phone", "identity_card", "bank_card", "ip_address")
        for kind in self.kinds:
            require(kind in known, f"PiiConfig.kinds holds {kind!r}, but the kinds are {', '.join(known)}.")
        require_not_negative(self, "max_found", "max_per_1000")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecontaminationConfig:
    """Removes documents that share a long n-gram with texts of benchmarks. The report does not say what it did."""

    texts: tuple[str, ...] = ()  # files of benchmark texts: .txt, one a line, or .jsonl, all strings of a row
    ngram: int = 13  # words, as GPT-3 used
    min_hits: int = 1  # different n-grams of one document, from which on it is removed

    def __post_init__(self):
        check_types(self)
        texts = tuple(self.texts)
        object.__setattr__(self, "texts", texts)
        require(self.ngram >= 1, f"DecontaminationConfig.ngram must be at least 1, but is {self.ngram}.")
        require(self.min_hits >= 1, f"DecontaminationConfig.min_hits must be at least 1, but is {self.min_hits}.")
