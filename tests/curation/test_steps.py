"""The small steps: URL filter, language, identity; each a pure function with a reason for what it removes."""

import random
import unicodedata

import numpy as np
import pytest
from web_pages import paragraph, shared_web

from dots_jax.config import CurateConfig, LanguageConfig, UrlConfig, UserError
from dots_jax.curation import exchange, identity, language, url
from dots_jax.curation.record import Document, Removal, key_of

# --- url --------------------------------------------------------------------------------------------------------------


def url_step(tmp_path, domains="bad.example\n", words="casino\n", **keywords):
    (tmp_path / "domains.txt").write_text(domains, newline="")
    (tmp_path / "words.txt").write_text(words, newline="")
    lists = {"domains": (str(tmp_path / "domains.txt"),), "words": (str(tmp_path / "words.txt"),)}
    with url.opened(CurateConfig(url=UrlConfig(**lists, **keywords))) as step:
        return lambda address: step(Document("id", address, "text"))


@pytest.mark.parametrize(
    "address, reason",
    [
        ("http://bad.example/x", "blocked domain"), ("https://www.bad.example:8080/", "blocked domain"),
        ("http://BAD.example./", "blocked domain"), ("http://user:pass@bad.example/", "blocked domain"),
        ("http://xn--bcher-kva.example/", "blocked domain"), ("http://bücher.example/", "blocked domain"),
        ("http://10.1.2.3/", "blocked domain"), ("http://[2001:db8::1]:80/", "blocked domain"),
        ("http://good.example/online-Casino-x", "blocked word"),
        ("http://notbad.example/", None), ("http://good.example/casinos", None), ("http://10.1.2.30/", None), ("", None),
        ("http://[broken/", None),
    ],
)  # fmt: skip
def test_urls(tmp_path, address, reason):
    lists = "# comment\r\nbad.example\r\n\r\nBücher.example # another\r\n10.1.2.3\r\n2001:db8::1\r\n"
    found = url_step(tmp_path, lists)(address)
    assert (found.reason if isinstance(found, Removal) else None) == reason


def test_credentials_never_reach_the_corpus(tmp_path):
    step = url_step(tmp_path)
    assert step("http://user:pass@good.example/a?b=c@d").url == "http://good.example/a?b=c@d"
    assert step("http://me:secret@bad.example/").url == "http://bad.example/"


def test_a_url_can_be_required(tmp_path):
    step = url_step(tmp_path, require_url=True)
    assert step("").reason == "no url" and step("http:///x").reason == "bad url"


@pytest.mark.parametrize("text, sentence", [("# only a comment\n", "holds no entry"), (None, "cannot be read")])
def test_a_list_that_cannot_work_is_refused(tmp_path, text, sentence):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        url.read_lists(CurateConfig(url=UrlConfig(domains=(str(path),))))


# --- language ---------------------------------------------------------------------------------------------------------


def language_step(text: str, **keywords):
    with language.opened(CurateConfig(language=LanguageConfig(**keywords))) as step:
        return step(Document("id", "", text))


def test_languages():
    found = language_step(paragraph(1) + "\n\nwith a line end")
    assert found.language == "en" and found.language_score >= 0.65
    assert language_step("长三角一体化发展座谈会在上海举行。\n会议强调新发展理念。").language == "zh"
    other = language_step(paragraph(1), languages=("zh",))
    assert (other.reason, other.detail) == ("other language", "en")
    low = language_step("12 34 :: 56", min_score=0.99)
    assert low.reason == "undecided" and 0 <= low.score < 0.99
    assert language.identify(" \n ") == ("", 0.0)
    with pytest.raises(UserError, match="there is no file"):
        language_step("x", model="/nowhere/lid.bin")


def test_the_middle_of_a_long_text_decides():
    menu = "Accueil Contact Mentions légales Boutique " * 20
    assert language_step(menu + paragraph(1) * 20 + menu).language == "en"


@pytest.mark.parametrize(
    "code, least", [("zh", 0.93), ("en", 0.95), ("ja", 0.98), ("ko", 0.98), ("es", 0.92), ("fr", 0.94)]
)
def test_real_sentences(code, least):
    import gzip

    lines = gzip.decompress((shared_web() / "lid" / f"{code}.txt.gz").read_bytes()).decode().splitlines()
    lines = [line for line in lines if line.strip()][:400]
    right = [language.identify(line) for line in lines]
    assert sum(found == code and score >= 0.65 for found, score in right) >= least * len(lines)


# --- identity ---------------------------------------------------------------------------------------------------------


def decide(texts: list[str]) -> tuple[list[Document], np.ndarray]:
    documents = [Document(f"id{n}", "", text) for n, text in enumerate(texts)]
    keys = np.array([key_of(0, document.id) for document in documents], np.uint64)
    rows = identity.rows(documents, keys, keys, CurateConfig())
    return documents, identity.decide(np.sort(rows), CurateConfig())


def test_normalisation_is_the_reports():
    assert identity.normalise("  Crème,\tBRÛLÉE!\n“$5”  ") == unicodedata.normalize("NFD", "crème brûlée $5")
    assert (
        identity.fingerprint("你好，世界！") == identity.fingerprint("你好世界")
        and len(identity.fingerprint("a")) == 32
    )
    assert identity.fingerprint("a b") != identity.fingerprint("ab")


def test_the_smallest_key_stays_and_the_others_name_it():
    documents, decisions = decide(["Same text.", "other", "same   TEXT", "same text!", "third"])
    same = sorted(key_of(0, documents[n].id) for n in (0, 2, 3))
    assert sorted(decisions["key"].tolist()) == same[1:] and set(decisions["other"].tolist()) == {same[0]}
    outcome = identity.apply(documents[0], decisions[:1], lambda key: "winner", CurateConfig())
    assert outcome.kept == [] and (outcome.removed[0].reason, outcome.removed[0].other) == ("duplicate", "winner")
    assert identity.apply(documents[1], decisions[:0], None, CurateConfig()).kept == [documents[1]]


def test_texts_without_characters_are_empty_and_not_duplicates():
    documents, decisions = decide(["...", "!!!", "—", "text"])
    assert len(decisions) == 3 and (decisions["score"] == 0).all()
    (row,) = identity.apply(documents[0], decisions[:1], None, CurateConfig()).removed
    assert row.reason == "empty"


# --- exchange ---------------------------------------------------------------------------------------------------------


def test_rows_are_the_same_from_one_file_or_many(tmp_path):
    random.seed(1)
    rows = np.array([(random.getrandbits(64), random.getrandbits(64), 0, 0, 0) for _ in range(999)], exchange.DECISION)
    one = [(tmp_path / "one.npy", exchange.write_rows(tmp_path / "one.npy", rows, 7))]
    many = [(tmp_path / f"{n}.npy", exchange.write_rows(tmp_path / f"{n}.npy", rows[n::3], 7)) for n in (2, 0, 1)]
    parts = []
    for part in range(7):
        a, b = (exchange.read_rows([(p, s[part]) for p, s in files], exchange.DECISION) for files in (one, many))
        assert (a == b).all() and all(int(key) * 7 >> 64 == part for key in a["key"])
        parts.append(a)
    assert sum(map(len, parts)) == 999
    data = bytearray((tmp_path / "one.npy").read_bytes())
    data[-5] ^= 1
    (tmp_path / "one.npy").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        exchange.read_rows([(tmp_path / "one.npy", one[0][1][6])], exchange.DECISION)
