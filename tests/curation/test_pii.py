"""Personal data: what is replaced, what only looks like it, and which documents go."""

import pytest

from dots_jax.config import CurateConfig, PiiConfig, UserError
from dots_jax.curation import pii
from dots_jax.curation.books import Books
from dots_jax.curation.record import Document


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Write to jane.doe+x@mail.example.org today", "Write to <EMAIL> today"),
        ("电话：13812345678，李先生", "电话：<PHONE>，李先生"), ("手机 138 1234 5678。", "手机 <PHONE>。"),
        ("+86 13812345678", "<PHONE>"), ("座机010-62345678转8", "座机<PHONE>转8"), ("Call +44 20 7946 0958.", "Call <PHONE>."),
        ("身份证11010519491231002X号", "身份证<ID_CARD>号"), ("card 4111 1111 1111 1111 ok", "card <BANK_CARD> ok"),
        ("卡号4111111111111111", "卡号<BANK_CARD>"),
        ("from 8.8.8.8, port 53", "from <IP_ADDRESS>, port 53"), ("8.8.8.8:53", "<IP_ADDRESS>:53"),
    ],
)  # fmt: skip
def test_it_becomes_a_constant(text, expected):
    assert pii.replace(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-7-111-54742-6", "ISBN 4111111111111111", "doi:10.1000/182.13812345678", "version 8.8.8.8 of it",
        "2026-12-01 and 1999/01/02", "Price: 12,345,678.00", "192.168.0.1 and 127.0.0.1 and 300.1.1.1",
        "110105194912310021", "4111 1111 1111 1112", "0000 0000 0000 0000", "order 9138123456789", "a13812345678b",
        "sprite@2x.png", "user@localhost", "pages 101-1234567", "1.2.3.4.5", "https://a.org/13812345678", "@name",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text):
    assert pii.replace(text)[0] == text


def test_the_same_text_gives_the_same_bytes_and_twice_changes_nothing():
    text = "a@b.org, 13812345678, 8.8.4.4"
    once = pii.replace(text)[0]
    assert once == "<EMAIL>, <PHONE>, <IP_ADDRESS>" == pii.replace(text)[0] == pii.replace(once)[0]


def run(documents, **settings):
    with pii.opened(CurateConfig(pii=PiiConfig(**settings))) as step:
        outcome = step(documents)
    Books().add("pii", documents, outcome.kept, outcome.removed)  # raises if characters are lost
    return outcome


def test_a_changed_document_has_a_row_without_the_data():
    plain = Document("plain", "", "Nothing here.")
    outcome = run([Document("a", "http://a.org", "Mail me: me@a.org " + "and so on " * 30), plain])
    assert outcome.kept[1] is plain and "<EMAIL>" in outcome.kept[0].text
    (row,) = outcome.removed
    assert (row.kind, row.reason, row.score, row.detail, row.text) == ("part", "replaced", 1.0, "email 1", "")


def test_a_document_rich_in_it_goes_without_leaving_it_in_the_ledger():
    """Claim: personal data is replaced by constants, and a document above the limit goes; the ledger holds none of it."""
    many = Document("many", "", "\n".join(f"person{n}@a.org lives in the street of number {n}" for n in range(30)))
    dense = Document("dense", "", "a@b.org c@d.org e@f.org")
    assert [row.reason for row in run([many, dense]).removed] == ["personal data"] * 2
    assert not any("@" in row.text for row in run([many, dense]).removed)
    assert run([many], max_found=100, max_per_1000=1000.0).kept


def test_kinds_can_be_chosen():
    assert (
        run([Document("a", "", "a@b.org " + "word " * 60 + "8.8.8.8")], kinds=("email",))
        .kept[0]
        .text.endswith("8.8.8.8")
    )
    with pytest.raises(UserError, match="the kinds are"):
        PiiConfig(kinds=("name",))
