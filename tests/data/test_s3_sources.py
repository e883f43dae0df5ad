"""Sources at s3:// through Arrow's client, from a server of this machine that answers as S3 does."""

import contextlib
import http.server
import re
import threading
import urllib.parse
from xml.sax.saxutils import escape

import pytest
from test_files import FORMATS, TEXTS

from dots_jax.config import Source, UserError
from dots_jax.data.sources.content import look_at
from dots_jax.data.sources.file_source import FileSource
from dots_jax.storage import find_files, folder

BUCKET = "corpora"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}
    failures: list[int] = []  # statuses that the next reads get

    def _answer(self):
        parts = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        if bucket != BUCKET:
            return self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if not key:
            return self._send(200, self._listing(query).encode())
        if key not in self.objects:
            return self._send(404, b"")
        if self.failures and self.command == "GET":
            return self._send(self.failures.pop(), b"<Error><Code>SlowDown</Code></Error>")
        data, status, more = self.objects[key], 200, {"Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT", "ETag": '"1"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            more["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(status, data, more)

    do_GET = do_HEAD = _answer

    def _listing(self, query: dict) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys, folders = [], set()
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                keys.append(key)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
            f"<Size>{len(self.objects[key])}</Size></Contents>"
            for key in keys
        )
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)
        )
        return (
            f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(keys) + len(folders)}</KeyCount>'
            f"<IsTruncated>false</IsTruncated>{contents}{prefixes}</ListBucketResult>"
        )

    def _send(self, status: int, body: bytes, more: dict | None = None) -> None:
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as one:
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture
def s3(server, monkeypatch):
    """s3:// leads to the server, in which there is nothing yet."""
    from dots_jax import storage

    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    storage._s3.cache_clear()
    _Handler.objects, _Handler.failures = {}, []
    yield _Handler
    storage._s3.cache_clear()


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet", "tfrecord"])
def test_the_same_texts_as_on_a_disk(s3, tmp_path, ending):
    FORMATS[ending](tmp_path / "file", TEXTS)
    for name in ("a/part-0", "b/part-1"):
        s3.objects[f"web/{name}.{ending}"] = (tmp_path / "file").read_bytes()
    s3.objects["web/a/note.txt"] = b"no records"
    one = FileSource(
        Source(name="s", files=(("train", f"s3://{BUCKET}/web/*/*.{ending}"),), field="content").file_sets()
    )
    files = one.files("train")
    assert [file.name for file in files] == [f"a/part-0.{ending}", f"b/part-1.{ending}"]
    assert look_at(files[0].path).size == files[0].size == (tmp_path / "file").stat().st_size
    s3.failures = [503]
    for file in files:
        assert [text.decode() for text in one.texts(file)] == TEXTS
    assert not s3.failures


def test_what_s3_is_not_for(s3, tmp_path):
    FORMATS["array_record"](tmp_path / "file", TEXTS)
    s3.objects["a.array_record"] = (tmp_path / "file").read_bytes()
    one = FileSource({"train": f"s3://{BUCKET}/*.array_record"})
    with pytest.raises(UserError, match="ArrayRecord cannot be read from s3://: copy it"):
        list(one.texts(*one.files("train")))
    with pytest.raises(UserError, match="s3:// is for the files of a source"):
        folder("s3://corpora/run")
    with pytest.raises(UserError, match="No file matches"), contextlib.suppress(StopIteration):
        FileSource({"train": f"s3://{BUCKET}/none/*.jsonl"}).files("train")
    with pytest.raises(UserError, match="s3://other cannot be listed|s3://other/a cannot be listed|No file matches"):
        find_files("s3://other/a/*.jsonl") or FileSource({"train": "s3://other/a/*.jsonl"}).files("train")
