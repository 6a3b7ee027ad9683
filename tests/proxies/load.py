"""Clients that ask a proxy for all kinds of things at once, each on a connection that it keeps."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count as counting
from urllib.parse import urlsplit

import httpx

from app.faults import ERRORS

CLIENTS = 8
# name: share of the requests, method, path, times the photo, what must be answered
KINDS: dict[str, tuple[int, str, str, int, str]] = {
    "photo": (50, "POST", "/predict", 1, "ok"),
    "form": (15, "POST", "/predict", 1, "ok"),
    "health": (10, "GET", "/health", 0, "ok"),
    "no such route, body unread": (8, "POST", "/nothing", 30, "not_found"),
    "wrong method": (4, "POST", "/labels", 1, "method_not_allowed"),
    "no photo": (6, "POST", "/predict", 0, "missing_image"),
    "wrong parameter": (4, "POST", "/predict?top_k=0", 30, "invalid_parameter"),
    "too large": (1, "POST", "/predict", 0, "body_too_large"),
    "aborted upload": (2, "POST", "/predict", 0, "gone"),
}
PAUSED, PAUSE = 0.01, 1.5  # of a client's requests come so many seconds after the one before
TOO_LARGE = 33 << 20


def mixed(url: str, count: int, photo: bytes, label: str) -> Counter[tuple[str, str]]:
    """(kind, outcome) of `count` requests and how often it came: `ok` is a 200 with the right label
    where there is one; else the slug, or what went wrong.
    """
    found: Counter[tuple[str, str]] = Counter()
    numbers, lock = counting(), threading.Lock()
    shares = [kind[0] for kind in KINDS.values()]

    def client() -> None:
        with httpx.Client(base_url=url, timeout=60) as session:
            while True:
                with lock:
                    number = next(numbers)
                if number >= count:
                    return
                chance = random.Random(number)
                if chance.random() < PAUSED:
                    time.sleep(PAUSE)  # not for something to happen: silence is what is tried
                kind = chance.choices(list(KINDS), shares)[0]
                outcome = _gone(url, photo) if kind == "aborted upload" else _ask(session, kind, photo, label)
                with lock:
                    found[kind, outcome] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client) for _ in range(CLIENTS)]:
            done.result()
    return found


def wrong(found: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """What was answered otherwise than it must be."""
    return {one: times for one, times in found.items() if one[1] != KINDS[one[0]][4]}


def _ask(session: httpx.Client, kind: str, photo: bytes, label: str) -> str:
    _, method, path, times, _ = KINDS[kind]
    body = bytes(TOO_LARGE) if kind == "too large" else photo * times
    given = {"files": {"image": body}} if kind == "form" else {"content": body}
    try:
        answer = session.request(method, path, **given if method == "POST" else {})
    except httpx.TransportError as error:
        return repr(error)
    try:
        told = answer.json()
    except ValueError:
        return f"{answer.status_code} {answer.text[:80]}"
    if answer.status_code != 200:
        slug = str(told.get("error_type"))
        same = slug in ERRORS and ERRORS[slug].status == answer.status_code
        return slug if same else f"{answer.status_code} {slug}"
    return "ok" if told.get("prediction", label) == label else f"label {told['prediction']}"


def _gone(url: str, photo: bytes) -> str:
    place = urlsplit(url)
    with socket.create_connection((str(place.hostname), place.port or 80), timeout=60) as wire:
        wire.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(photo))
        wire.sendall(photo[: len(photo) // 2])
    return "gone"
