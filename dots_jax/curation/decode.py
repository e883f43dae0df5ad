"""From the bytes of a page to characters: byte order mark > valid UTF-8 > HTTP header > meta > detector.

Labels mean what browsers take them for (WHATWG): gb2312 and gbk are read as gb18030, big5 with the Hong Kong extensions,
latin-1 as windows-1252. Bytes that the encoding does not explain become U+FFFD: one bad byte never costs a page, and a page
of which more than `DecodingConfig.max_undecodable` is undecodable is removed as `encoding`.

    text, encoding, bad = decode(body, "text/html; charset=gb2312")
"""

import codecs
import contextlib
import re
from collections.abc import Callable, Iterator

from dots_jax.config import CurateConfig
from dots_jax.curation.protocol import Verdict
from dots_jax.curation.record import Page, Record, clean, removal

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
# WHATWG's reading of a label where Python's is another one.
_LABELS = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312": "gb18030", "gb_2312-80": "gb18030", "x-gbk": "gb18030",
    "chinese": "gb18030", "csgb2312": "gb18030", "euc-cn": "gb18030", "x-euc-cn": "gb18030",
    "big5": "big5hkscs", "big5-hkscs": "big5hkscs", "x-x-big5": "big5hkscs", "cn-big5": "big5hkscs", "csbig5": "big5hkscs",
    "iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "l1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
    "iso8859-1": "cp1252", "x-cp1252": "cp1252", "iso-8859-9": "cp1254", "latin5": "cp1254", "iso-8859-11": "cp874",
    "tis-620": "cp874", "windows-31j": "cp932", "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "x-sjis": "cp932",
    "ms_kanji": "cp932", "x-euc-jp": "euc_jp", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "korean": "cp949",
    "windows-949": "cp949", "x-cp1251": "cp1251", "unicode-1-1-utf-8": "utf-8", "utf8": "utf-8",
    "utf-16": "utf-16-le", "unicode": "utf-16-le", "ucs-2": "utf-16-le",
}  # fmt: skip
_TEXT_CODECS = re.compile(
    r"(utf|iso8859|cp\d|gb|big5|euc|shift|koi8|mac|johab|hz|iso2022|tis|kz|ptcp|ascii|latin|hp)", re.I
)
_META = re.compile(rb"<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_META_BYTES = 8192  # of the beginning; browsers look at 1,024, pages with long scripts need more
FEW = 8  # undecodable characters that cost no page, however short it is
_NEARLY = 0.1  # share of characters beyond ASCII that may be broken in what is still UTF-8


def codec_of(label: str) -> str | None:
    """The Python codec of a label, or None if there is no such encoding of text."""
    label = label.strip().lower()
    try:
        name = codecs.lookup(_LABELS.get(label, label)).name
    except (LookupError, ValueError, UnicodeError):
        return None
    if not _TEXT_CODECS.match(name):
        return None  # codecs as base64 and rot13
    return _LABELS.get(name, name)


def decode(body: bytes, content_type: str = "") -> tuple[str, str, int]:
    """(text, Python codec, characters that are undecodable)."""
    for mark, codec in _BOMS:
        if body.startswith(mark):
            return _replace(body[len(mark) :], codec)
    if wide := _wide(body):
        return _replace(body, wide)
    declared = declared_codecs(body, content_type)
    if _is_utf8(body):
        seven_bit = [codec for codec in declared if codec.startswith(("iso2022", "hz"))]
        return _replace(body, seven_bit[0] if seven_bit and re.search(rb"\x1b|~\{", body) else "utf-8")
    # The first that explains the bytes, in their order of trust; else the one that explains most.
    tried = []
    for codec in dict.fromkeys(declared):
        tried.append(_replace(body, codec))
        if _explains(*tried[-1]):
            return tried[-1]
    tried.append(_replace(body, _detect(body)))
    return tried[-1] if _explains(*tried[-1]) else min(tried, key=lambda one: one[2])


def declared_codecs(body: bytes, content_type: str) -> list[str]:
    """The codecs that header and meta name. An ASCII letter of a meta that can be read is no UTF-16."""
    header, meta = _HEADER.search(content_type), _META.search(body[:_META_BYTES])
    labels = ([header[1]] if header else []) + ([meta[1].decode("ascii", "replace")] if meta else [])
    return [codec for label in labels if (codec := codec_of(label)) and not codec.startswith(("utf-16", "utf-32"))]


def _replace(body: bytes, codec: str) -> tuple[str, str, int]:
    text = body.decode(codec, "replace")
    own = body.count("\ufffd".encode()) if codec == "utf-8" else 0  # the page's own
    return text, codec, max(text.count("\ufffd") - own, 0)


def _explains(text: str, codec: str, bad: int) -> bool:
    return bad == 0 or bad <= _NEARLY * sum(map(len, _BEYOND.findall(text)))


def _is_utf8(body: bytes) -> bool:
    """Also with a few bad bytes, as a text that was cut in the middle of a character has."""
    text = body.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    if bad == 0:
        return True
    beyond = sum(map(len, _BEYOND.findall(text))) - bad
    return beyond > 0 and bad <= _NEARLY * beyond


def _wide(body: bytes) -> str | None:
    """UTF-16 without a mark, by the zeros of its ASCII characters."""
    start = body[:1024]
    even, odd = start[::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    if half < 8:
        return None
    if odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 * half and odd < 0.05 * half else None


def _detect(body: bytes) -> str:
    """resiliparse's detector, and a guess by script where it names UTF-8 for what is none, or a code page of one byte a
    character (it does so for most pages in EUC-KR, and for short ones with a bad byte)."""
    from resiliparse.parse.encoding import detect_encoding

    found = codec_of(detect_encoding(body, html5_compatible=True, from_html_meta=False) or "") or "cp1252"
    if found.startswith("utf") or found.startswith("cp12"):
        return _by_script(body) or ("cp1252" if found.startswith("utf") else found)
    return found


def _by_script(body: bytes) -> str | None:
    """For bytes that come in pairs, as in the EUC encodings: the one whose script the text is in."""
    runs = _HIGH.findall(body)
    total = sum(map(len, runs))
    if total < 8 or sum(len(run) for run in runs if len(run) % 2 == 0) < 0.7 * total:
        return None
    for codec, script, least in _SCRIPTS:
        beyond = "".join(_BEYOND.findall(body.decode(codec, "replace")))
        if len(script.findall(beyond)) >= least * len(beyond) and beyond.count("\ufffd") <= _NEARLY * len(beyond):
            return codec
    return None


_HIGH = re.compile(rb"[\x80-\xff]+")
_BEYOND = re.compile(r"[^\x00-\x7f]+")
_SCRIPTS = (
    ("cp949", re.compile("[\uac00-\ud7a3]"), 0.7),  # Hangul
    ("euc_jp", re.compile("[\u3040-\u30ff]"), 0.2),  # kana
    ("gb18030", re.compile("[\u4e00-\u9fff]"), 0.6),
)


# --- what is no HTML --------------------------------------------------------------------------------------------------

_MAGIC = (
    (b"%PDF", "PDF"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"\xff\xd8\xff", "JPEG"), (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"), (b"RIFF", "RIFF"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"7z\xbc\xaf", "7-Zip"),
    (b"\x7fELF", "ELF"), (b"MZ\x90", "program"), (b"ID3", "MP3"), (b"OggS", "Ogg"), (b"\xd0\xcf\x11\xe0", "Office"),
    (b"wOFF", "font"), (b"wOF2", "font"), (b"\0\0\1\0", "icon"), (b"\0asm", "WebAssembly"), (b"{\\rtf", "RTF"),
    (b"%!PS", "PostScript"),
)  # fmt: skip
_TAG = re.compile(
    r"<(?:!doctype\s+html|html|head|body|title|meta|div|p|table|tr|td|span|a|br|h[1-6]|ul|ol|li|article|section|main|font"
    r"|center|img|b|i|strong|em|pre|form|script|style|link|frameset|dl|blockquote)\b", re.I,
)  # fmt: skip
_FEED = re.compile(r"<(rss|feed|rdf:RDF|urlset|sitemapindex|svg|wsdl|soap)\b", re.I)
_BEFORE = re.compile(r"\s+|<\?xml[^>]*>|<!--(?:[^-]|-(?!->))*-->")  # what may stand before the first element
_LOOKED_AT = 1 << 16  # characters of the beginning


def kind_by_magic(body: bytes) -> str:
    """What the first bytes say that a page is not: `PDF`, `PNG`, ...; or ""."""
    found = next((kind for magic, kind in _MAGIC if body.startswith(magic)), "")
    return found or ("MP4" if body[4:8] == b"ftyp" else "")


def kind_by_text(text: str) -> str:
    """What a text is if it is no HTML: `JSON`, `XML`, `text without tags`; or ""."""
    start = text[:_LOOKED_AT].lstrip("\ufeff \t\r\n\0")
    place = 0
    while before := _BEFORE.match(start, place):
        place = before.end()
    if feed := _FEED.match(start, place):
        return f"XML ({feed[1].lower()})"
    if start[:1] in "{[" and re.match(r"[{\[]\s*(?:[\"{\[\]}]|-?\d|true|false|null)", start):
        return "JSON"
    if _TAG.search(start) or (len(text) > _LOOKED_AT and _TAG.search(text)):
        return ""
    return "XML" if start.startswith("<?xml") else "text without tags"


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Callable[[Record], Verdict]]:
    limit = config.decoding.max_undecodable

    def step(record: Record) -> Verdict:
        if not isinstance(record, Page):
            return record
        if kind := kind_by_magic(record.body):
            return removal(record, "decoding", "not html", detail=kind)
        text, codec, bad = decode(record.body, record.content_type)
        if bad > max(FEW, limit * len(text)):
            return removal(record, "decoding", "encoding", score=round(bad / len(text), 6), detail=codec)
        if kind := kind_by_text(text):
            return removal(record, "decoding", "not html", detail=kind)
        return record._replace(html=clean(text), encoding=codec)

    yield step
