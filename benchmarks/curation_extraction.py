"""Text F1 of `dots curate --only=extraction` on pages with gold text.

    python -m benchmarks.curation_extraction [--data=../shared/data/web] [--sets=zyte,zh_articles] [--json=FILE]

Each set is a folder of NAME.html.gz (or .html) and one gold file (*.json.gz or *.json): {NAME: {"articleBody" or "content"
or "text": ...}}. Scored as the benchmark of scrapinghub/article-extraction-benchmark does: 4-word shingles as multisets, each
page's shares of true and false ones, summed. A Han character is a word, so that Chinese is scored by characters.
"""

import argparse
import contextlib
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|\w+")
SHINGLE = 4
GOLD_FIELDS = ("articleBody", "content", "text")


def shingles(text: str) -> Counter:
    words = WORD.findall(text)
    if 0 < len(words) < SHINGLE:
        return Counter([tuple(words)])
    return Counter(tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))


def shares(gold: str, found: str) -> tuple[float, float, float]:
    """(true, false, missed) shingles of a page as shares of all three; zeros if neither text has one."""
    a, b = shingles(gold), shingles(found)
    counts = (a & b).total(), (b - a).total(), (a - b).total()
    return tuple(count / max(sum(counts), 1) for count in counts)


def score(pages: list[tuple[str, str]]) -> dict[str, float]:
    """pages: (gold, found)."""
    each = [shares(gold, found) for gold, found in pages]
    true, false, missed = (sum(column) for column in zip(*each))
    precision, recall = true / max(true + false, 1e-9), true / max(true + missed, 1e-9)
    half = sum(t / (t + m) > 0.5 for t, _, m in each if t + m) / len(each)
    return {
        "pages": len(pages),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * precision * recall / max(precision + recall, 1e-9), 4),
        "pages_with_recall_above_half": round(half, 4),
        "pages_without_text": sum(not found for _, found in pages),
    }


def read_gold(folder: Path) -> dict[str, str]:
    (path,) = [*folder.glob("*.json.gz"), *folder.glob("*.json")]
    data = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")
    with data as file:
        rows = json.load(file)
    return {name: next(row[field] for field in GOLD_FIELDS if row.get(field)) for name, row in rows.items()}


def extract_folder(folder: Path, gin_bindings: tuple[str, ...] = ()) -> dict[str, str]:
    """{name: text}, by the command itself."""
    from dots_jax.cli.main import main

    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "documents.jsonl"
        words = ["curate", f"--input={folder}", f"--output={output}", "--only=extraction"]
        words += [f"--gin_bindings={line}" for line in gin_bindings]
        with contextlib.redirect_stdout(io.StringIO()):
            status = main(words)
        assert status == 0
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return {re.sub(r"\.html?(\.gz)?$", "", row["id"]): row["text"] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "web")
    parser.add_argument("--sets", default="zyte,zh_articles")
    parser.add_argument("--gin_bindings", action="append", default=[], help="settings, as of the command")
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.sets.split(","):
        gold = read_gold(arguments.data / name)
        found = extract_folder(arguments.data / name, tuple(arguments.gin_bindings))
        figures[name] = score([(text, found.get(page, "")) for page, text in gold.items()])
        print(f"{name:<14}" + "  ".join(f"{key} {value}" for key, value in figures[name].items()))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
