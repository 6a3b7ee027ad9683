"""Watches the client itself while it measures: a busy or sleeping client makes a server look slow.

Times are `time.perf_counter`, which no correction of the clock moves. The wall clock is looked at beside it: a machine that
was suspended, or whose clock was set, is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

import numpy as np

TICK = 0.01  # seconds between looks at the event loop
BUSY = 0.8  # share of one core from which the client, one thread, is the bottleneck
LATE = 0.25  # seconds: a pause that spoils what was measured around it
JUMP = 0.25  # seconds between the two clocks that no correction in small steps explains


@dataclass(frozen=True)
class Client:
    """What the client did: its share of one core, how late its event loop woke (ms), how far the clocks came apart (s)."""

    cpu_share: float
    late_p99_ms: float
    late_max_ms: float
    clock_jump_seconds: float

    def warnings(self) -> list[str]:
        """What makes the figures doubtful, in sentences."""
        found = []
        if self.cpu_share > BUSY:
            found.append(
                f"The client used {100 * self.cpu_share:.0f} % of its core: it, and not the server, may be what was "
                "measured. Lower the load, or run several clients."
            )
        if self.late_max_ms > 1000 * LATE:
            found.append(
                f"The client itself slept for up to {self.late_max_ms:.0f} ms: percentiles near the maximum are not the "
                "server's."
            )
        if abs(self.clock_jump_seconds) > JUMP:
            found.append(
                f"The clock jumped by {self.clock_jump_seconds:+.2f} s meanwhile. Times are from a clock that does not "
                "jump, but a machine that slept gives no figures to trust."
            )
        return found


class Watch:
    """`async with Watch() as watch:` around what is measured; then `watch.seen()`."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._seen: Client | None = None

    async def __aenter__(self) -> Watch:
        self._cpu, self._began, self._wall = time.process_time(), time.perf_counter(), time.time()
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._began
        cpu, wall = time.process_time() - self._cpu, time.time() - self._wall
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        late = 1000 * np.array(self._late or [0.0])
        p99, most = float(np.percentile(late, 99)), float(late.max())
        self._seen = Client(round(cpu / seconds, 4), round(p99, 3), round(most, 3), round(wall - seconds, 3))

    def seen(self) -> Client:
        """The client's figures, once the block has ended."""
        assert self._seen is not None
        return self._seen

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self._late.append(time.perf_counter() - due)
