"""Photos → pixels in a bounded pool of processes, never on the event loop. See
`app.decoding.worker` for the why.

Newcomers take turns with those who have many (`Line`), and quick photos do not wait for slow ones:
one process at least reads none of those (`_next`). When a process dies, its photos go to the rest
of the pool and another process is started. A photo that used up its processor time is refused at
once; one that was read when two processes died is refused too. A process is ended when it reads a
photo that nobody waits for any more, or for longer than any request may last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from app.decoding.client import PATIENCE, Decoder, reaped
from app.decoding.line import Job, Line, is_quick
from app.decoding.read_times import ReadTimes
from app.decoding.worker import OUTGROWN
from app.faults import overloaded
from contract.errors import ContractError, PhotoError
from contract.pixels import Pixels

log = logging.getLogger("food_vision")
PROGRAM = ("-m", "app.decoding.worker")
START_SECONDS = 60.0  # longest wait for the processes; they take 0.2 s on an idle machine
MOST_DEATHS = 2  # of processes by one photo: the first may be a coincidence
TOO_LONG = (
    "Decoding the image takes more than {} ms of processor time (decode_cpu_ms). Send a smaller copy, or a plain JPEG."
)
DEADLY = "The image ends the process that decodes it: it is damaged, or needs more time or memory than there is."
# Of the environment: what the system's loader and Python need, and no more.
PASSED_ON, PASSED_ON_PREFIXES = ("PATH", "LANG", "VIRTUAL_ENV", "TMPDIR"), ("PYTHON", "LD_", "LC_", "MALLOC_")
AGAIN_SECONDS = 1.0  # until the next try when a process ends before it is ready
# A buffer above 1 MB goes back to the system when it is freed: glibc otherwise learns to keep up to 64 MB, for each process.
DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


class DecodePool:
    """Decodes photos to `image_size`; more than `max_waiting` at once are refused with
    `overloaded`, and so is what is not quick beyond half of that: quick photos find room.

    A photo gets `cpu_ms` of processor time, and `longest` seconds in all. `on_lost` is called when
    a process has died, or was killed because it hung.
    """

    def __init__(
        self,
        processes: int,
        max_waiting: int,
        *,
        image_size: int,
        max_pixels: int,
        cpu_ms: int,
        longest: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._size, self._room, self._longest, self._on_lost = processes, max_waiting, longest, on_lost
        self._slow_room = max(1, max_waiting // 2)
        self.shape = (image_size, image_size, 3)
        self._cpu_ms = cpu_ms
        self._command = [sys.executable, *PROGRAM, str(image_size), str(max_pixels), str(cpu_ms)]
        self._decoders: list[Decoder] = []
        self._lines = {True: Line(), False: Line()}  # of quick photos, and of others
        self.times = ReadTimes(self._decoders, self._lines)
        self.read_seconds = 0.0  # of all photos until now
        self._last_quick = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._dying: set[Decoder] = set()  # until another is started
        self._closed = False
        self._down_since: float | None = None
        self._false_starts = 0  # since the last that came to be ready

    async def start(self) -> None:
        """Start the processes; `ready` waits for them. Raises `ContractError` when the system
        does not let it.
        """
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
        """Wait for the processes. Raises `ContractError` when they die, or are not ready after
        `START_SECONDS`.
        """
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

    def check_room(self, quick: bool = True) -> None:
        """Raise `ServiceError` with slug `overloaded` where too many photos wait already."""
        if self._room <= 0 or (not quick and self._slow_room <= 0):
            raise overloaded("Too many photos are waiting to be decoded.", self.expected(quick)[0])

    async def decode(
        self, photo: bytes, timeout: float, owner: object, quick: bool | None = None, *, let_in: bool = False
    ) -> tuple[Pixels, float]:
        """uint8 pixels [S, S, 3] and the seconds it took, waiting for a process included. Owners
        take turns as in `Line`. `quick`: `is_quick(photo)`, where that is known. What was `let_in`
        before needs no room.

        Raises `PhotoError`, `ServiceError` with slug `overloaded` (too many wait), and
        `TimeoutError` after `timeout` seconds. Then, and when the caller is cancelled, it is not
        decoded any further.
        """
        loop = asyncio.get_running_loop()
        job = Job(photo, loop.create_future(), owner, is_quick(photo) if quick is None else quick)
        del photo
        if not let_in:
            self.check_room(job.quick)
            self._room -= 1
            self._slow_room -= not job.quick
        started = time.perf_counter()
        alarm = loop.call_later(timeout, _expire, job.future)
        try:
            self._lines[job.quick].append(job)
            self.dispatch()
            job.ends, job.half = alarm.when(), timeout / 2
            return await job.future, time.perf_counter() - started
        finally:
            alarm.cancel()
            if not let_in:
                self._room += 1
                self._slow_room += not job.quick
            self._lines[job.quick].discard(job)
            job.photo = b""
            del job  # an error knows this frame, and the job its future and so the error: a circle of 30 MB

    def expected(self, quick: bool, owner: object = None) -> tuple[float, float]:
        """Seconds until a photo that comes now would be begun, and that it is read then, as far as
        is known.
        """
        began = self.times.begun_in(quick, owner, may_go=quick or self._slow_may_go)
        return began, self.times.seconds[quick]

    def took(self, job: Job, seconds: float) -> None:
        """A process has read a photo, for so long."""
        self.read_seconds += seconds
        self.times.took(job.quick, seconds)

    def dispatch(self) -> None:
        """Give the photos whose turn it is to processes that have room."""
        while (found := self._next()) is not None:
            decoder, job = found
            if not job.future.done():
                decoder.send(job)

    def _next(self) -> tuple[Decoder, Job] | None:
        """Quick photos and others take turns, but the others never get the last process that
        reads none of them.
        """
        for quick in (not self._last_quick, self._last_quick):
            job = self._in_time(quick)
            if job is not None and (quick or self._slow_may_go):
                able = (decoder for decoder in self._decoders if decoder.takes(job))
                if (decoder := min(able, key=lambda one: one.load, default=None)) is None:
                    return None  # the next that is idle is for this one
                self._last_quick = quick
                return decoder, self._lines[quick].take()
        return None

    def _in_time(self, quick: bool) -> Job | None:
        """The next of a line. Who waited for more than half of its time, and has less left than one
        takes to be read, is left out for good.
        """
        line = self._lines[quick]
        while (job := line.next()) is not None:
            if not job.ends or job.ends - job.future.get_loop().time() >= min(self.times.seconds[quick], job.half):
                return job
            line.discard(job)
            _expire(job.future)
        return None

    @property
    def _slow_may_go(self) -> bool:
        """Whether a process that reads nothing slow would be left, or there is but one, and no
        other is about to come.
        """
        free = sum(decoder.ready and not decoder.slow for decoder in self._decoders)
        if free > 1 or len(self._decoders) + len(self._dying) == 1:
            return True
        return self._false_starts > 0 and self._able == 1

    async def _guard(self) -> None:
        """Look every `PATIENCE` seconds at processes that take long."""
        while True:
            await asyncio.sleep(PATIENCE)
            for decoder in self._decoders:
                if decoder.starting_seconds > START_SECONDS and not decoder.killed:
                    log.error("a process that decodes photos was not ready after %.0f s: killed", START_SECONDS)
                    decoder.kill("hung")
                if decoder.killed or decoder.reading_seconds <= PATIENCE:
                    continue
                if decoder.reading_seconds > self._longest:
                    log.error(
                        "a process read one photo of %d bytes for %.0f s: killed", decoder.jobs[0].size, self._longest
                    )
                    decoder.jobs[0].deaths = MOST_DEATHS - 1  # its next decides
                    decoder.kill("hung")
                elif decoder.jobs[0].future.done():
                    log.info("a photo of %d bytes is read that nobody waits for any more: killed", decoder.jobs[0].size)
                    decoder.kill("forgotten")
                self._put_back(decoder.taken_back())
            self.dispatch()

    def _put_back(self, jobs: list[Job]) -> None:
        for job in reversed(jobs):
            if not job.future.done():
                self._lines[job.quick].put_back(job)

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
        self._down_since, self._false_starts = None, 0
        self.dispatch()

    def lost(self, decoder: Decoder) -> None:
        """Its socket was closed: it died, or the pool closes."""
        if self._closed or decoder not in self._decoders:
            return
        self._decoders.remove(decoder)
        self._dying.add(decoder)
        if not self._able and self._down_since is None:
            self._down_since = time.monotonic()
        self._false_starts += not decoder.ready
        self._put_back(decoder.taken_back())
        self._spawn(self._replace(decoder))
        self.dispatch()

    async def _replace(self, decoder: Decoder) -> None:
        code = await asyncio.to_thread(reaped, decoder.process)
        self._judge(decoder, code)
        self.dispatch()
        if not decoder.ready:
            await asyncio.sleep(AGAIN_SECONDS)
        while True:
            try:
                await self._start_one()
            except OSError as error:  # no memory or process to be had; perhaps later
                log.error("no process to decode photos can be started: %s", error)
                self._dying.discard(decoder)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._dying.discard(decoder)
                return

    def _judge(self, decoder: Decoder, code: int) -> None:
        """Say why it ended, and what becomes of the photo that it was reading."""
        job = decoder.jobs[0] if decoder.jobs else None
        if job is not None:
            self.took(job, max(decoder.reading_seconds, self.times.seconds[job.quick]))  # it was not done
        if decoder.killed == "forgotten" or code == OUTGROWN:
            self._put_back(list(decoder.jobs)[:1])
            return
        self._on_lost()
        if code == -signal.SIGPROF and job is not None:
            log.warning("a photo of %d bytes took %d ms of processor time: refused", job.size, self._cpu_ms)
            _refuse(job, PhotoError("image_too_costly", TOO_LONG.format(self._cpu_ms)))
            return
        log.error("a process that decodes photos ended with code %d; another is started", code)
        if job is not None:  # it may be to blame: the next death decides
            job.deaths += 1
            if job.deaths >= MOST_DEATHS:
                _refuse(job, PhotoError("bad_image", DEADLY))
            self._put_back([job])

    async def close(self) -> None:
        """End the processes, and what they are doing."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for decoder in (ended := [*self._decoders, *self._dying]):
            decoder.close()
        for decoder in ended:
            await asyncio.to_thread(reaped, decoder.process)
        for job in [*self._lines[True], *self._lines[False]]:
            job.future.cancel()


def _environment() -> dict[str, str]:
    return DEFAULTS | {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }


def _refuse(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _expire(future: asyncio.Future[Pixels]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
