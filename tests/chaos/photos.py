"""Bombs: photos that are small to send and dear to decode must not be felt by other clients."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from app.telemetry.metrics import PREFIX
from tests.bombs import BOMBS, saved
from tests.chaos.overload import Load, Session, resident_bytes
from tests.chaos.part import Part
from tests.chaos.requests import post
from tests.conftest import drawn_png, serving_process

RATE = 10.0  # photos a second of the client that means well, whether or not it is answered
BOMBS_A_SECOND = 2.0
IN_A_BATCH = 32
SMALL = 256 << 10  # bytes of a bomb that goes into a batch: all must fit into a body
HANG_UP = 0.05  # seconds after which a client goes away
PATIENCE = 60.0  # seconds; nobody waits so long for an answer
SLOWER, FLOOR = 3.0, 0.05  # p99 under fire may be so many times the quiet p99, or so many times 50 ms: less is noise
KEPT = 100e6  # bytes by which the memory at rest may be larger afterwards
AT_REST = 20.0  # seconds in which it must be


@dataclass
class Fire:
    """What bombs were answered, by their way (single, batch, hang up); the slowest, in seconds."""

    statuses: Counter[str] = field(default_factory=Counter)
    by_bomb: dict[str, set[str]] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")


def photos_part(bundle: Path, seconds: float = 60) -> Part:
    """A client that means well: alone for a third of the time, then beside one that posts bombs.

    Under fire for two thirds of the time, or longer, so that every bomb has its turn.
    """
    part = Part("photos")
    requests = cycle_of_bombs()
    with serving_process(bundle, "--log-level", "error", "--threads", 1) as (url, process):
        asyncio.run(_good(url, 2))  # warm-up
        before = resident_bytes(process.pid)
        quiet, _, _ = asyncio.run(_stretch(url, process.pid, seconds / 3, []))
        every = len(requests) / BOMBS_A_SECOND
        fired, fire, peak = asyncio.run(_stretch(url, process.pid, max(2 * seconds / 3, every), requests))
        after = _rest(process.pid, before + KEPT)
        alive = process.poll() is None
        metrics = httpx.get(f"{url}/metrics", timeout=PATIENCE).text if alive else ""
    lost = float(metrics.partition(f"\n{PREFIX}decoders_lost_total ")[2].partition("\n")[0] or "nan")
    times = {name: [1000 * load.percentile(load.accepted, share) for share in (50, 99)] for name, load in
             (("quiet", quiet), ("under fire", fired))}  # fmt: skip
    part.figures = {
        "good_ms_p50_p99": times, "good": {"quiet": dict(quiet.statuses), "under fire": dict(fired.statuses)},
        "bombs": dict(fire.statuses), "slowest_bomb": fire.slowest, "decoders_lost": lost,
        "kinds_of_bombs": len(fire.by_bomb),
        "memory_mb": {"before": before / 1e6, "peak": peak / 1e6, "after": after / 1e6},
    }  # fmt: skip
    for name, load in (("quiet", quiet), ("under fire", fired)):
        print(f"photos, {name}: p50 {times[name][0]:.0f} ms, p99 {times[name][1]:.0f} ms; {dict(load.statuses)}")
    print(f"photos, bombs: {dict(fire.statuses)}; slowest {fire.slowest[0]:.1f} s ({fire.slowest[1]})")
    memory = f"before {before / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, after {after / 1e6:.0f} MB"
    print(f"photos, decoders: {lost:.0f} lost; memory {memory}")
    _judge(part, quiet, fired, fire)
    part.must(after <= before + KEPT, f"{(after - before) / 1e6:.0f} MB stay in memory")
    return part


def _judge(part: Part, quiet: Load, fired: Load, fire: Fire) -> None:
    for name, load in (("quiet", quiet), ("under fire", fired)):
        part.must(set(load.statuses) == {"200"}, f"a good photo, {name}, was answered otherwise: {dict(load.statuses)}")
    most = SLOWER * max(quiet.percentile(quiet.accepted, 99), FLOOR)
    slow = fired.percentile(fired.accepted, 99)
    part.must(
        slow <= most, f"good photos waited: p99 {1000 * slow:.0f} ms under fire, {1000 * most:.0f} ms are allowed"
    )
    for name, statuses in fire.by_bomb.items():
        bad = {status for status in statuses if status.startswith("500") or status in ("no answer", "not HTTP")}
        part.must(not bad, f"{name}: {sorted(bad)}")


# -- the one who means well -----------------------------------------------------------------------------------------------


async def _good(url: str, seconds: float) -> Load:
    """One photo after another at `RATE`, a small PNG and a JPEG of 2 megapixels in turn."""
    large = saved(Image.open(io.BytesIO(drawn_png(1))).convert("RGB").resize((1600, 1200)), "JPEG")
    load, sessions = Load(seconds), [Session(url, photo) for photo in (drawn_png(0), large)]
    tasks: set[asyncio.Task[None]] = set()
    began = due = time.monotonic()
    while due - began < seconds:
        due += 1 / RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.add(asyncio.create_task(sessions[len(tasks) % 2].ask(load)))
    await asyncio.gather(*tasks)
    for session in sessions:
        session.close()
    return load


async def _stretch(url: str, pid: int, seconds: float, bombs: list[tuple[str, str, bytes]]) -> tuple[Load, Fire, int]:
    """The good client, the bombs and the most memory that was seen."""
    fire, most = Fire(), [0]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], resident_bytes(pid))
            await asyncio.sleep(0.2)

    watching, throwing = asyncio.create_task(watch()), asyncio.create_task(_throw(url, bombs, fire))
    load = await _good(url, seconds)
    for task in (watching, throwing):
        task.cancel()
    await asyncio.gather(watching, throwing, return_exceptions=True)
    return load, fire, most[0]


# -- the other ------------------------------------------------------------------------------------------------------------


def cycle_of_bombs() -> list[tuple[str, str, bytes]]:
    """(name, way, request) of every bomb; of some also in a batch, or by a client that goes."""
    found: list[tuple[str, str, bytes]] = []
    for place, (name, make) in enumerate(BOMBS.items()):
        data = make()
        found.append((name, "single", post("/predict", data)))
        if place % 4 == 0 and len(data) <= SMALL:
            found.append((name, "batch", _batch(data)))
        if place % 3 == 0:
            found.append((name, "hang up", found[-1][2]))
    return found


def _batch(data: bytes) -> bytes:
    part = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + data + b"\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=cut"}
    return post("/predict/batch", part * IN_A_BATCH + b"--cut--\r\n", kind)


async def _throw(url: str, bombs: list[tuple[str, str, bytes]], fire: Fire) -> None:
    """All in turn, `BOMBS_A_SECOND`, until it is cancelled; then the answers that are due."""
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    try:
        for name, way, request in cycle(bombs):
            task = asyncio.create_task(_post(url, name, way, request, fire))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1 / BOMBS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    finally:
        await asyncio.gather(*tasks)


async def _post(url: str, name: str, way: str, request: bytes, fire: Fire) -> None:
    place, began, answer = urlsplit(url), time.monotonic(), b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(HANG_UP if way == "hang up" else PATIENCE):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(request)
                answer = await reader.read()
            finally:
                writer.close()
    took = time.monotonic() - began
    for status in _statuses(answer) if way != "hang up" or answer else ["gone"]:
        fire.statuses[f"{way}: {status}"] += 1
        fire.by_bomb.setdefault(name, set()).add(status)
    fire.slowest = max(fire.slowest, (took, f"{name}, {way}"))


def _statuses(answer: bytes) -> list[str]:
    """`200`, or status and slug; of a batch that was answered, the slug of each photo."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1."):
        return ["not HTTP" if head else "no answer"]
    status, found = head.split(b" ", 2)[1].decode(), json.loads(body) if body else {}
    one: dict[str, Any] = found if isinstance(found, dict) else {}
    if isinstance(many := one.get("results"), list):
        return sorted({str(photo.get("error_type") or status) for photo in many})
    return [f"{status} {one['error_type']}" if "error_type" in one else status]


# -- memory ---------------------------------------------------------------------------------------------------------------


def _rest(pid: int, most: float) -> int:
    """Memory once it is small again, or after `AT_REST` seconds."""
    ends = time.monotonic() + AT_REST
    while (found := resident_bytes(pid)) > most and time.monotonic() < ends:
        time.sleep(0.2)
    return found
