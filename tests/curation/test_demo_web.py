"""The demo's web in a small form: all steps, and everything that is planted is found by name."""

import json

from web_pages import read_zst

from benchmarks.demo_web import FAREWELL, GREETING, main


def test_planted_things_are_found_by_name(tmp_path, capsys):
    """Claim: `make demo-curate` curates a web made on the spot, and every planted fault is in the ledger under its reason."""
    small = [f"--output={tmp_path}", "--modules=24", "--texts=36", "--keep=5"]
    assert main(small) == 0
    said = capsys.readouterr().out
    assert "WRONG" not in said and "planted things found by name" in said
    report = json.loads((tmp_path / "corpus" / "report.json").read_text())
    took = {row["step"] for row in report["funnel"] if row["removed"].get("rows")}
    assert took == {"read", "url", "decoding", "extraction", "language", "identity", "lines", "rules", "minhash", "pii"}
    texts = [row["text"] for path in (tmp_path / "corpus" / "documents").iterdir() for row in read_zst(path)]
    # The shared lines stay five times; a line that stays may belong to a document that went later.
    assert all(0 < sum(line in text for text in texts) <= 5 for line in (GREETING, FAREWELL))
    page = (tmp_path / "corpus" / "report.html").read_text()
    assert "Funnel of each language" in page and GREETING in page and "<svg" in page
    assert main(small) == 0 and "already complete, nothing done" in capsys.readouterr().out
