"""Files in the shape of each corpus that gin/data/open.gin names: its folders, endings, columns and nesting, with invented rows.

    write(folder)       and open.gin runs with CORPORA bound to that folder

Shapes are those that the publishers describe; where open.gin marks a name as assumed, this repeats the assumption.
"""

import gzip
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

ROWS = 24
_ZH, _EN = "天地玄黄宇宙洪荒日月盈昃辰宿列张", "the quick brown fox jumps over a lazy dog and sleeps".split()


def _text(rng: random.Random, zh: bool = False) -> str:
    return "".join(rng.choices(_ZH, k=60)) + "。" if zh else " ".join(rng.choices(_EN, k=30)) + "."


def _parquet(path: Path, rows: list[dict], group: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)


def _lines(path: Path, rows: list[dict], parts: int = 1) -> None:
    """By the ending of the name; parts: of a file that is cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix in (".gz", ".zst"):
        data = gzip.compress(data) if path.suffix == ".gz" else zstandard.compress(data)
    if parts == 1:
        path.write_bytes(data)
        return
    size = -(-len(data) // parts)
    for number in range(parts):
        path.with_name(f"{path.name}.part{number:02}").write_bytes(data[number * size : (number + 1) * size])


def _chinese(root: Path, rng: random.Random) -> None:
    for repository in ("CCI4.0-M2-Base-v1", "CCI4.0-M2-Extra-v1"):
        rows = [
            {"id": f"{repository}-{i}", "text": _text(rng, True), "score": i % 6 * 1.0, "loss": 2.5}
            for i in range(ROWS)
        ]
        _parquet(root / repository / "Web-ZH" / "high" / "part-0.parquet", rows)
    for language in ("cmn_Hani", "eng_Latn"):
        rows = [
            {"text": _text(rng, language[0] == "c"), "id": f"<urn:{i}>", "dump": "CC-MAIN-2024-10", "url": f"http://x/{i}.pdf",
             "token_count": 40, "full_doc_lid": language}
            for i in range(ROWS)
        ]  # fmt: skip
        _parquet(root / "finepdfs" / "data" / language / "train" / "000_00000.parquet", rows)
    for wiki in ("zhwiki", "enwiki"):
        rows = [
            {"text": _text(rng, wiki[0] == "z"), "id": f"{wiki}/{i}", "title": f"Title {i}", "url": "http://w", "version": i,
             "infoboxes": "[]"}
            for i in range(ROWS)
        ]  # fmt: skip
        _parquet(root / "finewiki" / "data" / wiki / "000_00000.parquet", rows)
    for name in ("zh_baike", "zh_books"):
        rows = [{"id": i, "text": _text(rng, True), "source": name} for i in range(ROWS)]
        _lines(root / "MAP-CC" / f"{name}.jsonl.gz", rows, parts=3)
    rows = [
        {"title": "词条", "summary": _text(rng, True), "tags": ["a"], "url": "http://b",
         "sections": [{"title": "历史", "content": _text(rng, True)}, {"title": "参考", "content": _text(rng, True)}]}
        for i in range(ROWS)
    ]  # fmt: skip
    _lines(root / "BaiduBaike-5.63M" / "563w_baidubaike.jsonl", rows)
    for part in ("Exam-cn", "TextBook-cn", "Law-cn"):
        rows = [{"id": i, "content": _text(rng, True), "title": part} for i in range(ROWS)]
        _lines(root / "WanJuan1.0" / "nlp" / "CN" / part / "part-000.jsonl", rows)


def _english(root: Path, rng: random.Random) -> None:
    topics = [
        f"{topic}-{vigintile}" for topic in ("art_and_design", "health") for vigintile in ("0003", "0012", "0018")
    ]
    for folder in (*topics, "adult_content-0018"):
        text = "adult" if folder.startswith("adult") else None
        rows = [
            {
                "id": str(i),
                "text": text or _text(rng),
                "metadata": {"warc_url": "http://x", "weborganizer": {"topic": folder}},
            }
            for i in range(ROWS)
        ]
        _lines(root / "dolma3_pool" / "data" / f"common_crawl-{folder}" / "shard_00000000.jsonl.zst", rows)
    names = ("peS2o", "pubmed", "doab", "pre_1929_books", "library_of_congress", "biodiversity_heritage_library")
    for name in (*names, "project_gutenberg", "wikiteam", "stackexchange", "github_archive"):
        rows = [
            {"id": str(i), "text": _text(rng), "source": name, "added": "2025-01-01", "metadata": {"license": "CC0"}}
            for i in range(ROWS)
        ]
        _lines(root / "common-pile" / name / "00000.jsonl.gz", rows)
    rows = [{"id": str(i), "text": _text(rng), "metadata": {"yymm": "2001"}} for i in range(ROWS)]
    _lines(root / "dolma" / "data" / "arxiv" / "arxiv-0000.json.gz", rows)


def _neither(root: Path, rng: random.Random) -> None:
    rows = []
    for i in range(ROWS):
        files = [
            {"content": f"x = {i}\n" + _text(rng), "file_path": f"src/{n}.py", "language": "Python",
             "license_type": ("permissive", "no_license")[n % 2]}
            for n in range(3)
        ]  # fmt: skip
        rows.append({"repo_name": f"a/{i}", "stars": i, "files": files})
    _parquet(root / "stack-v3-train" / "data" / "Python" / "0000.parquet", rows)
    for path, field in (
        ("MegaMath/megamath-web/0000/0.parquet", "text"),
        ("UltraData-Math/data/UltraData-Math-L1/0.parquet", "content"),
        ("finemath/finemath-3plus/0.parquet", "text"),
    ):
        _parquet(
            root / path, [{field: _text(rng) + " 1 + 1 = 2", "url": f"http://m/{i}", "score": 3.5} for i in range(ROWS)]
        )
    rows = []
    for i in range(ROWS):
        kind, depth = ("Q&A Forum", "Product Page")[i % 2], str(i % 6)
        taxonomy = {
            "document_type_v2": {"primary": {"code": "18", "label": kind}},
            "reasoning_depth": {"primary": {"code": depth, "label": "deep"}},
        }
        rows.append(
            {
                "id": i,
                "text": f"{kind} {depth} " + _text(rng),
                "metadata": {"url": "http://e"},
                "eai_taxonomy": taxonomy,
            }
        )
    _parquet(root / "essential-web-v1.0" / "data" / "crawl=CC-MAIN-2024-10" / "0.parquet", rows)


def write(root: Path, seed: int = 0) -> None:
    """All of it, some hundred kilobytes."""
    rng = random.Random(seed)
    for part in (_chinese, _english, _neither):
        part(root, rng)
