"""Limits that no request escapes: deadlines while decoding, long lists, a drain that runs out, a port that is taken."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.app.inside import running, until
from tests.conftest import ROOT, drawn_png, run_module

GOOD = drawn_png(0, size=32)


@pytest.mark.parametrize("max_decoding", [8, 1])
def test_one_long_list_does_not_overload_an_idle_service(bundle: Path, max_decoding: int) -> None:
    with running(bundle, max_images=100, max_decoding=max_decoding) as (url, _):
        answer = httpx.post(f"{url}/predict/batch", files=[("images", ("a.png", GOOD))] * 100, timeout=30)
        assert [set(one) & {"error"} for one in answer.json()["results"]] == [set()] * 100


def test_head_works_where_load_balancers_ask(server: str) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"):
        assert httpx.head(f"{server}{path}").status_code == 200


def test_a_port_that_is_taken_is_one_sentence(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_module("app", "--bundle", bundle, "--port", port, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"app: Cannot listen on 127.0.0.1:{port}: ")


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_request_cut_off_by_the_drain_is_told_so(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app", "--bundle", str(bundle), "--port", str(port), "--drain-seconds", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: ready(port), seconds=30)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stalled:
        stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nabc")
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        answer = stalled.makefile("rb").read()
    output = process.communicate(timeout=20)[0]
    assert b" 503 " in answer.splitlines()[0]
    assert b'"error_type":"not_ready"' in answer
    assert process.returncode == 0, output
    assert "Traceback" not in output, output
