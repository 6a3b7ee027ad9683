"""An engine call that never ends does not keep the server from ending."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.app.inside import until
from tests.conftest import ROOT, drawn_png, url_once_ready


def test_sigterm_ends_a_server_whose_engine_hangs(bundle: Path, tmp_path: Path) -> None:
    flag, log = tmp_path / "hang", tmp_path / "log"
    flags = ("--bundle", bundle, "--port", 0, "--threads", 1, "--stuck-seconds", 1, "--drain-seconds", 1)
    command = [sys.executable, "-m", "tests.chaos.stuck_engine", str(flag), *map(str, flags)]
    with log.open("wb") as out, ThreadPoolExecutor(1) as thread:
        server = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            url = url_once_ready(server, log.read_text)
            flag.touch()
            asked = thread.submit(httpx.post, f"{url}/predict", content=drawn_png(0, size=64), timeout=60)
            until(lambda: httpx.get(f"{url}/health/live", timeout=60).status_code == 503)
            server.send_signal(signal.SIGTERM)
            assert asked.result().status_code == 503
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()
    assert "an engine call has not ended" in log.read_text()
    assert "Traceback" not in log.read_text()
