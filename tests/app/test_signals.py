"""A signal at any moment: SIGTERM and Ctrl-C end the process with 0, SIGHUP ends nothing, and nobody sees a traceback."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.server import create_app
from app.settings import load_settings
from contract.bundle import read_bundle
from tests.app.held_start import HELD, PLACES
from tests.app.inside import until
from tests.conftest import ROOT, drawn_png, url_once_ready

Process = subprocess.Popen[bytes]
BEFORE = ("imports", "reading", "loading", "warming", "checking")
AFTER = ("scoring", "rereading", "reloading", "leaving")


@contextmanager
def held(place: str, bundle: Path, log: Path, drain: int = 1) -> Iterator[tuple[Process, Callable[[], str]]]:
    """A service that will be held at this place, and what it has logged so far."""
    flags = ("--bundle", bundle, "--port", 0, "--threads", 1, "--decode-processes", 1, "--drain-seconds", drain)
    command = [sys.executable, "-m", "tests.app.held_start", place, *map(str, flags)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield process, lambda: log.read_text(encoding="utf-8")
        finally:
            process.kill()
            process.communicate()


def there(process: Process) -> None:
    """Wait until it is held."""
    assert process.stdout is not None
    assert process.stdout.readline() == HELD.encode()


def ended(process: Process, log: Callable[[], str]) -> None:
    """It ends well, by itself."""
    assert process.wait(60) == 0, log()
    assert "Traceback" not in log()


def test_every_place_has_a_story() -> None:
    assert {*BEFORE, *AFTER} == set(PLACES)


@pytest.mark.parametrize("place", BEFORE)
def test_a_stop_before_it_is_ready(place: str, bundle: Path, tmp_path: Path) -> None:
    with held(place, bundle, tmp_path / "log") as (process, log):
        there(process)
        process.send_signal(signal.SIGHUP)  # ends nothing
        process.send_signal(signal.SIGTERM)  # the system hands the lower number over first: that of the hangup
        ended(process, log)


@pytest.mark.parametrize("place", ["imports", "reading", "loading"])
def test_ctrl_c_before_it_is_ready(place: str, bundle: Path, tmp_path: Path) -> None:
    with held(place, bundle, tmp_path / "log") as (process, log):
        there(process)
        process.send_signal(signal.SIGINT)
        ended(process, log)


@pytest.mark.parametrize("place", ["rereading", "reloading"])
def test_a_stop_while_a_reload_hangs(place: str, bundle: Path, tmp_path: Path) -> None:
    with held(place, bundle, tmp_path / "log") as (process, log):
        url = url_once_ready(process, log)
        process.send_signal(signal.SIGHUP)
        there(process)
        assert httpx.post(f"{url}/predict", content=drawn_png(0, size=64)).status_code == 200, "the old one serves"
        process.send_signal(signal.SIGTERM)
        ended(process, log)


@pytest.mark.parametrize(("drain", "presses"), [(1, 1), (3600, 2)])
def test_ctrl_c_while_an_engine_hangs(drain: int, presses: int, bundle: Path, tmp_path: Path) -> None:
    with held("scoring", bundle, tmp_path / "log", drain) as (process, log), ThreadPoolExecutor(1) as thread:
        url = url_once_ready(process, log)
        asked = thread.submit(httpx.post, f"{url}/predict", content=drawn_png(0, size=64))
        there(process)
        process.send_signal(signal.SIGINT)
        if presses == 2:
            until(lambda: "Waiting for connections to close" in log())
            process.send_signal(signal.SIGINT)
        ended(process, log)
        assert isinstance(asked.exception(60), httpx.TransportError) or asked.result().status_code == 503


def test_whatever_comes_while_python_ends_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    with held("leaving", bundle, tmp_path / "log") as (process, log):
        url_once_ready(process, log)
        process.send_signal(signal.SIGTERM)
        there(process)
        ended(process, log)


def test_a_hangup_that_came_too_early_counts_later(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(read_bundle(bundle), load_settings(bundle=bundle, threads=1, decode_processes=1))

    async def story() -> None:
        came = asyncio.Event()
        monkeypatch.setattr(app.state.service, "reload_soon", came.set)
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(came.wait(), 60)
        signal.raise_signal(signal.SIGHUP)  # one that comes too late ends nothing

    handler = signal.getsignal(signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # as the service does before its imports
    try:
        signal.raise_signal(signal.SIGHUP)
        asyncio.run(story())
    finally:
        signal.signal(signal.SIGHUP, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
