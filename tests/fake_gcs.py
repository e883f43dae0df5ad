"""What Google Cloud Storage does, as far as this project's clients ask for it: buckets in memory. bucket_server.py serves it.

As the real one: objects appear when they are complete or not at all, there are no folders and no renames, listings come
in pages, and a write may ask for the generation that it replaces.
"""

import base64
import collections
import datetime
import email.parser
import hashlib
import itertools
import json
import re
import threading
import time
import urllib.parse
from typing import NamedTuple

import google_crc32c

PAGE = 7  # entries of a page, whatever the client asks for: every listing of a run has several


class Object(NamedTuple):
    data: bytes
    generation: int
    updated: str
    metadata: dict


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: dict = {}  # noqa: B006  never changed


class Refused(Exception):
    """An error of the service: status and reason."""

    def answer(self) -> Answer:
        status, reason = self.args
        return _json({"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}}, status)


def _json(value, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Storage:
    """The service, without its wire. Methods answer one request each."""

    def __init__(self):
        self.objects: dict[str, dict[str, Object]] = collections.defaultdict(dict)
        self.log: list[list[str]] = []  # method, object, range
        self.held: dict[str, str] = {}  # writes that wait: number -> name
        self.hold_pattern = self.deny_writes = self.deny_reads = ""  # of names
        self._dropped: set[str] = set()
        self._uploads: dict[str, dict] = {}
        self._lock, self._changed = threading.RLock(), threading.Condition()
        self._numbers = itertools.count(1)

    # --- what a client asks -------------------------------------------------------------------------------------------

    def handle(self, method: str, url: str, headers: dict, body: bytes, base: str) -> Answer:
        parts = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        try:
            return self._route(method, parts.path, query, headers, body, base)
        except Refused as refused:
            return refused.answer()

    def _route(self, method, path, query, headers, body, base) -> Answer:
        if path.startswith("/batch/"):
            return self._batch(headers, body, base)
        if found := re.fullmatch(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o", path):
            return self._upload(method, found[1], query, headers, body, base)
        if found := re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?(/storageLayout)?", path):
            bucket, name = found[1], found[2]
            if bucket.startswith("missing"):
                raise Refused(404, "notFound")
            if name is None:
                if path.rstrip("/").endswith("/o"):
                    return self._list(bucket, query)
                if bucket.startswith("closed"):
                    raise Refused(403, "does not have storage.buckets.get access")
                return _json({"kind": "storage#bucket", "name": bucket, "id": bucket, "location": "US-EAST5",
                              "locationType": "region", "hierarchicalNamespace": {"enabled": False}})  # fmt: skip
            if copied := re.fullmatch(r"(.+?)/(?:copyTo|rewriteTo)/b/([^/]+)/o/(.+)", name):
                return self._copy(bucket, *map(urllib.parse.unquote, copied.groups()), query, "rewriteTo" in name)
            if moved := re.fullmatch(r"(.+?)/moveTo/o/(.+)", name):
                old, new = map(urllib.parse.unquote, moved.groups())
                answer = self._copy(bucket, old, bucket, new, query, rewrite=False)
                self.objects[bucket].pop(old)
                return answer
            if name.endswith("/compose") and method == "POST":
                return self._compose(bucket, urllib.parse.unquote(name.removesuffix("/compose")), query, body)
            return self._object(method, bucket, urllib.parse.unquote(name), query, headers, query.get("alt") == "media")
        if found := re.fullmatch(
            r"/([^/]+)/(.+)", path
        ):  # the XML interface: TensorFlow's and google-cloud-cpp's reads
            return self._object(method, found[1], urllib.parse.unquote(found[2]), query, headers, True)
        raise Refused(404, "notFound")

    def _object(self, method, bucket, name, query, headers, media) -> Answer:
        self.log.append([method, name, headers.get("range", "") if media else "metadata"])
        found = self._find(bucket, name, query)
        if method == "DELETE":
            with self._lock:
                self.objects[bucket].pop(name, None)
            return Answer(204)
        if not media:
            return _json(self._resource(bucket, name, found))
        crc = base64.b64encode(google_crc32c.Checksum(found.data).digest()).decode()
        more = {"x-goog-generation": str(found.generation), "x-goog-hash": f"crc32c={crc}", "ETag": str(found.generation),
                "Content-Type": "application/octet-stream", "x-goog-stored-content-length": str(len(found.data))}  # fmt: skip
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
        if not asked:
            return Answer(200, found.data, more)
        size = len(found.data)
        first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
        if first >= size:
            return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
        more["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(206, found.data[first : last + 1], more)

    def _find(self, bucket: str, name: str, query: dict) -> Object:
        if self.deny_reads and re.search(self.deny_reads, name):
            raise Refused(403, "does not have storage.objects.get access")
        with self._lock:
            found = self.objects[bucket].get(name)
        if found is None:
            raise Refused(404, "notFound")
        if query.get("ifGenerationNotMatch") == str(found.generation):
            raise Refused(304, "notModified")
        if query.get("generation", query.get("ifGenerationMatch", str(found.generation))) != str(found.generation):
            raise Refused(412 if "ifGenerationMatch" in query else 404, "conditionNotMet")
        return found

    def _list(self, bucket: str, query: dict) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        self.log.append(["LIST", prefix, delimiter])
        with self._lock:
            names = sorted(name for name in self.objects[bucket] if name.startswith(prefix))
        names = [n for n in names if query.get("startOffset", "") <= n < query.get("endOffset", "\U0010ffff")]
        entries = {}
        for name in names:
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            entries.setdefault(name if cut < 0 else name[: cut + 1], cut >= 0)
            if cut >= 0 and cut == len(name) - 1 and query.get("includeTrailingDelimiter") == "true":
                entries[name] = None  # both an item and a prefix
        left = [entry for entry in entries if entry > query.get("pageToken", "")]
        page = left[: min(PAGE, int(query.get("maxResults", PAGE)))]
        result = {"kind": "storage#objects"}
        with self._lock:
            found = {name: self.objects[bucket].get(name) for name in page if not entries[name]}
        result["items"] = [self._resource(bucket, name, one) for name, one in found.items() if one]
        result["prefixes"] = [entry for entry in page if entries[entry] is not False]
        if len(left) > len(page):
            result["nextPageToken"] = page[-1]
        return _json({name: value for name, value in result.items() if value})

    def _upload(self, method, bucket, query, headers, body, base) -> Answer:
        kind = query.get("uploadType")
        if kind == "media":
            return self._write(bucket, query["name"], body, query)
        if kind == "multipart":
            metadata, data = _related(headers["content-type"], body)
            return self._write(bucket, query.get("name") or metadata["name"], data, query, metadata)
        if "upload_id" not in query:
            metadata = json.loads(body) if body.strip() else {}
            number = str(next(self._numbers))
            self._uploads[number] = {
                "name": query.get("name") or metadata["name"], "query": query, "data": bytearray(), "metadata": metadata,
            }  # fmt: skip
            where = f"{base}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
            return Answer(200, b"", {"Location": where, "X-GUploader-UploadID": number})
        upload = self._uploads.get(query["upload_id"])
        if upload is None or method == "DELETE":
            self._uploads.pop(query["upload_id"], None)
            return Answer(499)
        sent = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", headers.get("content-range", "bytes */*"))
        if sent[1]:
            del upload["data"][int(sent[1]) :]
            upload["data"] += body
        elif body:
            upload["data"] += body
        complete = "content-range" not in headers or (sent[3] != "*" and int(sent[3]) == len(upload["data"]))
        if complete:
            self._uploads.pop(query["upload_id"])
            return self._write(bucket, upload["name"], bytes(upload["data"]), upload["query"], upload["metadata"])
        return Answer(308, b"", {"Range": f"bytes=0-{len(upload['data']) - 1}"} if upload["data"] else {})

    def _write(self, bucket: str, name: str, data: bytes, query: dict, metadata: dict | None = None) -> Answer:
        self.log.append(["WRITE", name, str(len(data))])
        if self.deny_writes and re.search(self.deny_writes, name):
            raise Refused(403, "does not have storage.objects.create access")
        self._wait_if_held(name)
        with self._lock:
            old = self.objects[bucket].get(name)
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != (old.generation if old else 0):
                raise Refused(412, "conditionNotMet")
            now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            new = Object(
                data,
                time.time_ns() // 1000 * 1000 + next(self._numbers) % 1000,
                now,
                (metadata or {}).get("metadata", {}),
            )
            self.objects[bucket][name] = new
        answer = _json(self._resource(bucket, name, new))
        return answer._replace(headers={**answer.headers, "x-goog-generation": str(new.generation)})

    def _wait_if_held(self, name: str) -> None:
        with self._changed:
            if not (self.hold_pattern and re.search(self.hold_pattern, name)):
                return
            number = str(next(self._numbers))
            self.held[number] = name
            while number in self.held:
                self._changed.wait()
            if number in self._dropped:
                raise Refused(503, "backendError")

    def release(self, drop: bool) -> None:
        """Lets what is held go on. drop: the machines that wrote it are gone, and so is what they had not finished."""
        with self._changed:
            self.hold_pattern = ""
            if drop:
                self._dropped |= set(self.held)
            self.held.clear()
            self._changed.notify_all()

    def _copy(self, bucket, name, to_bucket, to_name, query, rewrite) -> Answer:
        source = self._find(bucket, name, {})
        answer = self._write(to_bucket, to_name, source.data, query)
        if not rewrite:
            return answer
        size = str(len(source.data))
        return _json({"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": size, "objectSize": size,
                      "resource": json.loads(answer.body)})  # fmt: skip

    def _compose(self, bucket, name, query, body) -> Answer:
        parts = [self._find(bucket, part["name"], {}).data for part in json.loads(body)["sourceObjects"]]
        return self._write(bucket, name, b"".join(parts), query)

    def _batch(self, headers, body, base) -> Answer:
        text = b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
        parts, boundary = [], "batch_answer"
        for part in email.parser.BytesParser().parsebytes(text).get_payload():
            request = part.get_payload(decode=True).decode().lstrip()
            method, url, *_ = request.split("\n")[0].split()
            answer = self.handle(method, url, {}, b"", base)
            number = part.get("Content-ID", "<1>").strip("<>")
            parts.append(
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
                f"HTTP/1.1 {answer.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(answer.body)}\r\n\r\n"
                f"{answer.body.decode()}\r\n"
            )
        return Answer(
            200,
            ("".join(parts) + f"--{boundary}--\r\n").encode(),
            {"Content-Type": f"multipart/mixed; boundary={boundary}"},
        )

    @staticmethod
    def _resource(bucket: str, name: str, found: Object) -> dict:
        return {
            "kind": "storage#object", "id": f"{bucket}/{name}/{found.generation}", "name": name, "bucket": bucket,
            "size": str(len(found.data)), "generation": str(found.generation), "metageneration": "1",
            "updated": found.updated, "timeCreated": found.updated, "storageClass": "STANDARD",
            "etag": str(found.generation), "metadata": found.metadata,
            "md5Hash": base64.b64encode(hashlib.md5(found.data).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.Checksum(found.data).digest()).decode(),
        }  # fmt: skip


def _related(content_type: str, body: bytes) -> tuple[dict, bytes]:
    """The two parts of a multipart upload: metadata and data."""
    boundary = b"--" + re.search(r"boundary=[\"']?([^\"';]+)", content_type)[1].encode()
    _, metadata, rest = body.split(boundary, 2)
    data = rest.rsplit(b"\r\n" + boundary + b"--", 1)[0].rsplit(b"\n" + boundary + b"--", 1)[0]
    cut = lambda part: re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]
    return json.loads(cut(metadata)), cut(data)
