"""The sections of the steps that are models of the user's own labels: `dots classifier` writes the folders that they name.

A step whose `model` is empty does not run, and the run says so. The report uses models of 1.5 B parameters and publishes neither
them nor their thresholds: all values here are our choice.
"""

import dataclasses

from dots_jax.config.checks import check_types, expand_home, require, require_not_negative, require_positive


class _OfAModel:
    """What these sections have in common."""

    def check(self) -> None:
        check_types(self)
        expand_home(self, "model")
        score = getattr(self, "min_score", 0.5)
        require(0 <= score <= 1, f"{type(self).__name__}.min_score must be in [0, 1], but is {score}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebTypeConfig(_OfAModel):
    """The type of a page: articles stay, and pages of lists, shops or navigation go."""

    model: str = ""  # a folder of `dots classifier --kind=document`; empty: the step does not run
    keep: tuple[str, ...] = ()  # labels of the types that stay; empty: all, and documents only get their score

    def __post_init__(self):
        self.check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClutterConfig(_OfAModel):
    """Lines that do not belong to a page's text, each judged with its neighbours."""

    model: str = ""  # a folder of `dots classifier --kind=line`; empty: the step does not run
    label: str = "clutter"  # of the lines that go
    min_score: float = 0.5  # probability of that label from which on a line goes

    def __post_init__(self):
        self.check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassesConfig(_OfAModel):
    """How much of the corpus one class may be: the report balances 200 classes."""

    model: str = ""  # a folder of `dots classifier --kind=document`; empty: the step does not run
    max_share: float = 0.05  # of the documents that stay, for each class that `shares` does not name
    shares: tuple[tuple[str, float], ...] = ()  # (label, most), as (('novel', 0.02), ('science', 0.3))

    def __post_init__(self):
        self.check()
        for name, share in (("max_share", self.max_share), *self.shares):
            require(
                0 < share <= 1, f"ClassesConfig: the share of {name} must be above 0 and at most 1, but is {share}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticConfig(_OfAModel):
    """Semantic duplicates: embeddings by BGE-M3, k-means, and cosines within clusters. The threshold and the model are the
    report's."""

    model: str = ""  # the folder of BGE-M3, or of another XLM-RoBERTa, as it is published; empty: the step does not run
    min_cosine: float = 0.95  # from which on the later document of two goes; the report's
    length: int = 512  # tokens of a document that are embedded
    clusters: int = 0  # of k-means; 0: the square root of the number of documents
    probes: int = 3  # clusters in which a document is compared, the nearest ones: more find more pairs at borders

    def __post_init__(self):
        self.check()
        require_positive(self, "length", "probes")
        require_not_negative(self, "clusters")
        require(0 < self.min_cosine <= 1, f"SemanticConfig.min_cosine must be in (0, 1], but is {self.min_cosine}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig(_OfAModel):
    """The quality of a document."""

    model: str = ""  # a folder of `dots classifier --kind=document`; empty: the step does not run
    label: str = ""  # whose probability is the score; empty: the last one, as report.json's `score_of`
    min_score: float = 0.5  # below which a document goes; report.json has the scores for shares that stay

    def __post_init__(self):
        self.check()
