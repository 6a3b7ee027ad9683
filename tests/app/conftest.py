"""Helpers of the service's tests: encoded pictures, the error shape, and a service inside the test's process."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from app.errors import ERRORS
from app.server import create_app
from app.service import Service
from app.settings import Settings
from contract.bundle import read_bundle


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The image as a file of the given format."""
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def assert_error(answer: httpx.Response, slug: str) -> None:
    """The answer is the error `slug`: its status of the table, and a body of the one shape."""
    body = answer.json()
    assert (answer.status_code, body.get("error_type")) == (ERRORS[slug].status, slug), answer.text
    assert set(body) == {"error", "error_type"}
    assert body["error"].endswith(".")
    assert "\n" not in body["error"]


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def local_service(bundle: Path, *, ready: bool = True, **settings: Any) -> Iterator[tuple[str, Service, list[str]]]:
    """Serve in a thread of this process: base URL, the service (to slow or break its engine), and failures."""
    failures: list[str] = []
    values = Settings(bundle=bundle, port=0, threads=1, drain_seconds=5, **settings)
    app = create_app(read_bundle(bundle), values, on_failure=failures.append)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        service: Service = app.state.service
        wait_until(lambda: server.started and service.state != "starting")
        assert (service.state == "ready") is ready, service.reason
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}", service, failures
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
