"""A stand-in for S3 on loopback: enough of its protocol for pyarrow to list, read and write, and objects in memory.

Objects appear only when they are whole, as in S3: by one PUT, or when a multipart upload is completed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Objects = dict[str, bytes]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: Objects  # by "bucket/key"
    parts: dict[str, dict[int, bytes]]  # of uploads that are not completed
    broken: set[str]  # methods that answer 403

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _where(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).strip("/"), query

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            data = b"".join(pieces)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        found, at = b"", 0  # size in hex[;signature] CRLF data CRLF, up to one of size 0
        while True:
            end = data.index(b"\r\n", at)
            size = int(data[at:end].split(b";")[0], 16)
            if not size:
                return found
            found, at = found + data[end + 2 : end + 2 + size], end + 4 + size

    def _refused(self) -> bool:
        if self.command not in self.broken:
            return False
        self._body()
        self._answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        return True

    def do_GET(self) -> None:
        """An object, a part of it, or a list."""
        path, query = self._where()
        if self._refused():
            return
        if "list-type" in query:
            self._list(path, query)
        elif path not in self.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")
        else:
            data = self.objects[path]
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if found is None:
                self._answer(200, data, ETag='"x"')
                return
            first, last = int(found[1]), min(int(found[2]), len(data) - 1)
            if first >= len(data):
                self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            else:
                self._answer(206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", ETag='"x"')

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        start, delimiter = f"{bucket}/{query.get('prefix', '')}", query.get("delimiter", "")
        keys, folders = [], set()
        for path, data in sorted(self.objects.items()):
            if path.startswith(start):
                rest = path[len(start) :]
                if delimiter and delimiter in rest:
                    folders.add(path[len(bucket) + 1 : len(start)] + rest.split(delimiter)[0] + delimiter)
                else:
                    keys.append((path[len(bucket) + 1 :], len(data)))
        body = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
            for key, size in keys
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        count = len(keys) + len(folders)
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{count}</KeyCount>{body}</ListBucketResult>".encode(),
        )

    def do_HEAD(self) -> None:
        """Size of an object; a bucket is always there."""
        path, _ = self._where()
        if self._refused():
            return
        if "/" not in path:
            self._answer(200, x_amz_bucket_region="us-east-1")
        elif path in self.objects:
            self._answer(
                200, Content_Length=len(self.objects[path]), ETag='"x"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT"
            )
        else:
            self._answer(404)

    def do_PUT(self) -> None:
        """A whole object, or a part of an upload."""
        path, query = self._where()
        if self._refused():
            return
        data = self._body()
        if "partNumber" in query:
            self.parts.setdefault(path, {})[int(query["partNumber"])] = data
        else:
            self.objects[path] = data
        self._answer(200, ETag='"x"')

    def do_POST(self) -> None:
        """Begin an upload, or complete it."""
        path, query = self._where()
        self._body()
        if "uploads" in query:
            self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
        else:
            self.objects[path] = b"".join(data for _, data in sorted(self.parts.pop(path).items()))
            self._answer(200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")


class Bucket:
    """The running stand-in: its `objects`, the environment that makes pyarrow use it, and methods to refuse."""

    def __init__(self, port: int, objects: Objects, broken: set[str]) -> None:
        self.objects, self.broken = objects, broken
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip


@contextmanager
def bucket() -> Iterator[Bucket]:
    """A stand-in on a free port, empty."""
    objects: Objects = {}
    broken: set[str] = set()
    handler = type("Handler", (_Handler,), {"objects": objects, "parts": {}, "broken": broken})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Bucket(server.server_address[1], objects, broken)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
