"""What the server says of itself: batch sizes, stage times and what it serves; nothing from servers that say nothing."""

from __future__ import annotations

import http.client
import json
import re
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load.connection import Server

PREFIX = "food_vision_"
LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
LARGEST = 4 << 20
SECONDS = 5.0
STARTED = ("process_start_time_seconds", ())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def get(server: Server, path: str, headers: Sequence[tuple[str, str]] = ()) -> bytes | None:
    """The body of a GET that answers 200, else None. No proxy, no redirect: headers may hold keys."""
    scheme = "https" if server.tls else "http"
    request = urllib.request.Request(f"{scheme}://{server.authority}{server.path}{path}", headers=dict(headers))
    try:
        with OPENER.open(request, timeout=SECONDS) as answer:
            return bytes(answer.read(LARGEST)) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None


def info(server: Server, headers: Sequence[tuple[str, str]] = ()) -> dict[str, Any] | None:
    """`GET /info` of this project's service, or None."""
    try:
        found = json.loads(get(server, "/info", headers) or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def scrape(server: Server, headers: Sequence[tuple[str, str]] = ()) -> Series | None:
    """This project's metrics as numbers by name and labels, or None where there are none."""
    text = get(server, "/metrics", headers)
    found = parse((text or b"").decode("utf-8", "replace"))
    return found if any(name.startswith(PREFIX) for name, _ in found) else None


def parse(text: str) -> Series:
    """Prometheus' text format. https://prometheus.io/docs/instrumenting/exposition_formats/"""
    found: Series = {}
    for line in text.splitlines():
        if (match := LINE.match(line)) is not None:
            name, labels, value = match.groups()
            try:
                found[name, tuple(LABEL.findall(labels or ""))] = float(value)
            except ValueError:
                continue
    return found


def between(before: Series | None, after: Series | None) -> dict[str, Any] | None:
    """What happened between two scrapes: engine calls by batch size, mean seconds of the stages, processor seconds.

    None when they are of two processes: a replica beside, or a restart.
    """
    if before is None or after is None or before.get(STARTED) != after.get(STARTED):
        return None
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    stages = {}
    for name, labels in grown:
        if name == PREFIX + "stage_seconds_count" and (count := grown[name, labels]) > 0:
            total = grown[PREFIX + "stage_seconds_sum", labels]
            stages[dict(labels)["stage"]] = {"photos": int(count), "mean_ms": round(1000 * total / count, 4)}
    return {
        "batches": _batches(grown),
        "stages": stages,
        "cpu_seconds": round(grown.get(("process_cpu_seconds_total", ()), 0.0), 3),
        "memory_bytes": after.get(("process_resident_memory_bytes", ())),
    }


def _batches(grown: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[str, Any]:
    """Mean batch size, and the share of engine calls up to each bucket's size."""
    buckets: dict[float, float] = {}
    calls = photos = 0.0
    for (name, labels), value in grown.items():
        if name == PREFIX + "batch_size_bucket":
            edge = float(dict(labels)["le"].replace("+Inf", "inf"))
            buckets[edge] = buckets.get(edge, 0.0) + value
        elif name == PREFIX + "batch_size_count":
            calls += value
        elif name == PREFIX + "batch_size_sum":
            photos += value
    edges = sorted(buckets)
    counts = np.diff([0.0, *(buckets[edge] for edge in edges)])
    sizes = {
        str(edge) if np.isinf(edge) else str(int(edge)): int(n) for edge, n in zip(edges, counts, strict=True) if n
    }
    return {
        "calls": int(calls),
        "photos": int(photos),
        "mean": round(photos / calls, 3) if calls else None,
        "upto": sizes,
    }
