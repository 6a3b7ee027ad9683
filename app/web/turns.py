"""Requests begin a few at a time: a thousand that came at once must not hold up the event loop.

All that is ready runs in one turn of the loop, and only then does it accept, read, and look at the
clock again. A thousand requests of some milliseconds each, and a health probe would wait for
several turns of seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 16  # requests that begin in one turn of the loop


class Turns:
    """Begins requests in the order in which they come, `AT_ONCE` in each turn of the loop."""

    def __init__(self) -> None:
        self._begun = 0  # in this turn
        self._next: deque[Callable[[], None]] = deque()

    def begin(self, start: Callable[[], None]) -> None:
        """Call `start` now, or when its turn has come."""
        if self._next or self._begun == AT_ONCE:
            self._next.append(start)
        else:
            self._begin(start)

    def _begin(self, start: Callable[[], None]) -> None:
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._turn)
        self._begun += 1
        start()

    def _turn(self) -> None:
        self._begun = 0
        while self._next and self._begun < AT_ONCE:
            self._begin(self._next.popleft())
