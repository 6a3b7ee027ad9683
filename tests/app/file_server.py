"""A web server of one folder for tests: ranges, answers that break off, errors, tokens; and what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path; the rest says how it behaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.break_after: dict[str, list[int]] = {}  # path: bytes after which the next answers break off
        self.errors: dict[str, list[int]] = {}  # path: status codes of the next answers
        self.ranges = True
        self.token: str | None = None  # asked for, if any

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.server_address[1]}"

    def put_folder(self, path: str, folder: Path) -> None:
        """Serve the files of a folder below `path`."""
        self.files |= {f"{path}/{file.name}": file.read_bytes() for file in folder.iterdir()}


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """Answer a path."""
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        if self.path.startswith("/computeMetadata/"):
            right = self.headers.get("Metadata-Flavor") == "Google" and server.token
            self._say(200 if right else 404, json.dumps({"access_token": server.token}).encode())
            return
        if server.errors.get(self.path):
            self._say(server.errors[self.path].pop(0), b"<html>no</html>")
            return
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            self._say(403, b"no")
            return
        body = server.files.get(self.path)
        if body is None:
            self._say(404, b"no")
            return
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if begin >= len(body) > 0:
            self._say(416, b"")
            return
        self._say(206 if begin else 200, body[begin:], whole=len(body) - begin)

    def _say(self, status: int, body: bytes, whole: int | None = None) -> None:
        cuts = self.server.break_after.get(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if whole is None else whole))
        self.end_headers()
        with suppress(ConnectionError):  # who has seen enough hangs up
            self.wfile.write(body[: cuts.pop(0)] if cuts else body)
        self.close_connection = True


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server that runs."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
