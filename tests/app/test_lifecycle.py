"""Reloading under load, draining after SIGTERM, an engine that hangs: nothing accepted is lost, nothing is hidden."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine import Engine, Scores
from app.service import Service
from app.settings import load_settings
from contract.bundle import MANIFEST_FILE, read_bundle
from contract.files import sha256_file
from contract.labels import LabelSet
from tests.app.inside import Gate, running, until
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
        with httpx.Client(base_url=url, timeout=20) as session:
            while not done.is_set():
                try:
                    found.append(session.post("/predict", content=drawn_png(number)))
                except httpx.TransportError as error:
                    found.append(error)
                    time.sleep(0.05)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        done.set()
        for thread in threads:
            thread.join(30)


def names_of(folder: Path) -> tuple[str, list[str]]:
    loaded = read_bundle(folder)
    assert loaded.labels is not None
    return loaded.manifest.version, loaded.labels.names


def test_hangup_reloads_under_load_and_each_answer_is_of_one_model(bundle: Path, tmp_path: Path) -> None:
    other = with_other_labels(bundle, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(bundle)
    models = dict(names_of(folder) for folder in (bundle, other))
    with serving_process(link, "--threads", 1) as (url, process):

        def version() -> Any:
            return httpx.get(f"{url}/info").json()["model"]["version"]

        first = version()
        with load(url) as answers:
            for target in (other, bundle, other):
                until(lambda: len(answers) > 20)
                point(link, target)
                process.send_signal(signal.SIGHUP)
                until(lambda target=target: version() == names_of(target)[0])  # type: ignore[misc]
                answered = len(answers)
                until(lambda answered=answered: len(answers) > answered + 10)  # type: ignore[misc]
        bodies = [answer.json() for answer in answers if isinstance(answer, httpx.Response)]
        assert len(bodies) == len(answers) > 60, "no request was lost"
        assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} == {200}
        for body in bodies:
            assert models[body["model"]["version"]][body["class_id"]] == body["label"], "of exactly one model"
        assert {body["model"]["version"] for body in bodies} == set(models)
        assert version() != first
        assert httpx.get(f"{url}/info").json()["last_reload"]["done"] is True


def test_a_bundle_that_cannot_be_served_changes_nothing(bundle: Path, tmp_path: Path) -> None:
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
        assert httpx.post(f"{url}/predict", content=drawn_png(0)).status_code == 200
        point(link, bundle)
        assert not in_loop(app.state.service)
        assert "the bundle is the same" in httpx.get(f"{url}/info").json()["last_reload"]["said"]


def test_a_model_that_computes_wrongly_does_not_take_over(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            assert release.wait(20)
        return score(engine, pixels)

    monkeypatch.setattr(Engine, "score", held)
    answers: list[httpx.Response] = []
    with running(link, max_batch=1) as (url, app):

        def ask() -> None:
            answers.append(httpx.post(f"{url}/predict", content=drawn_png(0), timeout=20))

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
            thread.join(20)
        assert [answer.json()["model"]["version"] for answer in answers] == [old] * 3


def in_loop(service: Service) -> bool:
    """Reload from this thread, in the loop of the server's."""
    loop = service.model._scores._worker.get_loop()
    return asyncio.run_coroutine_threadsafe(service.reload(), loop).result(60)


def test_sigterm_under_load_loses_nothing(bundle: Path) -> None:
    with serving_process(bundle, "--threads", 1, "--shutdown-delay-seconds", 2) as (url, process), load(url) as answers:
        until(lambda: len(answers) > 20)
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        told = httpx.get(f"{url}/health/ready").json()
        assert told["error_type"] == "not_ready"
        assert httpx.get(f"{url}/health/live").status_code == 200, "it must not be killed for going"
        begun = len(answers)
        until(lambda: len(answers) > begun + 20)
        assert process.poll() is None, "it still answers while load balancers look elsewhere"
        assert process.wait(timeout=20) == 0
        until(lambda: isinstance(answers[-1], Exception))
    kinds = [type(answer) for answer in answers]
    last = max(i for i, kind in enumerate(kinds) if kind is httpx.Response)
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} == {200}
    assert all(isinstance(error, httpx.ConnectError | httpx.RemoteProtocolError | httpx.ReadError) for error in refused)
    lost = [error for error in answers[:last] if isinstance(error, httpx.ReadError)]
    assert not lost, "what was accepted is answered"


def test_a_second_signal_does_not_wait(bundle: Path) -> None:
    with serving_process(bundle, "--shutdown-delay-seconds", 60) as (url, process):
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - began < 10


def test_a_hanging_engine_fails_liveness_and_requests_fast(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with running(bundle, stuck_seconds=1, request_timeout_ms=3000) as (url, _):
        held = threading.Thread(target=lambda: httpx.post(f"{url}/predict", content=drawn_png(0), timeout=20))
        held.start()
        until(lambda: len(gate.calls) == 1)
        assert httpx.get(f"{url}/health/live").status_code == 200
        until(lambda: httpx.get(f"{url}/health/live").status_code == 503)
        for path in ("/health/live", "/health/ready"):
            assert httpx.get(f"{url}{path}").json()["error_type"] == "engine_stuck"
        began = time.monotonic()
        answer = httpx.post(f"{url}/predict", content=drawn_png(1))
        assert (answer.status_code, answer.json()["error_type"]) == (503, "engine_stuck")
        assert time.monotonic() - began < 0.5
        gate.open.set()
        held.join(20)
        until(lambda: httpx.get(f"{url}/health/live").status_code == 200)
        assert httpx.post(f"{url}/predict", content=drawn_png(1)).status_code == 200


def test_retry_after_is_the_time_the_queue_takes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with running(bundle, max_batch=1, max_queue=3) as (url, app):
        threads = [
            threading.Thread(target=lambda: httpx.post(f"{url}/predict", content=drawn_png(0), timeout=20))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        scores = app.state.service.model._scores
        until(lambda: len(gate.calls) == 1 and scores.depth == 3)
        scores.seconds_per_item = 2.5
        answer = httpx.post(f"{url}/predict", content=drawn_png(1))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "8")
        assert "Try again in 8 s." in answer.json()["error"]
        scores.seconds_per_item = 1000
        assert httpx.post(f"{url}/predict", content=drawn_png(1)).headers["retry-after"] == "60"
        gate.open.set()
        for thread in threads:
            thread.join(20)


def test_the_rate_is_measured(bundle: Path) -> None:
    async def run() -> float:
        service = Service(read_bundle(bundle), load_settings(bundle=bundle, threads=1))
        await service.start()
        for i in range(3):
            await service.predict(drawn_png(i), 1)
        found: float = service.model._scores.seconds_per_item
        await service.stop()
        return found

    assert 1e-5 < asyncio.run(run()) < 1
