"""A replica whose processes that decode photos may be what is short, on a simulated clock.

A request takes the service's own way: the door, the decode pool with its lines, the batcher.
Simulated are the processes, which read a photo for a known time, and the engine. There is no HTTP,
and the event loop costs nothing.
"""

from __future__ import annotations

import asyncio
import signal
import struct
import subprocess
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from app.decoding.client import Decoder
from app.decoding.line import Job
from app.decoding.pool import DecodePool
from app.decoding.worker import ANSWER, PIXELS, REFUSED
from app.faults import ServiceError
from app.serving.batcher import Batcher
from app.serving.model import ServedModel
from app.serving.slots import Slots
from benchmarks.capacity.clock import simulate
from benchmarks.capacity.replica import Replica
from benchmarks.known_engine import Device
from contract.errors import PhotoError
from contract.pixels import Pixels

JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"  # the head of one of 16 x 16
WEBP = b"RIFF----WEBP"
WORK = struct.Struct("d?")  # seconds that it is read, and whether it is then refused
NEW_PROCESS = 0.2  # seconds until one that was ended is replaced

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Photos:
    """Photos of one kind that are due at `arrivals` [n], in seconds.

    A process reads one for `seconds`. `quick`: a small JPEG, else a WebP. `bad`: it is refused when it was read.
    """

    arrivals: Floats
    seconds: float
    quick: bool = False
    bad: bool = False

    @property
    def data(self) -> bytes:
        """What is sent."""
        return (JPEG if self.quick else WEBP) + WORK.pack(self.seconds, self.bad)


@dataclass
class Came:
    """What came of the photos of one kind: `due` and `done` [answers] in seconds, and outcomes."""

    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


class _Process(Decoder):
    def __init__(self, pool: DecodePool) -> None:
        dead = SimpleNamespace(kill=lambda: asyncio.get_running_loop().call_soon(self.connection_lost, None))
        super().__init__(pool, cast("subprocess.Popen[bytes]", dead))
        self.connection_made(cast(asyncio.Transport, SimpleNamespace(writelines=lambda pieces: None)))
        self.ready = True
        self._given: deque[tuple[float, bool]] = deque()

    def send(self, job: Job) -> None:
        """Give it a photo."""
        super().send(job)
        self._given.append(WORK.unpack(job.photo[-WORK.size :]))
        if len(self._given) == 1:
            self._read()

    def _read(self) -> None:
        asyncio.get_running_loop().call_later(self._given[0][0], self._done)

    def _done(self) -> None:
        if self.killed:
            return
        _, bad = self._given.popleft()
        if self._given:
            self._read()
        kind, body = (REFUSED, b'["bad_image", "-"]') if bad else (PIXELS, bytes(3))
        answer = ANSWER.pack(kind, len(body)) + body
        self.get_buffer(-1)[: len(answer)] = answer
        self.buffer_updated(len(answer))


class _Pool(DecodePool):
    """Without processes of the system."""

    def __init__(self, processes: int, longest: float) -> None:
        super().__init__(processes, Replica.max_decoding, image_size=1, max_pixels=1, cpu_ms=1, longest=longest)
        self._decoders += [_Process(self) for _ in range(processes)]
        self._spawn(self._guard())

    async def _replace(self, decoder: Decoder) -> None:
        self._judge(decoder, -signal.SIGKILL)
        await asyncio.sleep(NEW_PROCESS)
        self._dying.discard(decoder)
        self._decoders.append(_Process(self))
        self.came()


async def _served(processes: int, engine: Device, timeout: float, kinds: Sequence[Photos]) -> tuple[list[Came], float]:
    loop, busy = asyncio.get_running_loop(), 0.0

    async def run(batch: list[Pixels]) -> list[Any]:
        nonlocal busy
        seconds = engine.seconds(len(batch))
        await asyncio.sleep(seconds)
        busy += seconds
        return batch

    async def ask(photos: Photos, came: Came, due: float) -> None:
        try:
            model.check_room()
            place, pixels, _ = await model._decode(batcher, photos.data, due + timeout, object())
            await model._answered(place, pixels)
        except (ServiceError, PhotoError) as error:
            came.outcomes[error.slug] += 1
        else:
            came.outcomes["ok"] += 1
            came.due.append(due)
            came.done.append(loop.time())

    model = ServedModel.__new__(ServedModel)  # its requests' part alone
    pool = _Pool(processes, timeout)
    batcher: Batcher[Pixels, Any] = Batcher(
        run, max_batch=Replica.max_batch, max_queue=Replica.max_queue, slots=Slots(), clock=loop.time
    )
    batcher.fit(16, (1, 2, 4, 8, 16))
    settings = SimpleNamespace(request_timeout_ms=1000 * timeout, max_queue=Replica.max_queue)
    vars(model).update(_scores=batcher, _decoder=pool, _settings=settings)
    found = [Came() for _ in kinds]
    due = sorted((when, number) for number, kind in enumerate(kinds) for when in kind.arrivals.tolist())
    asked = []
    with (
        patch("app.decoding.client.clock", loop.time),
        patch("app.serving.model._left", lambda ends: max(0.001, ends - loop.time())),
    ):
        for when, number in due:
            await asyncio.sleep(max(0.0, when - loop.time()))
            asked.append(loop.create_task(ask(kinds[number], found[number], when)))
        await asyncio.gather(*asked)
    for task in pool._tasks:
        task.cancel()
    await asyncio.gather(batcher.close(), *pool._tasks, return_exceptions=True)
    return found, busy


def decoding(processes: int, engine: Device, timeout: float, *kinds: Photos) -> tuple[list[Came], float]:
    """What came of photos of each kind, and seconds that the engine ran.

    Settings are the defaults but for the `timeout`, in seconds.
    """
    return simulate(_served(processes, engine, timeout, kinds))
