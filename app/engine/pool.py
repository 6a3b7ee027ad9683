"""The engines that serve one bundle, each with a thread of its own.

One engine is enough for a CPU, whose cores it uses all. On a GPU a second one, with its own sessions, copies and prepares
a batch while the first computes: a TensorRT session, and any with a CUDA graph, runs one batch at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from app.engine.batches import is_memory
from app.engine.engine import Engine
from app.engine.load import EngineLoad
from app.heap import trim

log = logging.getLogger("food_vision")
R = TypeVar("R")


class EnginePool:
    """Loads up to `size` engines with `make`, and runs functions on whichever is idle.

    `engines` is empty before `load`. Callers hold one of `len(engines)` places (a semaphore) before they call `run`.
    `busy` is told of each call.
    """

    def __init__(self, make: Callable[[int], Engine], size: int, busy: EngineLoad | None = None) -> None:
        self._make = make
        self._size = size
        self._busy = busy or EngineLoad()
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"engine-{i}") for i in range(size)]
        self._made: dict[int, Engine] = {}  # by their threads
        self._idle: list[int] = []
        self._since: dict[int, float] = {}  # engine → when its running call began
        self.engines: list[Engine] = []

    async def load(self) -> None:
        """Make the engines one after the other; when there is no memory for another, the pool stays smaller.

        Raises what `make` raises for the first.
        """
        loop = asyncio.get_running_loop()
        for i, thread in enumerate(self._threads):
            try:
                await loop.run_in_executor(thread, self._load, i)
            except Exception as error:
                if i == 0 or not is_memory(error):
                    raise
                log.warning("no memory for engine %d of %d: %d batch at a time", i + 1, self._size, i)
                return
            self.engines.append(self._made[i])
            self._idle.append(i)

    def _load(self, i: int) -> None:
        self._made[i] = self._make(i)  # returned, it would be lost when nobody waits any more

    @property
    def max_batch(self) -> int:
        """Most photos of one call that every engine takes."""
        return min(engine.max_batch for engine in self.engines)

    @property
    def sizes(self) -> tuple[int, ...]:
        """To which every engine pads a batch; empty where they run it as it is."""
        return min((engine.buckets for engine in self.engines), key=len)

    def run(self, function: Callable[[Engine], R], photos: int = 0) -> asyncio.Future[R]:
        """The function's result on an idle engine, in its thread, where it starts at once.

        `photos`: of the call that it makes; 0 where it makes none.
        """
        i = self._idle[-1]
        running = asyncio.get_running_loop().run_in_executor(self._threads[i], function, self.engines[i])
        self._idle.pop()
        self._since[i] = time.monotonic()
        call = self._busy.begin(self.engines[i].worths[photos]) if photos else None
        running.add_done_callback(lambda _: self._ended(i, call))
        return running

    def _ended(self, i: int, call: object | None) -> None:
        del self._since[i]
        self._idle.append(i)
        if call is not None:
            self._busy.end(call)

    @property
    def longest_call_seconds(self) -> float:
        """How long the oldest running call has been running; 0 when none is."""
        return time.monotonic() - min(self._since.values()) if self._since else 0.0

    async def close(self) -> None:
        """Close every engine in its thread, after what it is doing, and wait until the threads have ended.

        An engine that is still being made is closed too. Nothing happens the second time.
        """
        threads, self._threads, self.engines = self._threads, [], []
        loop = asyncio.get_running_loop()
        closing = [loop.run_in_executor(thread, self._close, i) for i, thread in enumerate(threads)]
        for thread in threads:
            thread.shutdown(wait=False)
        await asyncio.gather(*closing)
        for thread in threads:
            thread.shutdown()  # it has nothing left to do

    def _close(self, i: int) -> None:
        try:
            if (engine := self._made.pop(i, None)) is not None:
                engine.close()
                del engine
        except Exception as error:  # the others are closed all the same
            log.error("engine %d did not close well", i + 1, exc_info=error)
        trim()
