"""Hostile requests against a server that is started here, which must go on as if nothing had been."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from app.telemetry.metrics import PREFIX
from tests.chaos.attack import PATIENCE, attack
from tests.chaos.overload import resident_bytes
from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

GROWTH = 64e6  # bytes that the server's memory may grow under attack, after a first part that fills its caches
AT_REST = ("requests_in_flight", "photos_waiting")  # gauges that are 0 when nothing is asked


def hostile_part(
    bundle: Path, count: int, seed: int, *flags: object, growth: float = GROWTH, patience: float = PATIENCE
) -> Part:
    """`count` requests, a fifth of them to fill its caches; then it may take `growth` more bytes.

    The server has its defaults, but for `flags`; `patience`: seconds after which it is said to
    hang.
    """
    part = Part("hostile")
    with serving_process(bundle, "--log-level", "error", "--threads", 1, *flags) as (url, process):
        wanted, files = _label(url), psutil.Process(process.pid).num_fds()
        first = attack(url, count // 5, seed, patience=patience)
        before = resident_bytes(process.pid)
        began = time.monotonic()
        rest = attack(url, count - count // 5, seed + count // 5, patience=patience)
        seconds = time.monotonic() - began
        answers: Counter[tuple[str, str]] = first.answers + rest.answers
        grown = resident_bytes(process.pid) - before
        part.faults += first.faults + rest.faults
        kinds: dict[str, dict[str, int]] = {}
        for (kind, status), number in sorted(answers.items()):
            kinds.setdefault(kind, {})[status] = number
        for kind, statuses in kinds.items():
            print(f"  {kind:15} {sum(statuses.values()):5}  {statuses}")
        slowest = max(first.slowest, rest.slowest)
        print(f"hostile: {count} requests, slowest {slowest:.2f} s, memory {grown / 1e6:+.1f} MB in {seconds:.0f} s")
        part.figures = {
            "requests": count, "answers": kinds, "slowest_seconds": slowest, "memory_bytes": grown, "seconds": seconds,
        }  # fmt: skip
        part.must(grown <= growth, f"memory grew by {grown / 1e6:.0f} MB under hostile requests")
        if process.poll() is not None:
            part.faults.append(f"the server ended with {process.returncode}")
        elif _label(url) != wanted:
            part.faults.append("a good request is answered otherwise than before")
        else:
            part.faults += _left_behind(url, process.pid, files, patience)
    return part


def _left_behind(url: str, pid: int, files: int, patience: float) -> list[str]:
    """What of the attack the server still holds, once it has had time to see that the clients are
    gone.
    """
    ends = time.monotonic() + patience
    while True:
        found = []
        if (held := psutil.Process(pid).num_fds()) > files:
            found.append(f"{held - files} more open files and connections than before")
        gauges = httpx.get(f"{url}/metrics", timeout=patience, headers={"Connection": "close"}).text
        found += [f"{name} is not 0" for name in AT_REST if f"\n{PREFIX}{name} 0.0\n" not in gauges]
        if not found or time.monotonic() > ends:
            return found
        time.sleep(0.1)


def _label(url: str) -> str:
    label: str = httpx.post(f"{url}/predict", content=drawn_png(0), timeout=30).raise_for_status().json()["label"]
    return label
