"""report.html: what it shows is counted from the corpus and the ledger of the run, escaped, and needs nothing else."""

import html.parser
import json
from collections import Counter

import pytest
from web_pages import http, page, record, response, rows, write_warc

from dots_jax.cli.main import main
from dots_jax.curation.charts import bins, histogram, number, text
from dots_jax.curation.survey import Frequent, bin_of, edge_of, survey

CHINESE = "图书馆在城市的中心，是一座有一百年历史的建筑。每天早上，人们在门口等待开门，他们带着书和笔记本。"
EVIL = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>"


def curate(*words: str) -> int:
    return main(["curate", "--gin_file=gin/curate.gin", *map(str, words)])


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """20 articles with a shared first line, a copy, a near-duplicate, an address, a hostile text, Chinese, and no text."""
    folder = tmp_path_factory.mktemp("report")
    shared = "<p>Welcome to the reading room, which is open on every day of the year.</p>"
    records = [response(n, page(n).replace("<article>", f"<article>{shared}")) for n in range(20)]
    records += [record("copy", http(page(3).replace("<article>", f"<article>{shared}").encode()))]
    records += [record("near", http(page(5).replace("</article>", "<p>It was copied here.</p></article>").encode()))]
    mail = page(41).replace("</article>", "<p>Write to a reader at reader@library.example.org for more.</p></article>")
    records += [record("mail", http(mail.encode()))]
    evil = page(40, paragraphs=1).replace("<p>", f"<p>{text(EVIL)} ", 1)
    records += [record("evil", http(evil.encode()), url="http://evil.example/<b>?q='\"><script>")]
    records += [record("zh", http(f"<html><body><article><p>{CHINESE * 3}</p></article></body></html>".encode()))]
    records += [record("none", http(b"<html><body></body></html>"))]
    write_warc(folder / "a.warc.gz", records)
    settings = ["LineConfig.keep = 5", "EnglishRules.min_words = 100"]
    settings += [f"{name}Rules.{kind}_ngrams = ()" for name in ("English", "Chinese") for kind in ("top", "duplicate")]
    bindings = [f"--gin_bindings={one}" for one in settings]
    assert curate(f"--input={folder / 'a.warc.gz'}", f"--output={folder / 'out'}", "--crawl=<c>", *bindings) == 0
    return folder / "out"


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open, self.said = Counter(), [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in ("meta", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def read(output) -> Tags:
    parser = Tags()
    parser.feed((output / "report.html").read_text())
    return parser


def test_it_needs_nothing_else_and_runs_nothing(output):
    found = read(output)
    assert found.open == []  # every element is closed
    assert not {"script", "img", "link", "iframe", "a", "object"} & set(found.tags)
    assert found.tags["b"] == 5  # the tiles; none is of a page
    names = {name for name, _ in found.attributes}
    assert not {name for name in names if name.startswith("on")} and not names & {"src", "href"}
    said = "".join(found.said)
    assert "http://evil.example/<b>" in said and "Corpus <c>" in said


def test_it_shows_the_numbers_of_the_run(output):
    report, said = json.loads((output / "report.json").read_text()), " ".join(read(output).said)
    books = report["books"]
    assert f"{books['records_read']} records read" in said and f"{books['documents_written']} documents kept" in said
    assert books["ledger_rows_of_parts"] == 1  # an address that became a constant: a row that takes no record with it
    for title in ("Funnel of each language", "Lengths", "Scores and thresholds", "Near-duplicates", "Sites"):
        assert title in said
    assert "gopher words: at least 100" in said and "min_score 0.65" in said and "Welcome to the reading room" in said
    for row in report["funnel"]:
        for reason in row["reasons"]:
            assert reason in said


def test_the_survey_counts_what_is_written(output):
    found = survey(str(output), 0)
    documents, removed = rows(output, "documents"), rows(output, "removed")
    assert {language: counts.total() for language, counts in found.after.items()} == Counter(
        row["language"] for row in documents
    )
    went = [row for row in removed if row["kind"] == "document"]
    assert sum(counts.total() for counts in found.before.values()) == len(documents) + len(went)
    assert {row.get("language") for row in went if row["step"] == "identity"} == {"en"}
    assert found.lines.top(1)[0][1] == sum(row["reason"] == "frequent line" for row in removed) > 0
    # A text that lost a line was longer before.
    lost = next(row for row in removed if row["reason"] == "frequent line")
    (kept,) = [row for row in documents if row["id"] == lost["id"]] or [None]
    assert kept is None or len(kept["text"]) + lost["characters"] >= edge_of(bin_of(len(kept["text"])))


def test_names_are_counted_in_bounded_memory():
    few, many = Frequent(10), Counter()
    for n in range(3000):
        name = f"line {n % 3}" if n % 2 else f"other {n}"
        few.add(name)
        many[name] += 1
        assert len(few.counts) < 20
    for name, count in few.top(3):
        assert count <= many[name] <= count + few.error
    assert {name for name, _ in few.top(3)} == {"line 0", "line 1", "line 2"}
    exact = Frequent(10)
    exact.add("a", 3)
    assert exact.error == 0 and exact.top(5) == [("a", 3)]


def test_charts():
    assert bins({0.0: 1, 0.49: 2, 0.5: 4, 1.0: 8, 7.0: 16}, 0, 1, 2) == [3, 28]
    assert [bin_of(length) for length in (0, 1, 2, 9, 10, 999, 1000)] == [0, 0, 1, 3, 4, 11, 12]
    assert [number(value) for value in (0, 1234, 0.756, 2_500_000)] == ["0", "1,234", "0.756", "2.5M"]
    assert text("a\x00<\ud800&'") == "a\ufffd&lt;\ufffd&amp;&#x27;"
    assert 'aria-label="&lt;t&gt;"' in histogram([], [], 0, 1, title="<t>")
