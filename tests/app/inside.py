"""A server inside the test process, so that a test can hold its engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from app.engine.engine import Engine, Scores
from app.server import create_app
from app.serving.model import ServedModel
from app.settings import load_settings
from app.telemetry.observe import refused_unread
from app.web.connection import connection_class
from app.web.keys import HEALTH_PATHS
from app.web.places import Places
from contract.bundle import read_bundle
from contract.pixels import Pixels

# a busy machine is no error
PATIENT = {"request_timeout_ms": 60_000, "body_timeout_ms": 60_000}


class Gate:
    """Replaces `Engine.score`: remembers the size of each call, and holds it until `open` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self.open = threading.Event()
        self.error: Exception | None = None
        real = Engine.score

        def score(engine: Engine, pixels: Pixels) -> Scores:
            self.calls.append(len(pixels))
            assert self.open.wait(60)
            if self.error is not None:
                raise self.error
            return real(engine, pixels)

        monkeypatch.setattr(Engine, "score", score)


def clockless(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are known to take no time, so that nothing is refused for want of it; deadlines pass as ever."""
    for batcher in (model._scores, model._captions):
        monkeypatch.setattr(batcher, "_clock", lambda: 0.0)
        batcher.times.end(batcher.times.begin(1))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@contextmanager
def running(bundle: Path, *, wait: bool = True, **settings: Any) -> Iterator[tuple[str, FastAPI]]:
    """URL and application of a server in a thread; with `wait`, once the model is ready or has failed."""
    chosen = load_settings(bundle=bundle, threads=1, **PATIENT | settings)
    app = create_app(read_bundle(bundle), chosen)
    connection = connection_class(
        chosen.body_timeout_ms / 1000,
        partial(refused_unread, app.state.metrics),
        Places(chosen.max_connections),
        HEALTH_PATHS | app.state.probed,
    )
    config = uvicorn.Config(app, port=0, http=connection, ws="none", log_config=None, timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        if wait:
            until(lambda: app.state.service.state != "starting")
        yield f"http://127.0.0.1:{port}", app
    finally:
        server.should_exit = True
        thread.join(60)
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    assert not thread.is_alive()
