"""Real texts for the curation benchmarks, from a folder that is not part of this repository (--data).

It holds `zyte/` (181 pages, English and a few other languages) and `zh_articles/` (57 Chinese ones), each with gold texts,
and the pages as `.html.gz`.
"""

import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DATA = os.environ.get("DOTS_WEB_DATA", "../shared/data/web")
NAVIGATION = ("nav", "header", "footer", "aside", "menu")


class Gold(NamedTuple):
    id: str
    text: str
    language: str  # as lid.176 says; `??` below 0.65


def gold_texts(folder: str) -> dict[str, list[Gold]]:
    """{"zyte": ..., "zh_articles": ...}"""
    from dots_jax.curation.language import identify

    found = {}
    for name, file, field in (
        ("zyte", "ground-truth.json.gz", "articleBody"),
        ("zh_articles", "gold.json.gz", "content"),
    ):
        path = Path(folder) / name / file
        if not path.exists():
            sys.exit(f"{path} is missing: name the folder of pages and gold texts with --data or DOTS_WEB_DATA.")
        with gzip.open(path) as opened:
            rows = json.load(opened)
        texts = [(key, row[field]) for key, row in sorted(rows.items())]
        found[name] = [Gold(key, text, _sure(identify(text))) for key, text in texts]
    return found


def _sure(answer: tuple[str, float]) -> str:
    return answer[0] if answer[1] >= 0.65 else "??"


def page(folder: str, name: str, id: str):
    """The page as an lxml tree, decoded."""
    import lxml.html

    from dots_jax.curation.decode import decode

    with gzip.open(Path(folder) / name / f"{id}.html.gz") as file:
        return lxml.html.fromstring(decode(file.read(), "")[0])


def bad_texts(folder: str, gold: dict[str, list[Gold]], seed: int = 0) -> dict[str, list[Gold]]:
    """Texts that no corpus wants, made of real pages: link lists (every link's text), navigation (text of nav, header,
    footer, aside), word salad (words of the gold texts, drawn evenly, in lines without and with points)."""
    from dots_jax.curation.words import words

    found = {"link lists": [], "navigation": [], "word salad": [], "word salad with points": []}
    for name, texts in gold.items():
        language = {"zyte": "en", "zh_articles": "zh"}[name]
        chosen = [text for text in texts if text.language == language]
        for text in chosen:
            tree = page(folder, name, text.id)
            links = [" ".join(link.text_content().split()) for link in tree.iter("a")]
            _add(found["link lists"], text.id, "\n".join(filter(None, links)), language)
            parts = [part for tag in NAVIGATION for part in tree.iter(tag)]
            lines = [" ".join(piece.split()) for part in parts for piece in part.itertext() if _shown(part)]
            _add(found["navigation"], text.id, "\n".join(filter(None, lines)), language)
        if not chosen:
            continue
        vocabulary = sorted({word for text in chosen for word in words(text.text)})
        draw, space = random.Random(seed), " " if language == "en" else ""
        for number in range(100):
            lines = [space.join(draw.choices(vocabulary, k=draw.randint(8, 30))) for _ in range(draw.randint(10, 30))]
            end = "." if language == "en" else "\u3002"
            _add(found["word salad"], str(number), "\n".join(lines), language)
            _add(found["word salad with points"], str(number), "\n".join(line + end for line in lines), language)
    return found


def _shown(part) -> bool:
    return part.tag not in ("script", "style")


def _add(found: list[Gold], id: str, text: str, language: str) -> None:
    if text.count("\n") >= 5:
        found.append(Gold(id, text, language))


def ask_peer(python: str, kind: str, texts: Sequence[Gold]) -> list[dict]:
    """What datatrove says of each text."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "texts.jsonl", Path(folder) / "out.json"
        rows = (json.dumps({"text": text.text, "language": text.language}) for text in texts)
        source.write_text("".join(f"{row}\n" for row in rows))
        script = Path(__file__).with_name("curation_peer.py")
        subprocess.run([python, str(script), kind, str(source), str(target)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(target.read_text())


def ratio_of(runs: Sequence[dict]) -> float:
    """Of the least time of datatrove to our least."""
    return min(run["datatrove_ms"] for run in runs) / min(run["ours_ms"] for run in runs)
