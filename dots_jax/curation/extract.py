"""From HTML to text: trafilatura, with resiliparse as its rescue; the rules of one page, in the process of sandbox.py.

trafilatura gets a tree that lxml parsed without its limit of size, and no `deduplicate`, which would make a page's text
depend on the pages before it, and no `favor_precision`, which costs 1.5 points of F1 on articles. Where lxml stops early
(nested deeper than 2,048), or trafilatura finds next to nothing, resiliparse's text is taken.
"""

import contextlib
from collections.abc import Callable, Iterator

from dots_jax.config import CurateConfig, ExtractConfig
from dots_jax.curation import sandbox
from dots_jax.curation.protocol import Verdict
from dots_jax.curation.record import Document, Page, Record, clean, removal

ENGINES = ("trafilatura", "resiliparse")


def extract(html: str, engine: str, config: ExtractConfig) -> tuple[str, str, str]:
    """(text, engine that made it, what was wrong on the way). Runs inside the sandbox; engine: the one to begin with."""
    if engine == "resiliparse":
        return by_resiliparse(html, config), engine, ""
    text, wrong = by_trafilatura(html, config)
    if wrong or len(text) < config.rescue_below:
        other = by_resiliparse(html, config)
        if len(text) < config.rescue_ratio * len(other) or (wrong and len(text) < len(other)):
            return other, "resiliparse", wrong or "trafilatura found next to nothing"
    return text, "trafilatura", wrong


def by_trafilatura(html: str, config: ExtractConfig) -> tuple[str, str]:
    """(text, why the tree is not complete). lxml drops in silence what is nested too deep; its log says so."""
    import lxml.etree
    import lxml.html
    import trafilatura

    parser = lxml.html.HTMLParser(huge_tree=True, encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        tree = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
        fatal = [entry.message for entry in parser.error_log if entry.level_name == "FATAL"]
        text = trafilatura.extract(
            tree, fast=True, include_comments=config.comments, include_tables=config.tables, deduplicate=False
        )
    except (lxml.etree.LxmlError, ValueError, TypeError, AttributeError, IndexError, KeyError, RecursionError) as error:
        if "memory" in str(error).lower():
            raise MemoryError from None  # a new process for the rescue
        return "", f"{type(error).__name__}: {error}"
    return text or "", fatal[0] if fatal else ""


def by_resiliparse(html: str, config: ExtractConfig) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(
        html,
        main_content=True,
        alt_texts=False,
        links=False,
        form_fields=False,
        noscript=False,
        comments=config.comments,
    )
    return "\n".join(line for line in map(str.strip, text.split("\n")) if line)


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Callable[[Record], Verdict]]:
    box = sandbox.of_this_thread(config.extract)

    def step(record: Record) -> Verdict:
        return extracted(record, box, config.extract) if isinstance(record, Page) else record

    yield step


def extracted(page: Page, box: sandbox.Sandbox, config: ExtractConfig) -> Verdict:
    """Tries the engines in turn, each with all of its time and memory; the first failure is the reason in the ledger."""
    html, failures = page.html or "", []
    for engine in ENGINES[ENGINES.index(config.engine) :]:
        answer = box.run(html, engine)
        if isinstance(answer, sandbox.Text):
            if len(answer.text.strip()) < config.min_length:
                if failures:
                    break
                return removal(page, "extraction", "empty", detail=answer.wrong)
            text = clean(answer.text)
            return Document(page.id, page.url, text, page.date, encoding=page.encoding, extractor=answer.engine)
        failures.append(answer)
    return removal(page, "extraction", failures[0].reason, detail="; ".join(failure.detail for failure in failures))
