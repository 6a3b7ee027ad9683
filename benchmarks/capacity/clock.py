"""An event loop whose time jumps to the next timer: hours of traffic pass in seconds, through the real code."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class _Jump(selectors.SelectSelector):
    """A selector that never waits: what would be waiting is added to the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that no timer brings about")
        self.now += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Asyncio on a clock that starts at 0; sockets and threads do not work in it."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Simulated seconds."""
        return self._jump.now


def simulate(work: Coroutine[Any, Any, R]) -> R:
    """Run `work` on a simulated clock."""
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
