"""One process that decodes photos, as its service sees it: photos go out and answers come in, in
order, by a socket.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import subprocess
import time
from collections import deque
from typing import Literal, Protocol, cast

import numpy as np

from app.decoding.line import Job
from app.decoding.worker import ANSWER, FAULT, LONGEST_TEXT, PHOTO, PIXELS, READY
from contract.errors import PhotoError

log = logging.getLogger("food_vision")
clock = time.perf_counter
SMALL = 256 << 10  # bytes; a quick photo up to this size may lie ready at a process that reads another such
PATIENCE = 0.1  # seconds; a photo that takes longer is slow, whatever its header says


class Pool(Protocol):
    """What a decoder tells of itself."""

    shape: tuple[int, int, int]

    def came(self) -> None:
        """It is ready."""

    def dispatch(self) -> None:
        """It has room for a photo."""

    def lost(self, decoder: Decoder) -> None:
        """Its socket is closed."""

    def took(self, job: Job, seconds: float) -> None:
        """It has read a photo, for so long."""


class Decoder(asyncio.BufferedProtocol):
    """One process, by its socket. Answers come in the order of the photos."""

    _transport: asyncio.Transport | None = None

    def __init__(self, pool: Pool, process: subprocess.Popen[bytes]) -> None:
        self._pool, self.process = pool, process
        self.ready = False
        self.jobs: deque[Job] = deque()
        self.killed: Literal["", "hung", "forgotten"] = ""  # by the pool
        self._began = clock()  # when it was started, or turned to the first of its jobs
        self._taken_back = False
        self._buffer = bytearray(ANSWER.size + max(math.prod(pool.shape), LONGEST_TEXT))  # any one answer fits
        self._filled = 0

    @property
    def load(self) -> int:
        """Photos that it has; more than any while it starts."""
        return len(self.jobs) if self.ready else 1 << 30

    def takes(self, job: Job) -> bool:
        """Whether it is idle, or reads something small and quick and this is so too: then it
        need not wait for the next.
        """
        return self.load == 0 or (self.load == 1 and not self.slow and _lies_ready(self.jobs[0]) and _lies_ready(job))

    @property
    def slow(self) -> bool:
        """Whether it reads what is not known to be quick, or turns out not to be."""
        for job in self.jobs:
            if not job.quick:
                return True
        return self.reading_seconds > PATIENCE

    def send(self, job: Job) -> None:
        """Give it a photo."""
        self.jobs.append(job)
        if len(self.jobs) == 1:
            self._turned()
        assert self._transport is not None
        self._transport.writelines((PHOTO.pack(len(job.photo)), job.photo))

    @property
    def reading_seconds(self) -> float:
        """How long it has been reading the first of its photos; 0 when it has none."""
        return clock() - self._began if self.jobs else 0.0

    @property
    def starting_seconds(self) -> float:
        """How long it has been starting; 0 when it is ready."""
        return 0.0 if self.ready else clock() - self._began

    def taken_back(self) -> list[Job]:
        """The photos that lie ready at it, once each: others may read them sooner, and the first
        answer counts.
        """
        if self._taken_back:
            return []
        self._taken_back = True
        return [job for job in list(self.jobs)[1:] if not job.future.done()]

    def kill(self, why: Literal["hung", "forgotten"]) -> None:
        """End it, with what it reads."""
        if not self.killed:
            self.killed = why
            self.process.kill()

    def _turned(self) -> None:
        self._began, self._taken_back = clock(), False

    def close(self) -> None:
        """End it at once."""
        self.process.kill()
        if self._transport is not None:
            self._transport.abort()
        for job in self.jobs:
            job.future.cancel()

    # -- asyncio's side --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`: answers that are whole are taken out, the rest moves
        to the front.
        """
        self._filled += nbytes
        begin, view = 0, memoryview(self._buffer)
        while (body := begin + ANSWER.size) <= self._filled:
            kind, length = ANSWER.unpack_from(self._buffer, begin)
            if body + length > self._filled:
                break
            begin = body + length
            self._answered(kind, view[body:begin])
        if begin:
            self._filled -= begin
            view[: self._filled] = bytes(view[begin : begin + self._filled])

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._pool.lost(self)

    def _answered(self, kind: int, body: memoryview) -> None:
        if kind == READY:
            self.ready = True
            self._pool.came()
            return
        seconds, job = self.reading_seconds, self.jobs.popleft()
        if self.jobs:
            self._turned()
        self._pool.took(job, seconds)
        if not job.future.done():
            if kind == PIXELS:
                job.future.set_result(np.frombuffer(bytes(body), np.uint8).reshape(self._pool.shape))
            elif kind == FAULT:
                job.future.set_exception(RuntimeError("a fault of the decoder"))
                log.error("a photo was not decoded: %s", body.tobytes().decode("utf-8", "replace"))
            else:
                job.future.set_exception(PhotoError(*json.loads(body.tobytes())))
        self._pool.dispatch()


def _lies_ready(job: Job) -> bool:
    return job.quick and job.size <= SMALL


def reaped(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that has closed its socket; it may be about to end, or never."""
    try:
        return process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
