"""gs://bucket as a folder of this machine: behind etils.epath, and behind TensorStore's Google Cloud Storage driver."""

import http.server
import os
import re
import threading
import urllib.parse

from etils.epath import backend


class FolderBucket(backend._OsPathBackend):
    """gs://bucket is a folder; as in a bucket, nothing is appended to."""

    def __init__(self, root):
        self._root = root

    def _here(self, path):
        return str(path).replace("gs://bucket", str(self._root))

    def open(self, path, mode):
        assert "a" not in mode
        return super().open(self._here(path), mode)

    def copy(self, path, dst, overwrite):
        super().copy(self._here(path), self._here(dst), overwrite)

    def replace(self, path, dst):
        super().replace(self._here(path), self._here(dst))


for _name in ("exists", "isdir", "mkdir", "makedirs", "remove", "listdir"):

    def _method(self, path, *arguments, name=_name, **keywords):
        return getattr(backend._OsPathBackend, name)(self, self._here(path), *arguments, **keywords)

    setattr(FolderBucket, _name, _method)


class StorageServer(http.server.ThreadingHTTPServer):
    """Answers the storage API's reads with the files of a folder, and remembers them: `requests` are (path, range)."""

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.requests = root, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For TensorStore: where the storage is, and that nobody need log in."""
        return {
            "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{self.server_port}",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        place = re.match(r"/storage/v1/b/bucket/o/(.+)$", urllib.parse.urlsplit(self.path).path)
        name, asked = urllib.parse.unquote(place[1]) if place else "", self.headers.get("Range")
        self.server.requests.append((name, asked))
        path = os.path.join(self.server.root, name)
        if not name or not os.path.isfile(path):
            return self._answer(404, b"", {})
        with open(path, "rb") as file:
            data = file.read()
        if not asked:
            return self._answer(200, data, {})
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)$", asked).groups())
        part = data[first : last + 1]
        return self._answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "x-goog-generation": "1", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
