"""A stop at any moment is clean: while the model loads, and after everything that starts a thread."""

from __future__ import annotations

import asyncio
import base64
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.check import ready_engine
from app.protocols.json_photos import LARGE
from app.serving.service import Service
from app.settings import load_settings
from contract.bundle import read_bundle
from contract.errors import ContractError
from tests.app.inside import running, until
from tests.app.logged import logged
from tests.conftest import drawn_png


class Loading:
    """Holds the engine's load until `go` is set; then it fails, where `error` says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.error: ContractError | None = None
        real = ready_engine

        def held(*given: Any, **options: Any) -> Any:
            assert self.go.wait(60)
            if self.error is not None:
                raise self.error
            return real(*given, **options)

        monkeypatch.setattr("app.serving.model.ready_engine", held)


def test_a_signal_while_the_model_loads_has_no_request_reach_half_a_model(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = Loading(monkeypatch)
    with running(bundle, wait=False, shutdown_delay_seconds=3600) as (url, app):
        service = app.state.service
        until(lambda: service.model._pool._threads[0]._work_queue.empty())
        service.drain()
        answer = httpx.post(f"{url}/predict", content=drawn_png(0))
        assert (answer.status_code, answer.json()["error_type"]) == (503, "not_ready"), answer.text
        assert "loading" in answer.json()["error"]
        loading.go.set()
        until(lambda: service.state == "draining")
        assert httpx.get(f"{url}/health/ready").status_code == 503
        assert httpx.post(f"{url}/predict", content=drawn_png(0)).status_code == 200, "it still answers"


def test_a_signal_leaves_what_failed_as_it_is(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = Loading(monkeypatch)
    loading.error = ContractError("The provider is not there.")
    loading.go.set()

    async def story() -> None:
        service = Service(read_bundle(bundle), load_settings(bundle=bundle, threads=1, decode_processes=1))
        await service.start()
        service.drain()
        assert (service.state, service.reason) == ("failed", "The provider is not there.")
        await service.stop()

    asyncio.run(story())


def test_nothing_is_left_behind_after_large_json(bundle: Path, tmp_path: Path) -> None:
    with logged(bundle, tmp_path / "log", "--threads", 1, "--decode-processes", 1) as (url, process, lines):
        text = base64.b64encode(drawn_png(0).ljust(LARGE, b"\0")).decode()
        assert httpx.post(url, json={"inputs": text}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert [line for line in lines() if line["level"] in ("error", "ERROR")] == []
