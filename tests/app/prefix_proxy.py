"""A proxy that serves a service below a prefix, as nginx would: for tests alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

# Of one connection, or said anew by who sends the answer.
HOP = {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"}


@contextmanager
def behind_proxy(service: str, prefix: str, *, strips: bool, says: str | None = None) -> Iterator[str]:
    """The address of the proxy, without the prefix. It says what to the service in `X-Forwarded-Prefix`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path != prefix and not self.path.startswith(f"{prefix}/"):
                self.reply(404, {}, b"outside of the prefix")
                return
            path = self.path.removeprefix(prefix) if strips else self.path
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            if says is not None:
                headers["X-Forwarded-Prefix"] = says
            answer = client.request(self.command, f"{service}{path}", headers=headers, content=body)
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            self.reply(answer.status_code, kept, answer.content)

        do_GET = do_HEAD = do_POST = answer

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with httpx.Client(timeout=60, headers={"Accept-Encoding": "identity"}) as client:
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}"
        finally:
            proxy.shutdown()
            thread.join()
            proxy.server_close()
