"""Photos → pixels in a bounded pool of processes, never on the event loop. See `app.decoder_process` for the why.

When a process dies, its photos go to the rest of the pool and another process is started; a photo at which a second process
dies is refused. One that reads a photo for longer than any request may last is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from app.decoder import Decoder, Job, reaped
from app.errors import ServiceError
from contract.errors import ContractError, PhotoError
from contract.pixels import Pixels

log = logging.getLogger("food_vision")
PROGRAM = ("-m", "app.decoder_process")
START_SECONDS = 60.0  # longest wait for the processes; they take 0.2 s on an idle machine
PATIENCE = 0.1  # seconds; a photo behind one that takes longer is given to another process as well
MOST_DEATHS = 2  # of processes by one photo: the first may be a coincidence
DEADLY = "The image ends the process that decodes it: it is damaged, or needs more time or memory than there is."
# Of the environment: what the system's loader and Python need, and no more.
PASSED_ON, PASSED_ON_PREFIXES = ("PATH", "LANG", "VIRTUAL_ENV", "TMPDIR"), ("PYTHON", "LD_", "LC_", "MALLOC_")
AGAIN_SECONDS = 1.0  # until the next try when a process ends before it is ready
# A buffer above 1 MB goes back to the system when it is freed: glibc otherwise learns to keep up to 64 MB, for each process.
DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


class DecodePool:
    """Decodes photos to `image_size`; more than `max_waiting` at once are refused with `overloaded`.

    A process gets `longest` seconds for one photo. `on_lost` is called when one has died or was killed.
    """

    def __init__(
        self,
        processes: int,
        max_waiting: int,
        *,
        image_size: int,
        max_pixels: int,
        longest: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._size, self._room, self._longest, self._on_lost = processes, max_waiting, longest, on_lost
        self.shape = (image_size, image_size, 3)
        self._command = [sys.executable, *PROGRAM, str(image_size), str(max_pixels)]
        self._decoders: list[Decoder] = []
        self._waiting: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost: set[subprocess.Popen[bytes]] = set()  # until their exit code is read
        self._closed = False
        self._down_since: float | None = None
        self._false_starts = 0

    async def start(self) -> None:
        """Start the processes; `ready` waits for them. Raises `ContractError` when the system does not let it."""
        self._spawn(self._guard())
        try:
            for _ in range(self._size):
                await self._start_one()
        except OSError as error:
            raise ContractError(
                f"The {self._size} processes that decode photos cannot be started: {error.strerror}. "
                "Allow more processes and open files, or lower decode_processes."
            ) from None

    async def ready(self) -> None:
        """Wait for the processes. Raises `ContractError` when they die, or are not ready after `START_SECONDS`."""
        ends = time.monotonic() + START_SECONDS
        while not (len(self._decoders) == self._size and all(decoder.ready for decoder in self._decoders)):
            await asyncio.sleep(0.01)
            if self._false_starts > self._size or time.monotonic() > ends:
                raise ContractError(
                    f"Of {self._size} processes that decode photos {self._able} are ready, and {self._false_starts} ended "
                    "as soon as they were started; their own words are above in the log."
                )

    @property
    def down_seconds(self) -> float:
        """How long there has been no process to decode a photo; 0 while there is one."""
        return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    @property
    def wait_seconds(self) -> float:
        """Expected seconds until a photo that comes now is decoded."""
        return 0.0

    @property
    def _able(self) -> int:
        return sum(decoder.ready for decoder in self._decoders)

    @property
    def resident_bytes(self) -> int:
        """Memory of the processes; pages that they share are counted for each."""
        pages = 0
        for decoder in self._decoders:
            with contextlib.suppress(OSError, IndexError):  # it may have ended just now
                pages += int(Path(f"/proc/{decoder.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def decode(self, photo: bytes, timeout: float) -> tuple[Pixels, float]:
        """uint8 pixels [S, S, 3] and the seconds it took, waiting for a process included.

        Raises `PhotoError`, `ServiceError` with slug `overloaded`, and `TimeoutError` after `timeout` seconds; a photo
        that no process has been given by then is not decoded at all.
        """
        if self._room <= 0:
            raise ServiceError("overloaded", "Too many photos are waiting to be decoded. Try again in a second.")
        self._room -= 1
        loop = asyncio.get_running_loop()
        job = Job(photo, loop.create_future())
        started = time.perf_counter()
        alarm = loop.call_later(timeout, _expire, job.future)
        try:
            self._waiting.append(job)
            self.dispatch()
            return await job.future, time.perf_counter() - started
        finally:
            alarm.cancel()
            self._room += 1

    def dispatch(self) -> None:
        """Give the oldest photos to processes that have room."""
        while self._waiting:
            job = self._waiting[0]
            if job.future.done():
                self._waiting.popleft()
                continue
            decoder = min(self._decoders, key=lambda one: one.load, default=None)
            if decoder is None or not decoder.takes(job):
                return
            self._waiting.popleft()
            decoder.send(job)

    async def _guard(self) -> None:
        """Look every `PATIENCE` seconds at processes that take long."""
        while True:
            await asyncio.sleep(PATIENCE)
            for decoder in self._decoders:
                if decoder.reading_seconds > self._longest and not decoder.killed:
                    size = len(decoder.jobs[0].photo)
                    log.error("a process read one photo of %d bytes for %.0f s: killed", size, self._longest)
                    decoder.kill()
                elif decoder.reading_seconds > PATIENCE:
                    self._waiting.extendleft(decoder.taken_back())
            self.dispatch()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_one(self) -> None:
        """Raises `OSError` when the system does not let it."""
        ours, theirs = socket.socketpair()
        try:
            # In a session of its own, so that Ctrl-C in a terminal stops the service, which then ends its processes.
            process = subprocess.Popen(self._command, stdin=theirs.fileno(), env=_environment(), start_new_session=True)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        decoder = Decoder(self, process)
        self._decoders.append(decoder)  # before anything is awaited, so that `close` finds it whatever happens
        await asyncio.get_running_loop().create_unix_connection(lambda: decoder, sock=ours)

    def came(self) -> None:
        """A process is ready."""
        self._down_since = None
        self.dispatch()

    def lost(self, decoder: Decoder) -> None:
        """Its socket was closed: it died, or the pool closes."""
        if self._closed or decoder not in self._decoders:
            return
        self._decoders.remove(decoder)
        self._lost.add(decoder.process)
        self._on_lost()
        self._false_starts += not decoder.ready
        if not self._able and self._down_since is None:
            self._down_since = time.monotonic()
        jobs = [job for job in decoder.jobs if not job.future.done()]
        if jobs and jobs[0] is decoder.jobs[0]:  # it may be to blame: the next death decides
            jobs[0].deaths += 1
            if decoder.killed or jobs[0].deaths == MOST_DEATHS:
                jobs.pop(0).future.set_exception(PhotoError("bad_image", DEADLY))
        self._waiting.extendleft(reversed(jobs))
        self._spawn(self._replace(decoder))
        self.dispatch()

    async def _replace(self, decoder: Decoder) -> None:
        code = await asyncio.to_thread(reaped, decoder.process)
        self._lost.discard(decoder.process)
        log.error("a process that decodes photos ended with code %d; another is started", code)
        if not decoder.ready:
            await asyncio.sleep(AGAIN_SECONDS)
        while True:
            try:
                await self._start_one()
            except OSError as error:  # no memory or process to be had; perhaps later
                log.error("no process to decode photos can be started: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def close(self) -> None:
        """End the processes, and what they are doing."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for decoder in self._decoders:
            decoder.close()
        for process in [*(decoder.process for decoder in self._decoders), *self._lost]:
            await asyncio.to_thread(reaped, process)
        for job in self._waiting:
            job.future.cancel()


def _environment() -> dict[str, str]:
    return DEFAULTS | {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }


def _expire(future: asyncio.Future[Pixels]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
