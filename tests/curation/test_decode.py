"""Bytes to characters: the order of trust, WHATWG's labels, and pages with bad bytes.

Claim: every file of GB2312 and Big5 of a public set of encodings is decoded exactly, also with one bad byte in it.
"""

import gzip

import pytest
from web_pages import page, shared_web

from dots_jax.config import CurateConfig, DecodingConfig
from dots_jax.curation import decode
from dots_jax.curation.record import Page, Removal

CHINESE = "长三角一体化发展座谈会在上海举行，会议强调要完整、准确、全面贯彻新发展理念。" * 3
TAIWAN = "臺灣的天氣今天很好，我們一起去公園散步，看見許多美麗的花朵和小鳥。" * 3
JAPANESE = "今日はとても天気がよいので、公園へ散歩に行きました。" * 3
RUSSIAN = "Сегодня хорошая погода, и мы пошли гулять в парк." * 3


def html(text: str, meta: str = "") -> str:
    tag = f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else ""
    return f"<html><head>{tag}</head><body><p>{text}</p></body></html>"


def step(body: bytes, content_type: str = "", limit: float = 0.01):
    config = CurateConfig(decoding=DecodingConfig(max_undecodable=limit))
    with decode.opened(config) as function:
        return function(Page("id", "", body, content_type))


@pytest.mark.parametrize(
    "text, codec, label",
    [
        (CHINESE, "gb18030", "gb2312"), (CHINESE + "镕囍", "gb18030", "gb2312"), (CHINESE + "㐂𠀀", "gb18030", "gbk"),
        (TAIWAN, "big5", "big5"), (TAIWAN + "嘅喺", "big5hkscs", "Big5"), (JAPANESE, "cp932", "Shift_JIS"),
        (JAPANESE, "euc_jp", "euc-jp"), (JAPANESE, "iso2022_jp", "iso-2022-jp"), (RUSSIAN, "cp1251", "windows-1251"),
        ("“naïve” café €5", "cp1252", "iso-8859-1"), (CHINESE, "utf-8", "gb2312"), (RUSSIAN, "koi8-r", "koi8-r"),
    ],
)  # fmt: skip
def test_labels_by_meta_and_by_header(text, codec, label):
    body = html(text, label).encode(codec)
    assert decode.decode(body)[0] == html(text, label)
    assert decode.decode(html(text).encode(codec), f"text/html; charset={label}")[0] == html(text)


def test_a_mark_comes_before_all_and_the_header_before_meta():
    text = html(CHINESE, "big5")
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode.decode(text.encode(codec), "text/html; charset=big5")[0] == text
    assert decode.decode(text.encode("gb18030"), "text/html; charset=gbk")[:2] == (text, "gb18030")
    assert decode.decode(html(CHINESE, "no-such-label").encode("gb18030"))[1] == "gb18030"  # by the detector
    assert decode.decode(text.encode("utf-16-le"))[0] == text  # by the zeros


@pytest.mark.parametrize("codec, label", [("utf-8", "utf-8"), ("utf-8", ""), ("gb18030", "gb2312"), ("big5", "big5")])
def test_one_bad_byte_costs_one_character(codec, label):
    body = html(TAIWAN if codec == "big5" else CHINESE, label).encode(codec)
    middle = len(body) - 60
    found = step(body[:middle] + b"\xff" + body[middle:])
    assert isinstance(found, Page) and found.encoding.startswith(codec)
    assert sum(a != b for a, b in zip(found.html[:60], html(CHINESE, label)[:60])) == 0
    assert 0 < found.html.count("\ufffd") <= 3


def test_a_page_that_no_encoding_explains_has_its_reason():
    body = html(CHINESE, "utf-8").encode("gb18030") + bytes(range(0x80, 0x100)) * 40
    found = step(b"\xef\xbb\xbf" + body)
    assert isinstance(found, Removal) and (found.reason, found.detail) == ("encoding", "utf-8") and found.score > 0.01
    assert isinstance(step(b"\xef\xbb\xbf" + body, limit=1.0), Page)


@pytest.mark.parametrize(
    "body, kind",
    [
        (b"%PDF-1.7 ...", "PDF"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"PK\x03\x04xx", "ZIP"), (b'{"a": [1, 2]}', "JSON"),
        (b"<?xml version='1.0'?><!-- a --><rss><channel/></rss>", "XML (rss)"),
        (b"User-agent: *\nDisallow: /", "text without tags"),
        (b"body { color: red }", "text without tags"), (b"\0\0\0\x18ftypmp42", "MP4"),
    ],
)  # fmt: skip
def test_what_is_no_html_is_told_by_its_content(body, kind):
    found = step(body, "text/html")
    assert isinstance(found, Removal) and (found.reason, found.detail) == ("not html", kind)
    assert isinstance(step(page(1).encode(), "application/pdf"), Page)  # the header does not decide


def test_comments_before_the_first_tag_cost_no_time():
    assert isinstance(step(b"<!-- x -->" * 5000 + page(1).encode()), Page)


def test_surrogates_and_zeros_do_not_reach_the_corpus():
    assert step(b"<p>a\0b&#xD800;</p>" + b"<p>text</p>").html.count("\0") == 0
    assert "\ud800" not in step("<p>a\ud800b</p>".encode("utf-8", "surrogatepass")).html


@pytest.mark.parametrize("folder, codec", [("GB2312", "gb18030"), ("Big5", "big5hkscs")])
def test_real_files_are_exact_also_with_a_bad_byte(folder, codec):
    paths = sorted((shared_web() / "encodings" / folder).glob("*.gz"))
    assert len(paths) >= 20
    for path in paths:
        body = gzip.decompress(path.read_bytes())
        text, found, bad = decode.decode(body)
        assert (text, bad) == (body.decode(codec), 0), path.name
        middle = len(body) // 2
        assert decode.decode(body[:middle] + b"\xff" + body[middle:])[1] == found, path.name
