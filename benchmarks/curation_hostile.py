"""100 hostile pages among 1,000 good ones: is every good page the same as in a run without them, and has each a reason?

    python -m benchmarks.curation_hostile [--good=1000] [--copies=4] [--seconds=2] [--json=FILE]

25 kinds of hostile records (bombs, damaged members, deep nesting, pages that hang the extractor, bytes of other formats)
stand between the good ones, in one WARC file of one gzip member a record. Steps: decoding, extraction. Seconds are of processor
time, so that other work on the machine counts little.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

WORDS = (
    "river town bridge market winter harvest road school garden letter village window morning teacher forest".split()
)


def good_page(number: int) -> bytes:
    sentence = lambda i: (
        f"The {WORDS[(number + i) % 15]} near the {WORDS[(number * 3 + i) % 15]} was quiet in {1500 + number}, "
        f"and the people of the {WORDS[(number * 7 + i) % 15]} number {i} walked there."
    )
    paragraphs = "".join(f"<p>{' '.join(sentence(i * 5 + j) for j in range(5))}</p>" for i in range(6))
    return f"<html><body><ul><li>Home<li>News</ul><article><h1>Page {number}</h1>{paragraphs}</article></body></html>".encode()


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: text/html", *headers]).encode() + b"\r\n\r\n" + body


def record(id: str, block: bytes, url: bytes = b"http://a.example/", length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <%s>\r\nWARC-Target-URI: %s\r\nContent-Length: %d\r\n\r\n"
    )
    return head % (id.encode(), url, size) + block + b"\r\n\r\n"


def page(inner: str) -> bytes:
    text = "".join(f"<p>Paragraph {n} of a page whose text has to survive what stands around it.</p>" for n in range(9))
    return f"<html><body>{inner.replace('TEXT', text)}</body></html>".encode()


def hostile(id: str) -> dict[str, bytes]:
    """Kind -> its bytes in the file."""
    import brotli

    zeros = b"0" * (64 << 20)
    plain = {
        "gzip bomb": http(gzip.compress(zeros, 6), "Content-Encoding: gzip"),
        "brotli bomb": http(brotli.compress(zeros, quality=1), "Content-Encoding: br"),
        "40 MB body": http(b"<p>" + b"word " * 8_000_000),
        "pdf": http(b"%PDF-1.7\n" + bytes(range(256)) * 40), "png": http(b"\x89PNG\r\n\x1a\n" + bytes(5000)),
        "json": http(b'{"a": [1, 2, 3]}'), "no tags": http(b"just words"), "empty": http(b""), "no text": http(page("<b></b>")),
        "304": http(b"", status="304 Not Modified"), "404": http(b"<p>not here</p>", status="404 Not Found"),
        "undecodable": http(b"\xef\xbb\xbf<p>" + bytes(range(128, 256)) * 60),
        "wrong chunks": http(page("TEXT"), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
        "100,000 levels": http(page("<div>" * 100_000 + "TEXT")), "3,000 levels": http(page("<div>" * 3000 + "TEXT")),
        "100,000 rows": http(page("<table>" + "<tr><td>cell</td><td>cell</td></tr>" * 100_000 + "</table>TEXT")),
        "200,000 paragraphs": http(page("<p>some words here</p>" * 200_000)),
        "200,000 links": http(page("<a href=/x>a link</a> " * 200_000)),
        "script of 25 MB": http(page(f"<script>{'x=1;' * 6_250_000}</script>TEXT")),
        "unclosed": http(page("<p><font><i>Some words here." * 5000)),
        "entity bomb": http(b'<!DOCTYPE html [<!ENTITY a "aaaa">]>' + page("&a;" * 50_000 + "TEXT")),
        "zeros": http(page("TEXT").replace(b"Paragraph", b"Para\0graph")),
    }  # fmt: skip
    found = {kind: gzip.compress(record(id, block), 1) for kind, block in plain.items()}
    found["wrong length"] = gzip.compress(record(id, http(page("TEXT")), length=17))
    found["bad address"] = gzip.compress(record(id, http(page("TEXT")), url=b"http://\xff\xfe/ a b"))
    damaged = bytearray(gzip.compress(record(id, http(page("TEXT")))))
    damaged[len(damaged) // 2 :] = b"\xff" * (len(damaged) - len(damaged) // 2)
    found["damaged member"] = bytes(damaged)
    return found


def curate(path: Path, output: Path, seconds: int) -> tuple[dict[str, str], list[dict], float]:
    """({id: its line}, rows of the ledger, processor seconds of all processes)."""
    words = [f"--input={path}", f"--output={output}", "--only=extraction"]
    words = [sys.executable, "-m", "dots_jax.curate", *words, f"--gin_bindings=ExtractConfig.seconds = {seconds}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = output.read_text(encoding="utf-8").splitlines()
    removed = output.with_name(f"{output.stem}.removed.jsonl").read_text(encoding="utf-8").splitlines()
    return (
        {json.loads(line)["id"]: line for line in lines},
        [json.loads(line) for line in removed],
        used,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=4, help="of each of the 25 kinds")
    parser.add_argument("--seconds", type=int, default=2, help="ExtractConfig.seconds")
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    goods = [gzip.compress(record(f"good:{n}", http(good_page(n)))) for n in range(arguments.good)]
    kinds = sorted(hostile("x"))
    with tempfile.TemporaryDirectory() as scratch:
        clean, mixed = Path(scratch) / "clean.warc.gz", Path(scratch) / "mixed.warc.gz"
        clean.write_bytes(b"".join(goods))
        every = max(len(goods) // (len(kinds) * arguments.copies), 1)
        with open(mixed, "wb") as file:
            place = 0
            for copy in range(arguments.copies):
                for _, data in sorted(hostile(f"bad:{copy}").items()):
                    file.write(b"".join(goods[place : place + every]) + data)
                    place += every
            file.write(b"".join(goods[place:]))
        expected, _, clean_seconds = curate(clean, Path(scratch) / "clean.jsonl", arguments.seconds)
        found, removed, seconds = curate(mixed, Path(scratch) / "mixed.jsonl", arguments.seconds)
    same = sum(found.get(id) == line for id, line in expected.items())
    bad_kept = sum(not id.startswith("<good:") for id in found)
    reasons = Counter(f"{row['kind']}: {row['reason']}" for row in removed)
    answered = bad_kept + sum(row["kind"] == "page" for row in removed) + reasons["file: damaged gzip"]
    figures = {
        "good_pages": len(goods), "good_pages_identical": same, "hostile": len(kinds) * arguments.copies,
        "hostile_kept_as_text": bad_kept, "hostile_with_text_or_reason": answered, "reasons": dict(sorted(reasons.items())),
        "cpu_seconds_without_hostile": round(clean_seconds, 1), "cpu_seconds": round(seconds, 1),
        "bound_cpu_seconds": round(clean_seconds + len(kinds) * arguments.copies * 2 * arguments.seconds, 1),
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name:<30}{value}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
