"""An engine call that never ends: liveness says so in time, every request gets an answer, and
SIGTERM still ends it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from tests.chaos.part import Part
from tests.conftest import ROOT, drawn_png, url_once_ready

STUCK, DRAIN = 3, 5  # seconds, as set
SLACK = 5.0  # seconds: a busy machine
GROWTH = 32e6  # bytes that the server may hold more while its engine is stuck
CLIENTS = 8


def stuck_part(bundle: Path, seconds: float = 15) -> Part:
    """Hang the engine of a server for good, ask it for `seconds`, and stop it."""
    part = Part("stuck")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        flag = Path(folder) / "hang"
        flags = ("--bundle", bundle, "--port", 0, "--log-level", "error", "--threads", 1,
                 "--stuck-seconds", STUCK, "--drain-seconds", DRAIN)  # fmt: skip
        command = [sys.executable, "-m", "tests.chaos.stuck_engine", str(flag), *map(str, flags)]
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = url_once_ready(server, lambda: "see its log")
            _attack(part, server, url, flag, seconds)
        finally:
            server.kill()
            server.wait()
        log.seek(0)
        part.must("Traceback" not in log.read(), "a traceback in the log of the stuck server")
    print(f"stuck: {part.figures}")
    return part


def _attack(part: Part, server: subprocess.Popen[bytes], url: str, flag: Path, seconds: float) -> None:
    photo = drawn_png(0, size=64)
    for _ in range(20):
        httpx.post(f"{url}/predict", content=photo, timeout=60).raise_for_status()
    before = psutil.Process(server.pid).memory_info().rss
    flag.touch()
    began = time.monotonic()
    statuses: Counter[str] = Counter()
    slowest = 0.0

    def client(_: int) -> None:
        nonlocal slowest
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            try:
                statuses[str(httpx.post(f"{url}/predict", content=photo, timeout=60).status_code)] += 1
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.02)

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(client, i) for i in range(CLIENTS)]
        dead_after = None
        while time.monotonic() - began < seconds and dead_after is None:
            if httpx.get(f"{url}/health/live", timeout=60).status_code == 503:
                dead_after = round(time.monotonic() - began, 1)
            time.sleep(0.05)
        for one in clients:
            one.result()
    grown = psutil.Process(server.pid).memory_info().rss - before
    server.send_signal(signal.SIGTERM)
    stopping = time.monotonic()
    try:
        code: int | None = server.wait(DRAIN + SLACK + 30)
    except subprocess.TimeoutExpired:
        code = None
    ended = time.monotonic() - stopping
    part.figures = {
        "not_live_after_s": dead_after,
        "statuses": dict(statuses),
        "slowest_s": round(slowest, 1),
        "grown_bytes": grown,
        "ended_after_s": round(ended, 1),
        "exit_code": code,
    }
    part.must(dead_after is not None and dead_after < STUCK + SLACK, f"liveness said so after {dead_after} s")
    part.must(set(statuses) <= {"503", "504"}, f"answers other than 503 and 504: {dict(statuses)}")
    part.must(slowest < 10 + SLACK, f"a request waited for {slowest:.0f} s")
    part.must(grown <= GROWTH, f"memory grew by {grown / 1e6:.0f} MB")
    part.must(code is not None and ended < DRAIN + SLACK, f"it ended {ended:.0f} s after SIGTERM")
