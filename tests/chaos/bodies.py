"""Bodies made to hold up or to swell the service: JSON bombs, a flood of large bodies, and large bodies that are late.

Meanwhile somebody asks whether the service lives, and somebody else sends good photos.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

LARGE = 31_000_000  # bytes of a body, just below the default of `max_body_bytes`
BUDGET = 8 * (32 << 20)  # bytes: the default of `max_bodies_bytes`
BESIDE, BACK = 200e6, 64e6  # bytes that memory may grow beyond the budget, and that it may keep
LONGEST = 1.0  # seconds until liveness answers
CLIENTS, SLOW_SECONDS = 64, 4
LATE = 120
BOMB_ANSWERS = {"400 bad_request", "400 missing_image", "415 unsupported_format"}
PATIENCE = 60.0  # seconds; nothing takes so long but a server that hangs


@dataclass
class _Asked:
    """What somebody who asks again and again was answered, and the longest that it took in seconds."""

    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


def bodies_part(bundle: Path) -> Part:
    """All of it, against one server at its default settings."""
    part = Part("bodies")
    with serving_process(bundle, "--log-level", "error", "--threads", 1) as (url, process):
        _send(url, "/predict", drawn_png(0))
        _bombs(url, part)
        _flood(url, process.pid, part)
        _late(url, process.pid, part)
        part.must(process.poll() is None, "the server ended")
    print(f"bodies: {json.dumps(part.figures)}")
    return part


def _bombs(url: str, part: Part) -> None:
    text = b'{"inputs": "'
    bombs = {
        "lists": b"[" + b"[]," * 2_800_000 + b"0]",
        "depth": b"[" * 32_000_000,
        "one text": text + b"A" * 32_000_000 + b'"}',
        "escapes": text + b"\\n" * 16_000_000 + b'"}',
        "long numbers": b"[" + (b"9" * 2000 + b",") * 15_000 + b"1]",
        "one number": b"9" * 32_000_000,
    }
    answers: Counter[str] = Counter()
    with asked(url, "/health/live", None, 0.05) as lively, ThreadPoolExecutor(3) as pool:
        for name, body in bombs.items():
            kinds = {"": body, "gzip": gzip.compress(body, 1)}
            for encoding, sent in kinds.items():
                headers = {"Content-Type": "application/json"} | ({"Content-Encoding": encoding} if encoding else {})
                found = list(pool.map(lambda _: _send(url, "/", sent, headers), range(3)))  # noqa: B023
                answers.update(found)
                wanted = {"415 unsupported_encoding"} if encoding else BOMB_ANSWERS
                wrong = set(found) - wanted
                part.must(not wrong, f"JSON bomb {name} {encoding}: {sorted(wrong)}")
    part.figures |= {"bombs": dict(answers), "slowest liveness under bombs, s": round(lively.slowest, 3)}
    part.must(lively.slowest < LONGEST, f"liveness took {lively.slowest:.2f} s under JSON bombs")
    part.must(set(lively.answers) == {"200"}, f"liveness under JSON bombs: {dict(lively.answers)}")


def _flood(url: str, pid: int, part: Part) -> None:
    """Clients that send almost all of a large body at once, and its end slowly."""
    body = memoryview(drawn_png(0).ljust(LARGE, b"\0"))  # what follows the end of a picture is not looked at

    def client(_: int) -> str:
        place = urlsplit(url)
        with suppress(OSError), socket.create_connection((place.hostname or "", place.port or 0), PATIENCE) as mine:
            mine.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % LARGE)
            mine.sendall(body[:-1000])
            for at in range(LARGE - 1000, LARGE, 250):
                time.sleep(SLOW_SECONDS / 4)
                mine.sendall(body[at : at + 250])
            return _status(mine)
        return "closed"

    with (
        watched(pid) as memory,
        asked(url, "/health/live", None, 0.05) as lively,
        asked(url, "/predict", drawn_png(1), 0.1) as good,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        answers = Counter(pool.map(client, range(CLIENTS)))
    part.figures |= {
        "flood": dict(answers), "peak memory under the flood, MB": round(memory.peak / 1e6),
        "kept after the flood, MB": round(memory.kept() / 1e6), "good photos meanwhile": dict(good.answers),
        "slowest good photo, s": round(good.slowest, 3), "slowest liveness under the flood, s": round(lively.slowest, 3),
    }  # fmt: skip
    fair = {"200", "503 overloaded"}
    part.must(memory.peak < BUDGET + BESIDE, f"memory rose by {memory.peak / 1e6:.0f} MB under large bodies")
    part.must(memory.kept() < BACK, f"{memory.kept() / 1e6:.0f} MB were kept of large bodies")
    part.must(set(good.answers) <= fair, f"good photos under large bodies: {dict(good.answers)}")
    part.must(set(answers) <= fair | {"closed"}, f"large bodies: {dict(answers)}")
    part.must(answers["200"] > 0, "not one large body was answered")
    part.must(lively.slowest < LONGEST, f"liveness took {lively.slowest:.2f} s under large bodies")


def _late(url: str, pid: int, part: Part) -> None:
    """Large bodies whose clients wait for a millisecond only."""
    body = drawn_png(0).ljust(LARGE, b"\0")
    with watched(pid) as memory, ThreadPoolExecutor(8) as pool:
        late = {"X-Request-Timeout-Ms": "1"}
        answers = Counter(pool.map(lambda _: _send(url, "/predict", body, late), range(LATE)))
    part.figures |= {
        "late": dict(answers), "peak memory of late ones, MB": round(memory.peak / 1e6),
        "kept of late ones, MB": round(memory.kept() / 1e6),
    }  # fmt: skip
    part.must(set(answers) <= {"504 deadline_exceeded", "503 overloaded", "closed"}, f"late bodies: {dict(answers)}")
    part.must(memory.peak < BUDGET + BESIDE, f"memory rose by {memory.peak / 1e6:.0f} MB under late requests")
    part.must(memory.kept() < BACK, f"{memory.kept() / 1e6:.0f} MB were kept of late requests")


# -- clients and onlookers --------------------------------------------------------------------------------------------


def _send(url: str, path: str, body: bytes | None, headers: dict[str, str] | None = None) -> str:
    """Post (or get, without a body); `200`, or the status and slug, or `closed`."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        with suppress(ConnectionError):  # it may have been refused before all of it was sent: the answer is there
            connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        return _told(answer.status, answer.read())
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException):
        return "closed"
    finally:
        connection.close()


def _status(connection: socket.socket) -> str:
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        return _told(answer.status, answer.read())
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException):
        return "closed"


def _told(status: int, body: bytes) -> str:
    return str(status) if status == 200 else f"{status} {json.loads(body)['error_type']}"


@contextmanager
def _beside(work: Callable[[], None], pause: float) -> Iterator[None]:
    """Do it again and again in a thread."""
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            work()
            time.sleep(pause)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def asked(url: str, path: str, body: bytes | None, pause: float) -> Iterator[_Asked]:
    """Somebody who sends the same request, and after `pause` seconds again."""
    found = _Asked()

    def ask() -> None:
        began = time.monotonic()
        found.answers[_send(url, path, body)] += 1
        found.slowest = max(found.slowest, time.monotonic() - began)

    with _beside(ask, pause):
        yield found


class _Memory:
    """Bytes by which the memory of a server and its processes exceeds what it was."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._program = self._server.cmdline()
        self._before, self.peak = self._resident(), 0

    def _resident(self) -> int:
        found = self._server.memory_info().rss
        for one in self._server.children():
            with suppress(psutil.NoSuchProcess):
                if one.cmdline() != self._program:  # else it is about to begin, in the server's own memory
                    found += one.memory_info().rss
        return found

    def look(self) -> None:
        """Note the peak."""
        self.peak = max(self.peak, self._resident() - self._before)

    def kept(self, patience: float = 10.0) -> int:
        """What is still there, once the server has had time to let go."""
        ends = time.monotonic() + patience
        while (grown := self._resident() - self._before) > BACK and time.monotonic() < ends:
            time.sleep(0.1)
        return grown


@contextmanager
def watched(pid: int) -> Iterator[_Memory]:
    """The memory of a server meanwhile."""
    memory = _Memory(pid)
    with _beside(memory.look, 0.02):
        yield memory
