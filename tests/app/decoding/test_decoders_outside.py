"""The decoding processes as seen from outside the service: requests, health, metrics, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.app.decoders import PHOTO, decoders
from tests.app.inside import running, until
from tests.app.photos import answer, assert_error
from tests.app.strange_decoder import BURNING
from tests.app.web.test_leaving import posted
from tests.conftest import ROOT


def test_the_service_is_not_ready_while_no_process_stays_alive(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.service.LONGEST_WITHOUT_DECODERS", 0.5)
    monkeypatch.setattr("app.decoding.pool.AGAIN_SECONDS", 0.1)
    with running(bundle, decode_processes=1) as (url, app):
        pool = app.state.service.model._decoder
        command, pool._command = pool._command, [sys.executable, "-c", ""]
        decoders()[0].kill()
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        refused = httpx.post(f"{url}/predict", content=PHOTO)
        assert "no process that decodes photos stays alive" in assert_error(refused, "not_ready")
        pool._command = command
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        assert httpx.post(f"{url}/predict", content=PHOTO).status_code == 200


def test_a_stop_does_not_wait_for_processes_that_are_not_ready(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.decoding.pool.PROGRAM", ("-c", "import time; time.sleep(120)"))
    monkeypatch.setattr("app.decoding.pool.START_SECONDS", 120)  # longer than `running` waits for the end
    with running(bundle, wait=False) as (url, app):
        until(lambda: app.state.service.reason == "waiting for the processes that decode photos")
        assert "waiting for the processes" in httpx.get(f"{url}/health/ready").json()["error"]


def test_it_is_seen_from_outside(bundle: Path) -> None:
    with running(bundle, decode_processes=1) as (url, _):
        decoders()[0].kill()
        until(lambda: httpx.post(f"{url}/predict", content=PHOTO).status_code == 200)
        (one,) = decoders()
        one.suspend()  # so that its memory is the same when we ask
        metrics, memory = httpx.get(f"{url}/metrics").text, one.memory_info().rss
    assert "food_vision_decoders_lost_total 1.0" in metrics
    told = next(line for line in metrics.splitlines() if line.startswith("food_vision_decoders_memory_bytes "))
    assert float(told.split()[1]) == pytest.approx(memory, rel=0.5), "in bytes; the system may take some pages back"


def test_a_request_whose_decoder_dies_is_answered_by_the_next(bundle: Path) -> None:
    with running(bundle, decode_processes=1) as (url, app), ThreadPoolExecutor(1) as threads:
        victim = decoders()[0]
        victim.suspend()
        asked = threads.submit(httpx.post, f"{url}/predict", content=PHOTO)
        (its_side,) = app.state.service.model._decoder._decoders
        until(lambda: len(its_side.jobs) == 1)
        victim.kill()
        assert "confidence" in answer(asked.result())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_none_outlives_the_service(bundle: Path, number: int) -> None:
    command = [sys.executable, "-m", "app", "--bundle", str(bundle), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: bool(decoders(process.pid)))
    assert process.stderr is not None
    for line in process.stderr:
        if "ready on" in line:
            break
    children = decoders(process.pid)
    for child in children:
        until(lambda child=child: Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "900\n")  # type: ignore[misc]
    if number == signal.SIGKILL:
        children[0].suspend()  # one that hangs
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    log = process.communicate(timeout=60)[1]
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone) > 0, alive) == (True, [])
    assert "Traceback" not in log


def test_slow_photos_and_a_deadline(bundle: Path) -> None:
    with running(bundle, decode_processes=1, request_timeout_ms=300) as (url, _):
        decoders()[0].suspend()
        assert_error(httpx.post(f"{url}/predict", content=PHOTO), "deadline_exceeded")
        until(lambda: httpx.post(f"{url}/predict", content=PHOTO).status_code == 200)


@pytest.mark.usefixtures("strange")
def test_a_photo_that_costs_too_much_is_told_and_counted(bundle: Path) -> None:
    with running(bundle, decode_processes=1, decode_cpu_ms=100) as (url, _):
        told = assert_error(httpx.post(f"{url}/predict", content=BURNING, timeout=60), "image_too_costly")
        assert "100 ms of processor time" in told
        assert httpx.post(f"{url}/predict", content=PHOTO).status_code == 200
        metrics = httpx.get(f"{url}/metrics").text
    assert "food_vision_decoders_lost_total 1.0" in metrics
    assert 'food_vision_rejected_total{reason="image_too_costly"} 1.0' in metrics


@pytest.mark.parametrize("photos", [1, 3])
def test_decoding_ends_when_the_client_leaves(bundle: Path, photos: int) -> None:
    with running(bundle, decode_processes=1) as (url, app):
        pool, (busy,) = app.state.service.model._decoder, decoders()
        busy.suspend()
        with posted(url, photos):
            until(lambda: any(one.jobs for one in pool._decoders))
        until(lambda: [one.ready for one in pool._decoders if one.process.pid != busy.pid] == [True])
        assert httpx.post(f"{url}/predict", content=PHOTO).status_code == 200
        assert "food_vision_decoders_lost_total 0.0" in httpx.get(f"{url}/metrics").text
