"""Sends hostile requests to one server and judges its answers."""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.chaos.requests import Hostile, hostile

PATIENCE = 20.0  # seconds; nothing takes so long but a server that hangs


@dataclass
class Verdict:
    """Answers by kind of request and status ("closed": the server hung up), the slowest, and what must not happen."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


def attack(url: str, count: int, first_seed: int = 0, clients: int = 8, patience: float = PATIENCE) -> Verdict:
    """Send the requests of `count` seeds; no answer may be a 500, and none may fail to come in `patience` seconds."""
    verdict = Verdict()
    with ThreadPoolExecutor(clients) as pool:
        for seed, request, status, seconds in pool.map(
            lambda seed: _one(url, seed, patience), range(first_seed, first_seed + count)
        ):
            verdict.answers[request.kind, status] += 1
            verdict.slowest = max(verdict.slowest, seconds)
            if status.startswith("500") or status in ("no answer", "not HTTP"):
                verdict.faults.append(f"seed {seed}, {request.kind}: {status} after {seconds:.1f} s")
            if request.kind == "good" and status != "200":
                verdict.faults.append(f"seed {seed}: a good request was answered with {status}")
    return verdict


def _one(url: str, seed: int, patience: float) -> tuple[int, Hostile, str, float]:
    request = hostile(seed)
    began = time.monotonic()
    return seed, request, _send(url, request, patience), time.monotonic() - began


def _send(url: str, request: Hostile, patience: float) -> str:
    place = urlsplit(url)
    try:
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=patience) as connection:
            for piece in request.pieces:
                connection.sendall(piece)
                time.sleep(0.002)
            if request.hang_up:
                return "hung up"
            return _status(connection)
    except TimeoutError:
        return "no answer"
    except OSError:  # the server closed while we were still sending: it may, once it has refused
        return "closed"


def _status(connection: socket.socket) -> str:
    received = b""
    while b"\r\n" not in received:
        data = connection.recv(65536)
        if not data:
            return "closed" if not received else "not HTTP"
        received += data
    parts = received.split(b" ", 2)
    return parts[1].decode("latin-1") if received.startswith(b"HTTP/1.") and len(parts) > 1 else "not HTTP"
