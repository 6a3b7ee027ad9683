"""Reloading under load, draining after SIGTERM, an engine that hangs: nothing accepted is lost, nothing is hidden."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
import uvicorn

from app.__main__ import Server
from app.engine.engine import Engine, Scores
from app.serving.service import Service
from contract.bundle import MANIFEST_FILE, read_bundle
from contract.files import sha256_file
from contract.labels import LabelSet
from tests.app.inside import Gate, running, until
from tests.app.logged import logged
from tests.app.serving.test_stop import Loading
from tests.conftest import drawn_png, serving_process


def with_other_labels(bundle: Path, folder: Path) -> Path:
    """The same graphs with the labels in reverse order: another model, whose answers can be told apart."""
    shutil.copytree(bundle, folder)
    labels = read_bundle(bundle).labels
    assert labels is not None
    LabelSet.from_names(list(reversed(labels.names))).save(folder / "labels.json")
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    file = folder / "labels.json"
    manifest["files"]["labels.json"] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def point(link: Path, target: Path) -> None:
    """Let the symbolic link point elsewhere, at once."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    os.replace(fresh, link)


@contextmanager
def load(url: str, clients: int = 4) -> Iterator[list[httpx.Response | Exception]]:
    """Clients that post pictures one after the other until the block ends; every answer or failure, in order."""
    found: list[httpx.Response | Exception] = []
    done = threading.Event()

    def client(number: int) -> None:
        photo = drawn_png(number)
        with httpx.Client(base_url=url) as session:
            while not done.is_set():
                try:
                    found.append(session.post("/predict", content=photo))
                except httpx.TransportError as error:
                    found.append(error)
                    done.wait(0.05)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


def names_of(folder: Path) -> tuple[str, list[str]]:
    loaded = read_bundle(folder)
    assert loaded.labels is not None
    return loaded.manifest.version, loaded.labels.names


def test_hangup_reloads_under_load_and_each_answer_is_of_one_model(bundle: Path, tmp_path: Path) -> None:
    other = with_other_labels(bundle, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(bundle)
    models = dict(names_of(folder) for folder in (bundle, other))
    with serving_process(link, "--threads", 1, "--decode-processes", 1) as (url, process):

        def version() -> Any:
            return httpx.get(f"{url}/info").json()["model"]["version"]

        first = version()
        with load(url) as answers:
            until(lambda: len(answers) > 10)
            for target in (other, bundle, other):
                point(link, target)
                process.send_signal(signal.SIGHUP)
                until(lambda target=target: version() == names_of(target)[0])  # type: ignore[misc]
                answered = len(answers)
                until(lambda answered=answered: len(answers) > answered + 10)  # type: ignore[misc]
        bodies = [answer.json() for answer in answers if isinstance(answer, httpx.Response)]
        assert len(bodies) == len(answers) > 40, "no request was lost"
        assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} == {200}
        for body in bodies:
            assert models[body["model"]["version"]][body["class_id"]] == body["label"], "of exactly one model"
        assert {body["model"]["version"] for body in bodies} == set(models)
        assert version() != first
        assert httpx.get(f"{url}/info").json()["last_reload"]["done"] is True


def test_a_hangup_while_the_model_loads_reloads_afterwards(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_other_labels(bundle, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(bundle)
    loading = Loading(monkeypatch)
    with running(link, wait=False) as (url, app), ThreadPoolExecutor(1) as thread:
        asked = thread.submit(in_loop, app.state.service)
        until(lambda: bool(app.state.service._reloads))
        point(link, other)
        loading.go.set()
        assert asked.result(60)
        assert httpx.get(f"{url}/info").json()["model"]["version"] == names_of(other)[0]


def test_several_photos_are_answered_by_the_model_that_began_them(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle)
    with running(link) as (url, app), ThreadPoolExecutor(1) as thread:
        gate, files = Gate(monkeypatch), [("images", drawn_png(i)) for i in range(2)]
        asked = thread.submit(httpx.post, f"{url}/predict/batch", files=files, timeout=60)
        until(lambda: bool(gate.calls))
        point(link, with_other_labels(bundle, tmp_path / "other"))
        reloading = threading.Thread(target=in_loop, args=(app.state.service,))
        reloading.start()
        until(lambda: bool(app.state.service._retiring) or not reloading.is_alive())
        gate.open.set()
        reloading.join()
        answer = asked.result().json()
        assert {one["model"]["version"] for one in answer["results"]} == {names_of(bundle)[0]}, answer


def test_a_bundle_that_cannot_be_served_changes_nothing(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = with_other_labels(bundle, tmp_path / "other")
    (other / "encoder.onnx").write_bytes(b"damaged")
    link = tmp_path / "current"
    link.symlink_to(bundle)
    with running(link) as (url, app):
        before = httpx.get(f"{url}/info").json()["model"]
        point(link, other)
        assert not in_loop(app.state.service)
        after = httpx.get(f"{url}/info").json()
        assert after["model"] == before
        assert "encoder.onnx has 7 bytes" in after["last_reload"]["said"]
        assert [bool(one.exc_info) for one in caplog.records if "reload failed" in one.message] == [False]
        assert httpx.post(f"{url}/predict", content=drawn_png(0)).status_code == 200
        point(link, bundle)
        assert not in_loop(app.state.service)
        assert "the bundle is the same" in httpx.get(f"{url}/info").json()["last_reload"]["said"]


def test_a_model_that_computes_wrongly_does_not_take_over(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = with_other_labels(bundle, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(bundle)

    def fails(engine: Engine) -> None:
        raise MemoryError("The GPU has no memory for encoder.onnx")

    with running(link) as (url, app):
        point(link, other)
        monkeypatch.setattr(Engine, "warm_up", fails)
        assert not in_loop(app.state.service)
        assert "no memory" in httpx.get(f"{url}/info").json()["last_reload"]["said"]
        assert [bool(one.exc_info) for one in caplog.records if "reload failed" in one.message] == [True]
        assert httpx.get(f"{url}/health/ready").status_code == 200
        assert httpx.post(f"{url}/predict", content=drawn_png(0)).status_code == 200


def test_what_had_begun_is_answered_by_the_old_model(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_other_labels(bundle, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(bundle)
    old, release, begun, score = names_of(bundle)[0], threading.Event(), threading.Event(), Engine.score

    def held(engine: Engine, pixels: Any) -> Scores:
        if engine.bundle.manifest.version == old:
            begun.set()
            assert release.wait(60)
        return score(engine, pixels)

    monkeypatch.setattr(Engine, "score", held)
    answers: list[httpx.Response] = []
    with running(link, max_batch=1) as (url, app):

        def ask() -> None:
            answers.append(httpx.post(f"{url}/predict", content=drawn_png(0)))

        threads = [threading.Thread(target=ask) for _ in range(3)]  # one in the engine, two in its queue
        for thread in threads:
            thread.start()
        until(lambda: begun.is_set() and app.state.service.model._scores.depth == 2)
        point(link, other)
        assert in_loop(app.state.service)
        new = httpx.post(f"{url}/predict", content=drawn_png(0)).json()
        assert new["model"]["version"] == names_of(other)[0], "the new one does not wait for the old"
        release.set()
        for thread in threads:
            thread.join(60)
        assert [answer.json()["model"]["version"] for answer in answers] == [old] * 3


def in_loop(service: Service) -> bool:
    """Reload from this thread, in the loop of the server's."""
    loop = service.model._scores._worker.get_loop()
    return asyncio.run_coroutine_threadsafe(service.reload(), loop).result(60)


def test_the_end_of_the_delay_is_no_third_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = MagicMock()
    monkeypatch.setattr("app.__main__.threading.Timer", timer)
    server = Server(uvicorn.Config("no:app"))
    server.delay = 10
    for _ in range(2):
        server.handle_exit(signal.SIGINT, None)
    _, ends, given = timer.call_args.args
    ends(*given)
    timer.assert_called_once()
    assert (server.should_exit, server.force_exit) == (True, False), "it still waits for requests"


def test_sigterm_under_load_loses_nothing_and_a_second_does_not_wait(bundle: Path, tmp_path: Path) -> None:
    flags = ("--threads", 1, "--decode-processes", 1, "--shutdown-delay-seconds", 3600)
    with logged(bundle, tmp_path / "log", *flags) as (url, process, lines), load(url) as answers:
        until(lambda: len(answers) > 10)
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        told = httpx.get(f"{url}/health/ready").json()
        assert told["error_type"] == "not_ready"
        assert httpx.get(f"{url}/health/live").status_code == 200, "it must not be killed for going"
        begun = len(answers)
        until(lambda: len(answers) > begun + 10)
        assert process.poll() is None, "it still answers while load balancers look elsewhere"
        told = [answer.headers.get("connection") for answer in answers if isinstance(answer, httpx.Response)]
        assert len(told) == len(answers)
        assert (told[0], told[-1]) == (None, "close"), "clients that keep their connection must leave too"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        until(lambda: isinstance(answers[-1], Exception))
    answered = [answer for answer in answers if isinstance(answer, httpx.Response)]
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert {answer.status_code for answer in answered} == {200}
    assert all(isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) for error in refused)
    # A connection that the server had not read yet may be reset; what reached it is in its log.
    reached = [line["outcome"] for line in lines() if line.get("route") == "/predict"]
    assert reached == ["ok"] * len(answered), "what was accepted is answered"


@pytest.mark.parametrize("delay", [7, 0])
def test_the_first_signal_ends_the_server_after_the_delay(delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[float, Callable[..., None], Any]] = []
    monkeypatch.setattr(threading, "Timer", lambda *given: SimpleNamespace(start=lambda: begun.append(given)))
    server, told = Server(uvicorn.Config("none:app")), threading.Event()
    server.before_exit, server.delay = told.set, delay
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit == (delay == 0)
    assert told.is_set() == (delay > 0)
    assert [seconds for seconds, *_ in begun] == [delay] * (delay > 0)
    for _, function, arguments in begun:
        function(*arguments)
    assert server.should_exit


def test_a_hanging_engine_fails_liveness_and_requests_fast(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, now = Gate(monkeypatch), [0.0]
    monkeypatch.setattr("app.engine.pool.time", SimpleNamespace(monotonic=lambda: now[0]))
    with running(bundle, stuck_seconds=5, request_timeout_ms=3_600_000) as (url, app), ThreadPoolExecutor(1) as pool:
        held = pool.submit(httpx.post, f"{url}/predict", content=drawn_png(0))
        until(lambda: len(gate.calls) == 1)
        now[0] = 5.0
        assert httpx.get(f"{url}/health/live").status_code == 200
        now[0] = 5.1
        for path in ("/health/live", "/health/ready"):
            answer = httpx.get(f"{url}{path}")
            assert (answer.status_code, answer.json()["error_type"]) == (503, "engine_stuck")
        answer = httpx.post(f"{url}/predict", content=drawn_png(1))  # it would wait for an hour
        assert (answer.status_code, answer.json()["error_type"]) == (503, "engine_stuck")
        assert app.state.service.model._scores.depth == 0, "it was not queued"
        gate.open.set()
        assert held.result().status_code == 200
        until(lambda: httpx.get(f"{url}/health/live").status_code == 200)
        assert httpx.post(f"{url}/predict", content=drawn_png(1)).status_code == 200
