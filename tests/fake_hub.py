"""A loopback stand-in for the Hugging Face hub: one data set, with faults on request."""

import hashlib
import http.server
import json
import re
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/corpus"


class FakeHub(http.server.ThreadingHTTPServer):
    """files: path -> bytes; those above 1,000 bytes are in LFS. Use as a context manager.

    Attributes: faults: path -> list of 'reset' (breaks off in mid-file), 429 or 'wrong' (other bytes), for its next requests;
    served: (path, first byte) of each request for a file's bytes.
    """

    daemon_threads = True

    def __init__(self, files):
        self.files, self.faults, self.served = files, {}, []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # resets are meant


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        if found := re.fullmatch(rf"/api/datasets/{REPO}/revision/(\S+)", path):
            known = found[1] in ("main", COMMIT)
            return self._json({"id": REPO, "sha": COMMIT, "siblings": []} if known else None)
        if path == f"/api/datasets/{REPO}/tree/{COMMIT}":
            return self._json([_entry(name, data) for name, data in self.server.files.items()])
        if path.startswith(f"/datasets/{REPO}/resolve/{COMMIT}/"):
            return self._file(path.split(f"{COMMIT}/")[1])
        return self._json(None)

    def _json(self, value):
        body = json.dumps({"error": "not found"} if value is None else value).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name):
        data, faults = self.server.files[name], self.server.faults.get(name, [])
        fault = faults.pop(0) if faults and self.command == "GET" else None
        if fault == 429:
            self.send_response(429)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else 0
        body = b"x" * len(data) if fault == "wrong" else data[begin:]
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_entry(name, data)["oid"]}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.server.served.append((name, begin))
            self.wfile.write(body[: len(body) // 2] if fault == "reset" else body)
            if fault == "reset":
                self.wfile.flush()
                self.connection.close()
        return None


def _entry(name, data):
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    entry = {"type": "file", "path": name, "size": len(data), "oid": blob}
    if len(data) > 1000:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
