"""The load generator on a simulated clock and network: its own code, exact times, nothing that a busy machine could change.

An answer takes as long as its `Behaviour` sleeps and `WIRE` more. Clients, connections, timers and the thread that keeps
the open loop's time are the real ones; they see this clock, and sockets that are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from benchmarks.capacity.clock import SimulatedLoop
from benchmarks.load import arrivals, client, connection, watch
from benchmarks.load.phase import Plan, run_phase
from tests.benchmarks.load.stand_in_server import CLOSE, Behaviour, Request, good, target

WIRE = 0.001  # seconds between a server's answer and its arrival
LONGEST = 600.0  # simulated seconds of one piece of work
URL = "http://127.0.0.1:1"  # nothing listens there
R = TypeVar("R")


async def at_once(_: Request) -> bytes:
    """A behaviour."""
    return good()


class World(SimulatedLoop):
    """An event loop, its clock, and a server behind every address that answers by `behave` (None: there is none)."""

    def __init__(self, behave: Behaviour | None = at_once) -> None:
        super().__init__()
        self.behave, self.wall, self.processor_seconds = behave, 0.0, 0.0
        self._count, self._hand = iter(range(10**9)), threading.Semaphore(0)

    def stall(self, seconds: float, share: float = 0.0) -> None:
        """The one thread of the client does something else meanwhile, for a share of it on a processor."""
        self._jump.now += seconds
        self.processor_seconds += share * seconds

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """`work`, and the end of what it left behind."""
        late = self.call_later(LONGEST, self.stop)  # what waits for ever while timers go on is an error, and no hang
        try:
            return self.run_until_complete(work)
        finally:
            late.cancel()
            self.run_until_complete(self._end())

    @staticmethod
    async def _end() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def measured(self, plan: Plan, timeout: float = 5.0, warm_up: float = 0.0) -> dict[str, Any]:
        """The figures of a stretch of load."""
        return self.run(run_phase(target(URL, timeout=timeout), plan, warm_up))

    async def create_connection(self, factory: Callable[[], Any], *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """As asyncio's, to `behave`."""
        if self.behave is None:
            await asyncio.sleep(WIRE)
            raise ConnectionRefusedError
        protocol = factory()
        wire = _Wire(self, protocol)
        protocol.connection_made(wire)
        return wire, protocol

    async def answer(self, data: bytes) -> bytes | None:
        """What the server says to a whole request."""
        assert self.behave is not None
        head, _, body = data.partition(b"\r\n\r\n")
        said = await self.behave(Request(next(self._count), head, body))
        await asyncio.sleep(WIRE)
        return said

    # -- a thread that takes turns with the event loop, so that what it does has one order ---------------------------------

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """As asyncio's; the event loop stands still while the thread does anything but wait for an `event`."""
        done: asyncio.Future[Any] = self.create_future()

        def thread() -> None:
            try:
                said, failed = func(*args), None
            except BaseException as error:
                said, failed = None, error
            self.call_soon(self._note, done, said, failed)
            self._hand.release()

        threading.Thread(target=thread, daemon=True).start()
        self._hand.acquire()
        return done

    @staticmethod
    def _note(done: asyncio.Future[Any], said: Any, failed: BaseException | None) -> None:
        if not done.done():
            done.set_exception(failed) if failed is not None else done.set_result(said)

    def event(self) -> _Event:
        """In place of `threading.Event`."""
        return _Event(self, self._hand)


class _Event:
    def __init__(self, loop: asyncio.AbstractEventLoop, hand: threading.Semaphore) -> None:
        self._loop, self._hand, self._set = loop, hand, False
        self._goes = threading.Event()
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        self._set = True
        if self._timer is not None:
            self._timer.cancel()
            self._wake()

    def wait(self, timeout: float) -> bool:
        if not self._set and timeout > 0:
            self._goes.clear()
            self._timer = self._loop.call_later(timeout, self._wake)
            self._hand.release()
            self._goes.wait()
        return self._set

    def _wake(self) -> None:
        self._timer = None
        self._goes.set()
        self._hand.acquire()


class _Wire(asyncio.Transport):
    def __init__(self, world: World, protocol: Any) -> None:
        super().__init__()
        self._world, self._protocol = world, protocol
        self._task: asyncio.Task[None] | None = None

    def write(self, data: Any) -> None:
        self._task = self._world.create_task(self._serve(bytes(data)))

    async def _serve(self, data: bytes) -> None:
        said = await self._world.answer(data)
        if said is CLOSE:
            self._protocol.connection_lost(None)
        else:
            self._protocol.data_received(said)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._world.call_soon(self._protocol.connection_lost, None)


@contextlib.contextmanager
def simulated() -> Iterator[World]:
    """A world whose clock the load generator reads."""
    with contextlib.closing(World()) as world, pytest.MonkeyPatch.context() as patch:
        clock = SimpleNamespace(
            perf_counter=world.time,
            process_time=lambda: world.processor_seconds,
            time=lambda: world.time() + world.wall,
            sleep=world.stall,
        )
        for module in (arrivals, client, connection, watch):
            assert module.time is time, "a module's clock is this one"
            patch.setattr(module, "time", clock)
        patch.setattr(arrivals, "threading", SimpleNamespace(Event=world.event))
        yield world
