"""Processes that decode photos are killed, one every second and sometimes all, under a steady
load of good requests.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from app.telemetry.metrics import PREFIX
from tests.app.decoders import decoders
from tests.chaos.overload import open_loop
from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

RATE = 20.0  # good requests a second
GROWTH = 32e6  # bytes that the server and its processes may hold more afterwards
PATIENCE = 30.0  # seconds, until the processes are back, or the connections closed


def decoders_part(bundle: Path, seconds: float = 30) -> Part:
    """Every request is answered 200, and the processes are back; memory and open files are flat."""
    part, photo, rng = Part("decoders"), drawn_png(0, size=64), random.Random(0)
    backs: list[float] = []
    deaths = 0
    flags = ("--log-level", "error", "--threads", 1)
    with serving_process(bundle, *flags) as (url, server), ThreadPoolExecutor(1) as thread:
        open_loop(url, photo, RATE, 3)
        whole = len(decoders(server.pid))
        before, files = _bytes(server.pid), psutil.Process(server.pid).num_fds()
        load = thread.submit(open_loop, url, photo, RATE, seconds)
        while not load.done():
            time.sleep(1)
            victims = decoders(server.pid)
            victims = victims if rng.random() < 0.2 else victims[:1]
            for one in victims:
                one.kill()
            deaths += len(victims)
            backs.append(_until(lambda: _ready(server.pid) == whole))
        found = load.result()
        _until(lambda: psutil.Process(server.pid).num_fds() <= files)
        grown, open_files = _bytes(server.pid) - before, psutil.Process(server.pid).num_fds() - files
        _until(lambda: _metric(url, "decoders_lost_total") >= deaths)  # the last one may just have been killed
        counted = _metric(url, "decoders_lost_total")
    part.figures = {
        "statuses": dict(found.statuses),
        "p50_ms": round(1000 * found.percentile(found.accepted, 50), 1),
        "p99_ms": round(1000 * found.percentile(found.accepted, 99), 1),
        "deaths": deaths,
        "back_median_s": round(sorted(backs)[len(backs) // 2], 2),
        "back_longest_s": round(max(backs), 2),
        "grown_bytes": grown,
        "more_open_files": open_files,
    }
    print(f"decoders: {part.figures}")
    part.must(set(found.statuses) == {"200"}, f"answers other than 200 while decoders died: {dict(found.statuses)}")
    part.must(max(backs) < PATIENCE, "the processes that decode were not back")
    part.must(counted == deaths, f"{counted:.0f} deaths were counted of {deaths}")
    part.must(grown <= GROWTH, f"memory grew by {grown / 1e6:.0f} MB")
    part.must(open_files <= 0, f"{open_files} more open files and connections than before")
    return part


def _until(holds: Callable[[], bool]) -> float:
    """Seconds until it holds, `PATIENCE` at most."""
    began = time.monotonic()
    while not holds() and time.monotonic() - began < PATIENCE:
        time.sleep(0.01)
    return time.monotonic() - began


def _ready(server: int) -> int:
    """How many have imported what they need: they then say that the kernel should end them
    first.
    """
    found = 0
    for one in decoders(server):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{one.pid}/oom_score_adj").read_text() == "900\n"
    return found


def _bytes(server: int) -> int:
    found = 0
    for one in (psutil.Process(server), *decoders(server)):
        with contextlib.suppress(psutil.Error):
            found += one.memory_info().rss
    return found


def _metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", headers={"Connection": "close"}, timeout=PATIENCE).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{PREFIX}{name} ")))
