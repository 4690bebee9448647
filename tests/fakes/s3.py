"""S3 over HTTP as pyarrow's S3FileSystem speaks it, in memory: put, copy, ranged get, head, list, multipart, delete.

Signatures are not checked. ``broken`` answers everything with 500, ``fails`` what it says of a method and a path.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

XML = '<?xml version="1.0" encoding="UTF-8"?>'
DATE = "2026-01-01T00:00:00.000Z"


class FakeS3:
    """A context manager; ``endpoint`` is its address."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        """``bucket/key`` to content."""
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []
        self.broken = False
        self.fails: Callable[[str, str], bool] = lambda _method, _path: False
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeS3:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: FakeS3

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        given = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"{XML}<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _body(self) -> bytes:
        body = self._chunks() if self.headers.get("Transfer-Encoding") else self._sized()
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return body
        whole, at = b"", 0
        while True:
            line_end = body.index(b"\r\n", at)
            size = int(body[at:line_end].split(b";")[0], 16)
            if size == 0:
                return whole
            whole += body[line_end + 2 : line_end + 2 + size]
            at = line_end + 2 + size + 2

    def _sized(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return whole

    def _handle(self) -> None:
        url = urlsplit(self.path)
        name, query = unquote(url.path).strip("/"), parse_qs(url.query, keep_blank_values=True)
        body = self._body()
        with self.s3.lock:
            self.s3.requests.append(f"{self.command} {self.path}")
            if self.s3.broken or self.s3.fails(self.command, self.path):
                self._error(500, "InternalError")
            elif "list-type" in query:
                self._list(name, query)
            else:
                getattr(self, f"_on_{self.command.lower()}")(name, query, body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815

    def _on_put(self, name: str, query: dict[str, list[str]], body: bytes) -> None:
        if "uploadId" in query:
            self.s3.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
        elif source := self.headers.get("x-amz-copy-source"):
            self.s3.objects[name] = self.s3.objects[unquote(source).strip("/")]
            done = f"{XML}<CopyObjectResult><ETag>tag</ETag></CopyObjectResult>".encode()
            self._answer(200, done, {"Content-Type": "application/xml"})
            return
        elif "/" in name:
            self.s3.objects[name] = body
        self._answer(200, headers={"ETag": '"tag"'})

    def _on_get(self, name: str, query: dict[str, list[str]], body: bytes) -> None:
        content = self.s3.objects.get(name)
        if content is None:
            self._error(404, "NoSuchKey")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, content, {"ETag": '"tag"'})
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "ETag": '"tag"'}
        self._answer(206, content[first : last + 1], span)

    def _on_head(self, name: str, query: dict[str, list[str]], body: bytes) -> None:
        content = self.s3.objects.get(name)
        if "/" not in name:
            self._answer(200)
        elif content is None:
            self._answer(404)
        else:
            length = {"Content-Length": str(len(content)), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            self._answer(200, headers={**length, "ETag": '"tag"'})

    def _on_post(self, name: str, query: dict[str, list[str]], body: bytes) -> None:
        if "uploads" in query:
            upload = f"upload-{len(self.s3.uploads)}"
            self.s3.uploads[upload] = {}
            found = f"<UploadId>{upload}</UploadId>"
            self._answer(
                200, f"{XML}<InitiateMultipartUploadResult>{found}</InitiateMultipartUploadResult>".encode()
            )
        elif "uploadId" in query:
            pieces = self.s3.uploads.pop(query["uploadId"][0])
            self.s3.objects[name] = b"".join(pieces[n] for n in sorted(pieces))
            self._answer(
                200,
                f"{XML}<CompleteMultipartUploadResult><ETag>tag</ETag></CompleteMultipartUploadResult>".encode(),
            )
        else:
            self._error(400, "NotImplemented")

    def _on_delete(self, name: str, query: dict[str, list[str]], body: bytes) -> None:
        self.s3.objects.pop(name, None)
        self._answer(204)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, slash = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys, folders = [], set()
        for name in sorted(self.s3.objects):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if slash and slash in rest:
                folders.add(prefix + rest.split(slash)[0] + slash)
            else:
                keys.append(key)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.s3.objects[f'{bucket}/{key}'])}</Size>"
            f"<LastModified>{DATE}</LastModified><ETag>tag</ETag></Contents>"
            for key in keys
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)
        )
        count = f"<KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._answer(
            200,
            f"{XML}<ListBucketResult><Name>{bucket}</Name>{count}{contents}{common}</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )
