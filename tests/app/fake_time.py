"""An event loop whose time is the story's: where it would wait for a timer, the timer's time has come.

A story has no threads: a timer would not wait for what they do. Its sockets are its own.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

LONGEST = 60  # real seconds to wait for a thread or a socket, where no timer is set: only against hanging


class _Selector(selectors.DefaultSelector):
    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if timeout is not None else LONGEST)
        if not found:
            assert timeout is not None, "the story waits for what never comes"
            self.skipped += timeout
        return found


class FakeTime(asyncio.SelectorEventLoop):
    """Begins at 100 s. What can run runs before the time goes on, however long that takes on this machine."""

    def __init__(self) -> None:
        self._skips = _Selector()
        super().__init__(self._skips)

    def time(self) -> float:
        """Seconds."""
        return 100 + self._skips.skipped


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run a story in which no real time passes."""
    with asyncio.Runner(loop_factory=FakeTime) as runner:
        runner.run(story)
