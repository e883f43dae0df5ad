"""The sections of the steps that compare documents: lines and near-duplicates."""

import dataclasses

from dots_jax.config.checks import check_types, require, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Line-wise deduplication across documents; the values are the report's."""

    head: int = 5  # first lines of a document that are counted; lines without a letter or number do not count as lines
    tail: int = 5  # last lines
    keep: int = 200  # occurrences of a line that stay, over the complete corpus and all crawls before

    def __post_init__(self):
        check_types(self)
        require_positive(self, "keep")
        require(
            self.head >= 0 and self.tail >= 0 and self.head + self.tail > 0,
            f"LineConfig.head and tail must not be negative and not both 0, but are {self.head} and {self.tail}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    """Near-duplicates by MinHash and locality-sensitive hashing. 2048 values as 128 bands of 16 rows are the report's:
    texts at a Jaccard similarity of 0.80 meet with a probability of 97.42 %."""

    ngram: int = 5  # words in a shingle; the report's
    bands: int = 128
    rows: int = 16  # values in a band
    seed: int = 1  # of the hash functions; another seed makes the state of earlier crawls useless
    min_jaccard: float = (
        0.0  # similarity estimated from the bands that meet, below which a document stays; 0: the report's
    )

    def __post_init__(self):
        check_types(self)
        require_positive(self, "ngram", "bands", "rows")
        require(self.seed >= 0, f"MinHashConfig.seed must not be negative, but is {self.seed}.")
        require(0 <= self.min_jaccard <= 1, f"MinHashConfig.min_jaccard must be in [0, 1], but is {self.min_jaccard}.")
        require(self.bands <= 65536, f"MinHashConfig.bands must be at most 65536, but is {self.bands}.")
