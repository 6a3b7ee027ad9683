"""Limits that no request escapes: deadlines while decoding, long lists, a drain that runs out, a port that is taken."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.__main__ import main
from app.telemetry.metrics import PREFIX
from tests.app.inside import running, until
from tests.conftest import drawn_png, serving_process

GOOD = drawn_png(0, size=32)


@pytest.mark.parametrize("max_decoding", [8, 1])
def test_one_long_list_does_not_overload_an_idle_service(bundle: Path, max_decoding: int) -> None:
    with running(bundle, max_images=100, max_decoding=max_decoding) as (url, _):
        answer = httpx.post(f"{url}/predict/batch", files=[("images", ("a.png", GOOD))] * 100)
        assert [set(one) & {"error"} for one in answer.json()["results"]] == [set()] * 100


def test_head_works_where_load_balancers_ask(server: str) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"):
        assert httpx.head(f"{server}{path}").status_code == 200


def test_a_port_that_is_taken_is_one_sentence(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--bundle", str(bundle), "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"app: Cannot listen on 127.0.0.1:{port}: ")


def test_a_request_cut_off_by_the_drain_is_told_so(bundle: Path) -> None:
    flags = ("--threads", 1, "--decode-processes", 1, "--drain-seconds", 1, "--body-timeout-ms", 60_000)
    with (
        serving_process(bundle, *flags) as (url, process),
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=60) as stalled,
    ):
        stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nabc")
        until(lambda: f"\n{PREFIX}requests_in_flight 1.0\n" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        answer = stalled.makefile("rb").read()
        assert process.wait(60) == 0
    assert b" 503 " in answer.splitlines()[0]
    assert b'"error_type":"not_ready"' in answer
