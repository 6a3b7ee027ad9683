"""Photos → pixels in a bounded pool of processes, never on the event loop. See `app.decoder_process` for the why.

A process that dies takes with it the photo that it was reading and no other: the next ones go to the rest of the pool, and
another process is started. One that reads a photo for longer than any request may last is killed.
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
from collections.abc import Callable
from pathlib import Path

from app.decoder import Decoder, Job, reaped
from app.errors import ServiceError
from contract.errors import ContractError, PhotoError
from contract.pixels import Pixels

log = logging.getLogger("food_vision")
START_SECONDS = 60.0  # longest wait for the processes; they take 0.2 s on an idle machine
PASSED_ON = ("PYTHON", "VIRTUAL_ENV", "PATH", "LD_", "MALLOC_", "OMP_", "OPENBLAS_", "LANG", "LC_", "TMPDIR")
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
        self._command = [sys.executable, "-m", "app.decoder_process", str(image_size), str(max_pixels)]
        self._decoders: list[Decoder] = []
        self._waiting: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Start the processes; `ready` waits for them."""
        for _ in range(self._size):
            self._decoders.append(await self._started())

    async def ready(self) -> None:
        """Wait for the processes. Raises `ContractError` when they are not ready after `START_SECONDS`."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not all(decoder.ready.is_set() for decoder in self._decoders):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise ContractError(
                f"The {self._size} processes that decode photos were not ready after {START_SECONDS:.0f} s; "
                "their own words are above in the log."
            ) from None

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
        that no process has begun by then is not decoded at all.
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
        except (TimeoutError, asyncio.CancelledError):
            self._watch(job)
            raise
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

    def _watch(self, job: Job) -> None:
        """Nobody waits for the photo any more; if a process reads it still after `longest`, that hangs."""

        def check() -> None:
            for decoder in self._decoders:
                if decoder.jobs and decoder.jobs[0] is job:
                    log.error("a process read one photo of %d bytes for %.0f s: killed", len(job.photo), self._longest)
                    decoder.process.kill()

        if job.began and not self._closed:
            left = job.began + self._longest - time.perf_counter()
            asyncio.get_running_loop().call_later(max(0.0, left), check)

    async def _started(self) -> Decoder:
        ours, theirs = socket.socketpair()
        with theirs:
            # In a session of its own, so that Ctrl-C in a terminal stops the service, which then ends its processes.
            process = subprocess.Popen(self._command, stdin=theirs.fileno(), env=_environment(), start_new_session=True)
        loop = asyncio.get_running_loop()
        _, decoder = await loop.create_unix_connection(lambda: Decoder(self, process), sock=ours)
        return decoder

    def lost(self, decoder: Decoder) -> None:
        """Its socket was closed: it died, or the pool closes."""
        if self._closed or decoder not in self._decoders:
            return
        self._decoders.remove(decoder)
        self._on_lost()
        jobs = list(decoder.jobs)
        if jobs and not jobs[0].future.done():
            jobs[0].future.set_exception(
                PhotoError(
                    "bad_image",
                    "The image ended the process that decoded it: it is damaged, or needs more memory than there is.",
                )
            )
        for job in jobs[1:]:
            job.began = 0.0
        self._waiting.extendleft(reversed(jobs[1:]))
        task = asyncio.create_task(self._replace(decoder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.dispatch()

    async def _replace(self, decoder: Decoder) -> None:
        code = await asyncio.to_thread(reaped, decoder.process)
        log.error("a process that decodes photos ended with code %d; another is started", code)
        if not decoder.ready.is_set():
            await asyncio.sleep(AGAIN_SECONDS)
        while True:
            try:
                self._decoders.append(await self._started())
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
        for decoder in self._decoders:
            await asyncio.to_thread(reaped, decoder.process)
        for job in self._waiting:
            job.future.cancel()


def _environment() -> dict[str, str]:
    """What Python and its libraries need, and nothing that may be a secret: a decoder reads what strangers send."""
    return DEFAULTS | {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}


def _expire(future: asyncio.Future[Pixels]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
