"""fake_gcs.py on a port of this machine, for every client that a gs:// path goes through.

    etils without TensorFlow, gcsfs, google-cloud-storage (orbax)     STORAGE_EMULATOR_HOST
    tensorstore (orbax's arrays)                                      TENSORSTORE_GCS_HTTP_URL
    google-cloud-cpp (array_record)                                   CLOUD_STORAGE_EMULATOR_ENDPOINT
    TensorFlow (etils where it is installed, clu, TFRecord)           https_proxy and CURL_CA_BUNDLE

TensorFlow has no setting for another address: it speaks to googleapis.com through a proxy, which is this server too, with
a certificate of its own. Everything else that a process asks of that proxy is refused.

The server is a process of its own, because some clients hold Python's lock while they wait for its answer.
"""

import base64
import contextlib
import datetime
import http.server
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_gcs import Answer, Storage

# --- the process ------------------------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: Storage
    tls: ssl.SSLContext
    faults: list = []  # [pattern of a path, kind, how many times]; shared by all connections

    def do_CONNECT(self):
        """From here on this connection is one to googleapis.com."""
        if not self.path.split(":")[0].endswith(".googleapis.com"):
            return self._send(Answer(403))
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def handle(self):
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # clients are killed, and leave reads half read
            super().handle()

    def _any(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._body(headers)
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        if self.path.startswith("/_control/"):
            return self._send(self._control(self.path.removeprefix("/_control/"), json.loads(body or b"null")))
        answer = self.storage.handle(self.command, self.path, headers, body, f"{scheme}://{headers['host']}")
        kind = self._fault(answer)
        if kind == "429":
            answer = Answer(429, b'{"error": {"code": 429, "message": "rateLimitExceeded"}}', {"Retry-After": "0"})
        self._send(answer, kind)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any

    def _body(self, headers: dict) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fault(self, answer: Answer) -> str:
        """Of a read of bytes, how it goes wrong."""
        for fault in self.faults:
            pattern, kind, left = fault
            if left and self.command == "GET" and answer.status in (200, 206) and re.search(pattern, self.path):
                if "json" not in answer.headers.get("Content-Type", ""):
                    fault[2] -= 1
                    return kind
        return ""

    def _send(self, answer: Answer, fault: str = "") -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        if fault in ("reset", "slow"):
            return self._send_badly(answer.body, fault)
        self._headers_buffer.append(b"\r\n" + answer.body)  # one packet
        self.flush_headers()

    def _send_badly(self, body: bytes, fault: str) -> None:
        self.end_headers()
        if fault == "slow":
            for start in range(0, len(body), max(1, len(body) // 8)):
                self.wfile.write(body[start : start + max(1, len(body) // 8)])
                time.sleep(0.05)
            return
        self.wfile.write(body[: len(body) // 2])
        time.sleep(0.05)  # so that the half arrives before the reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _control(self, what: str, value) -> Answer:
        storage, result = self.storage, None
        if what == "objects":
            result = {name: base64.b64encode(one.data).decode() for name, one in storage.objects[value].items()}
        elif what == "put":
            bucket, name, data = value
            storage._write(bucket, name, base64.b64decode(data), {})
        elif what == "clear":
            storage.objects.clear()
            storage.log.clear()
        elif what == "log":
            result, storage.log = storage.log, []
        elif what == "held":
            result = list(storage.held.values())
        elif what == "patterns":
            storage.hold_pattern, storage.deny_writes, storage.deny_reads = value
        elif what == "faults":
            result, self.faults[:] = [list(fault) for fault in self.faults], value
        elif what == "release":
            storage.release(drop=value)
        return Answer(200, json.dumps(result).encode())

    def log_message(self, *_):
        pass


def _certificate(folder: str) -> ssl.SSLContext:
    """Of googleapis.com, signed by itself. Written to <folder>/ca.pem for those who are to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own Google")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, now - datetime.timedelta(1), now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.googleapis.com")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for file, content in (("ca.pem", public), ("server.pem", public + key.private_bytes(*encoding))):
        with open(os.path.join(folder, file), "wb") as out:
            out.write(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(folder, "server.pem"))
    return context


def _serve(folder: str) -> None:
    _Handler.storage, _Handler.tls = Storage(), _certificate(folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        print(server.server_port, flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()  # until whoever started it is gone, however that ended


# --- for the tests ----------------------------------------------------------------------------------------------------


class BucketServer:
    """The running server. Use as a context. It holds no objects in the beginning; every bucket is there, but for
    `missing...`; what kind of bucket it is may not be asked of `closed...`."""

    def __enter__(self) -> "BucketServer":
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, __file__, self._folder.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._folder.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """Brings every client here, and lets none look for this machine's own account."""
        return {
            "STORAGE_EMULATOR_HOST": self.url, "TENSORSTORE_GCS_HTTP_URL": self.url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,
            "https_proxy": self.url, "CURL_CA_BUNDLE": os.path.join(self._folder.name, "ca.pem"),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "GOOGLE_CLOUD_PROJECT": "none", "NO_GCE_CHECK": "true",
            "GOOGLE_APPLICATION_CREDENTIALS": os.path.join(self._folder.name, "none.json"),
        }  # fmt: skip

    def objects(self, bucket: str = "bucket") -> dict[str, bytes]:
        found = self._ask("objects", bucket)
        return {name: base64.b64decode(data) for name, data in sorted(found.items())}

    def put(self, name: str, data: bytes, bucket: str = "bucket") -> None:
        self._ask("put", [bucket, name, base64.b64encode(data).decode()])

    def clear(self) -> None:
        """No objects, and nothing held or denied."""
        self._ask("release", True)
        self._ask("patterns", ["", "", ""])
        self._ask("faults", [])
        self._ask("clear")

    def log(self) -> list[list[str]]:
        """The requests since the last call: [method, object, range or size]."""
        return self._ask("log")

    @contextlib.contextmanager
    def holding(self, pattern: str) -> Iterator["BucketServer"]:
        """Writes of objects whose names match wait, and are lost in the end: whoever wrote them must be killed inside."""
        self._ask("patterns", [pattern, "", ""])
        try:
            yield self
        finally:
            self._ask("release", True)

    def wait_for_held(self, seconds: float = 60) -> list[str]:
        """Names of the writes that wait, once there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if held := self._ask("held"):
                return held
            time.sleep(0.05)
        raise TimeoutError("nothing was written that is to be held")

    @contextlib.contextmanager
    def denying(self, writes: str, reads: str) -> Iterator[None]:
        """Writes, and reads, of objects whose names match are forbidden. Empty: none."""
        self._ask("patterns", ["", writes, reads])
        try:
            yield
        finally:
            self._ask("patterns", ["", "", ""])

    @contextlib.contextmanager
    def failing(self, pattern: str, kind: str, times: int) -> Iterator[list[int]]:
        """The first reads of objects whose paths match go wrong: `reset` in the middle of the bytes, answered with `429`, or
        `slow`. The list holds, at the end, how many did."""
        self._ask("faults", [[pattern, kind, times]])
        happened: list[int] = []
        try:
            yield happened
        finally:
            happened += [times - left for _, _, left in self._ask("faults", [])]

    def _ask(self, what: str, value=None):
        request = urllib.request.Request(f"{self.url}/_control/{what}", json.dumps(value).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return json.loads(opener.open(request, timeout=30).read())


if __name__ == "__main__":
    _serve(sys.argv[1])
